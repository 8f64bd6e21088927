"""The gateway, with real sockets: managed leases' traffic by the beginning of its path."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.gateway import HOST, Gateway

from .support.live_tunnels import StrictApp, Tunnels

PREFIX = "/m/r_" + 48 * "a"
PUBLIC_URL = f"https://demo.example.com{PREFIX}"


class World:
    """A gateway with one lease, and an app at each of its addresses."""

    def __init__(self, tunnels: Tunnels) -> None:
        self.tunnels = tunnels
        self.gateway = Gateway(request_timeout_s=5)
        self.agent = Agent(patience_s=0)
        self.apps: dict[str, StrictApp] = {}

    async def start(self, *addresses: str, **options: Any) -> None:
        await self.gateway.start()
        options = {"public_url": PUBLIC_URL, "prefix": PREFIX} | options
        self.agent.leases.serve("lease_1", options["public_url"])
        self.gateway.add("lease_1", self.agent, **options)
        for address in addresses:
            app = self.apps[address] = await self.tunnels.app(address or "app")
            self.agent.leases.set_target("lease_1", address, Target(HOST, app.port))

    async def ask(self, path: str, *headers: str, method: str = "GET") -> tuple[int, bytes]:
        lines = [f"{method} {path} HTTP/1.0", "Host: demo.example.com"]
        reader, writer = await asyncio.open_connection(HOST, self.gateway.port)
        writer.write("\r\n".join([*lines, *headers, "", ""]).encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Tunnels() as tunnels:
            world = World(tunnels)
            try:
                await scenario(world)
            finally:
                await world.agent.close()
                await world.gateway.close()

    asyncio.run(main())


def test_a_request_reaches_the_app_without_the_prefix() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        edge = ["X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.7"]

        assert await world.ask(f"{PREFIX}/hooks/1?a=b", *edge) == (200, b"app /hooks/1?a=b")

        (seen,) = world.apps[""].seen
        assert seen.get("x-forwarded-prefix") == [PREFIX]
        assert seen.get("x-forwarded-host") == ["demo.example.com"]
        assert seen.get("x-forwarded-proto") == ["https"]
        assert seen.get("x-forwarded-for") == ["192.0.2.7"]
        assert seen.get("authorization") == []

    run(scenario)


def test_a_caller_cannot_claim_another_host() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        await world.ask(f"{PREFIX}/", "X-Forwarded-Host: evil.example", "Forwarded: host=evil")
        (seen,) = world.apps[""].seen
        assert seen.get("x-forwarded-host") == ["demo.example.com"]
        assert seen.get("x-forwarded-for") == ["127.0.0.1"]

    run(scenario)


def test_what_an_edge_says_of_the_way_is_passed_on_as_it_is() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        edge = ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7", "X-Forwarded-For: ::1"]
        await world.ask(f"{PREFIX}/", *edge)
        (seen,) = world.apps[""].seen
        assert seen.get("x-forwarded-for") == ["192.0.2.7, ::1"]
        assert seen.get("forwarded") == ["for=192.0.2.7"]

    run(scenario)


def test_the_prefix_alone_is_the_root() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        assert await world.ask(PREFIX) == (200, b"app /")
        assert await world.ask(f"{PREFIX}?q") == (200, b"app /?q")

    run(scenario)


def test_addresses_lead_to_their_own_apps() -> None:
    async def scenario(world: World) -> None:
        await world.start("gw0", "gw1")
        assert await world.ask(f"{PREFIX}/~gw1/x") == (200, b"gw1 /x")
        assert await world.ask(f"{PREFIX}/~gw0/x") == (200, b"gw0 /x")
        assert (await world.ask(f"{PREFIX}/~gw7/x"))[0] == 404

    run(scenario)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/m",
        "/m/r_other/x",
        PREFIX[:-1],
        f"{PREFIX}b/x",
        "/__synth/gateway",
        "/m/r_other/__synth/ready",
        f"/x{PREFIX}/",
        PREFIX.replace("/m/", "//m/"),
    ],
)
def test_everything_else_is_404(path: str, refused: Callable[[], list[str]]) -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        status, body = await world.ask(path)
        assert (status, json.loads(body)["code"]) == (404, "route_not_found")
        assert world.apps[""].seen == []
        assert refused() == ["a request from 127.0.0.1: 404 route_not_found"]

    run(scenario)


def test_a_prefix_within_another_one() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        agent = Agent(patience_s=0)
        deeper = f"{PREFIX}/deeper"
        agent.leases.serve("lease_2", PUBLIC_URL + "/deeper")
        world.gateway.add("lease_2", agent, public_url=PUBLIC_URL + "/deeper", prefix=deeper)
        app = await world.tunnels.app("deeper")
        agent.leases.set_target("lease_2", "", Target(HOST, app.port))
        try:
            assert await world.ask(f"{PREFIX}/x") == (200, b"app /x")
            assert await world.ask(f"{deeper}/x") == (200, b"deeper /x")
            assert await world.ask(f"{deeper}er/x") == (200, b"app /deeperer/x")
        finally:
            await agent.close()

    run(scenario)


def test_a_stranger_s_long_path_costs_nothing() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        began = time.process_time()
        for _ in range(3):
            assert (await world.ask("/" * 60_000))[0] == 404
        assert time.process_time() - began < 0.6  # a third of a look-up for each slash

    run(scenario)


def test_the_gateway_says_that_it_runs() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        status, body = await world.ask("/__synth/gateway/health")
        assert (status, json.loads(body)) == (200, {"status": "ok", "gateway": "running"})

    run(scenario)


def test_ready_while_the_app_answers() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        assert (await world.ask(f"{PREFIX}/__synth/ready"))[0] == 200
        assert (await world.ask(f"{PREFIX}/__synth/ready", method="HEAD")) == (200, b"")
        assert [seen.target for seen in world.apps[""].seen] == ["/", "/"]

    run(scenario)


def test_not_ready_without_any_app() -> None:
    async def scenario(world: World) -> None:
        await world.start()
        assert (await world.ask(f"{PREFIX}/__synth/ready"))[0] == 503

    run(scenario)


def test_the_backend_may_ask_elsewhere_whether_a_lease_is_ready() -> None:
    async def scenario(world: World) -> None:
        await world.start("", ready_prefix="/short")
        assert (await world.ask("/short/__synth/ready"))[0] == 200
        assert (await world.ask("/short/x"))[0] == 404
        assert (await world.ask("/short"))[0] == 404

    run(scenario)


def test_a_removed_lease_is_404_and_may_come_back() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        world.gateway.remove("lease_1")
        assert (await world.ask(f"{PREFIX}/x"))[0] == 404
        assert (await world.ask(f"{PREFIX}/__synth/ready"))[0] == 404
        world.gateway.add("lease_1", world.agent, public_url=PUBLIC_URL, prefix=PREFIX)
        assert await world.ask(f"{PREFIX}/x") == (200, b"app /x")

    run(scenario)


def test_a_connection_that_was_kept_is_of_no_use_once_the_lease_is_gone() -> None:
    async def scenario(world: World) -> None:
        await world.start("")
        reader, writer = await asyncio.open_connection(HOST, world.gateway.port)
        ask = f"GET {PREFIX}/x HTTP/1.1\r\nHost: demo.example.com\r\n\r\n".encode()
        writer.write(ask)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(b"app /x"))

        world.gateway.remove("lease_1")

        writer.write(ask)
        assert b" 404 " in await reader.readuntil(b"\r\n\r\n")
        assert len(world.apps[""].seen) == 1
        writer.close()

    run(scenario)


def test_a_taken_port_is_left_to_its_owner() -> None:
    async def scenario(world: World) -> None:
        taken = await world.tunnels.app("other")
        with pytest.raises(OSError, match="in use"):
            await world.gateway.start(taken.port)
        await world.start("")
        assert await world.ask(f"{PREFIX}/x") == (200, b"app /x")

    run(scenario)


def test_a_websocket_goes_through() -> None:
    async def scenario(world: World) -> None:
        await world.start()

        async def echo(connection: ServerConnection) -> None:
            assert connection.request is not None
            await connection.send(connection.request.path)
            async for message in connection:
                await connection.send(message)

        async with websockets.asyncio.server.serve(echo, HOST, 0) as server:
            port = server.sockets[0].getsockname()[1]
            world.agent.leases.set_target("lease_1", "", Target(HOST, port))
            url = f"ws://{HOST}:{world.gateway.port}{PREFIX}/socket?a=b"
            async with websockets.asyncio.client.connect(url) as caller:
                assert await caller.recv() == "/socket?a=b"
                await caller.send("hello")
                assert await caller.recv() == "hello"
                await caller.send(b"\0\1")
                assert await caller.recv() == b"\0\1"

    run(scenario)
