"""Origins over real sockets: what comes to a port of a lease's own, and which ports there are."""

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.backend import origins as origins_module
from pytest_synth_tunnels.backend.origins import HOST, Origins
from pytest_synth_tunnels.http.exchange import IGNORE
from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.sdk.errors import TunnelExpiredError, TunnelUnavailableError

from ..support.live_tunnels import Lease, Tunnels, run, statuses


def port_of(url: str) -> int:
    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.path) == ("http", HOST, "")
    return parts.port or 0


async def send(url: str, request: str) -> bytes:
    """Send a request on a connection of its own, and return all that comes back."""
    reader, writer = await asyncio.open_connection(HOST, port_of(url))
    try:
        writer.write(request.replace("\n", "\r\n").encode("latin-1"))
        return await reader.read()
    finally:
        writer.close()


def get(lease: Lease, path: str = "/", *lines: str) -> str:
    head = [f"GET {path} HTTP/1.1", "Host: app.test:1234", "Connection: close", *lines]
    return "\n".join([*head, f"X-SynthTunnel-Worker-Token: {lease.worker_token}", "", ""])


def listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port_of(url))) == 0


@pytest.mark.parametrize("websocket", [False, True])
def test_the_app_answers_at_the_root(websocket: bool) -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app = await tunnels.app("app")
        lease = tunnels.lease(app.port)
        url = await tunnels.backend.open_origin(lease.id)
        await tunnels.attach(lease, {"": app.port}, websocket=websocket, origins={"": url})
        assert port_of(url) != tunnels.port

        answer = await send(url, get(lease, "/a%2Fb//c?x=1", "X-Forwarded-Prefix: /forged"))

        assert answer.endswith(b"\r\n\r\napp /a%2Fb//c?x=1")
        (seen,) = app.seen
        assert seen.get("x-forwarded-prefix") == []
        assert seen.get("host") == seen.get("x-forwarded-host") == ["app.test:1234"]
        assert seen.get("x-synthtunnel-lease-id") == [lease.id]
        assert seen.get("x-synthtunnel-worker-token") == []

    run(scenario)


def test_the_backend_itself_is_not_there() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        url = await tunnels.backend.open_origin(lease.id)
        for path in ("/v1/tunnels/", lease.prefix, "/api/v1/synthtunnel/agent"):
            await send(url, get(lease, path))
        assert [seen.target for seen in app.seen] == [
            "/v1/tunnels/",
            lease.prefix,
            "/api/v1/synthtunnel/agent",
        ]

    run(scenario)


def test_the_token_is_asked_for() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        url = await tunnels.backend.open_origin(lease.id)
        without = "GET / HTTP/1.1\nHost: a\nConnection: close\n"
        assert statuses(await send(url, f"{without}\n")) == [401]
        assert statuses(await send(url, f"{without}X-SynthTunnel-Worker-Token: wt_no\n\n")) == [401]
        assert app.seen == []
        opened, free = await tunnels.serving("open", metadata={"require_token": False})
        url = await tunnels.backend.open_origin(free.id)
        assert statuses(await send(url, f"{without}\n")) == [200]
        assert len(opened.seen) == 1

    run(scenario)


def test_each_address_has_its_own() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        one, two = await tunnels.app("one"), await tunnels.app("two")
        lease = tunnels.lease(one.port)
        await tunnels.attach(lease, {"gw0": one.port, "gw1": two.port}, websocket=False)
        urls = [await tunnels.backend.open_origin(lease.id, address) for address in ("gw0", "gw1")]
        assert len({port_of(url) for url in urls}) == 2
        assert await tunnels.backend.open_origin(lease.id, "gw1") == urls[1]

        assert (await send(urls[0], get(lease, "/x"))).endswith(b"one /x")
        assert (await send(urls[1], get(lease, "/~gw0/x"))).endswith(b"two /~gw0/x")

    run(scenario)


def test_after_the_lease_it_answers_410() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        url = await tunnels.backend.open_origin(lease.id)
        tunnels.backend.call(requests.close_synth_lease(lease.id))

        answer = await send(url, get(lease))

        assert statuses(answer) == [410]
        assert b"the lease was closed" in answer
        assert app.seen == []
        with pytest.raises(TunnelExpiredError):
            await tunnels.backend.open_origin(lease.id, "gw7")
        with pytest.raises(TunnelExpiredError):
            await tunnels.backend.open_origin("synth_unknown")

    run(scenario)


def test_it_ends_with_the_backend() -> None:
    async def test() -> str:
        async with Tunnels() as tunnels:
            _, lease = await tunnels.serving("app")
            url = await tunnels.backend.open_origin(lease.id)
            assert listens(url)
            kept = await asyncio.open_connection(HOST, port_of(url))
        assert await kept[0].read() == b""
        kept[1].close()
        return url

    assert not listens(asyncio.run(test()))


class Ports:
    """Origins of a relay without agents."""

    def __init__(self, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        self.relay = Relay(loop=loop)
        self.http = HttpServer(lambda _: IGNORE, loop=loop)
        self.origins = Origins(Ingress(self.relay), self.http, **settings)

    def route(self, name: str) -> Route:
        route = Route(lease_id=name, route_token=f"rt_{name}", agent_token=f"at_{name}")
        self.relay.add(route)
        return route


def with_ports(test: Any, **settings: Any) -> None:
    async def main() -> None:
        ports = Ports(**settings)
        try:
            await test(ports)
        finally:
            ports.origins.close_all()
            ports.http.close()
            ports.relay.shut_down()

    asyncio.run(main())


def test_the_oldest_temporary_one_makes_room() -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        worker = await ports.origins.open(route, "gw0", permanent=True)
        first = await ports.origins.open(route, "t1", permanent=False)
        second = await ports.origins.open(route, "t2", permanent=False)

        third = await ports.origins.open(route, "t3", permanent=False)

        assert [listens(url) for url in (worker, first, second, third)] == [True, False, True, True]

    with_ports(test, max_origins=3)


def test_one_whose_lease_is_over_makes_room_first() -> None:
    async def test(ports: Ports) -> None:
        test_address = await ports.origins.open(ports.route("a"), "t1", permanent=False)
        over = await ports.origins.open(ports.route("b"), "", permanent=True)
        ports.relay.close("b", "it was closed")

        new = await ports.origins.open(ports.route("c"), "", permanent=True)

        assert [listens(url) for url in (test_address, over, new)] == [True, False, True]

    with_ports(test, max_origins=2)


def test_few_allowed_files_mean_few_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        urls = [await ports.origins.open(route, f"t{i}", permanent=False) for i in range(3)]

        assert [listens(url) for url in urls] == [False, True, True]

    monkeypatch.setattr(origins_module, "open_files_allowed", lambda: 3)
    with_ports(test)


def test_permanent_ones_of_live_leases_stay() -> None:
    async def test(tunnels: Tunnels) -> None:
        _, lease = await tunnels.serving("app")
        origins = tunnels.backend._running.origins
        origins._max_origins = 1
        url = await tunnels.backend.open_origin(lease.id)
        with pytest.raises(TunnelUnavailableError, match="close some leases"):
            await tunnels.backend.open_origin(lease.id, "gw1")
        assert listens(url)

    run(test)


def test_a_port_is_used_again_as_late_as_possible() -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        seen = [await ports.origins.open(route, f"t{n}", permanent=False) for n in range(500)]
        assert len(set(seen)) == len(seen)

    with_ports(test, max_origins=2)


def test_without_a_fresh_port_the_one_closed_longest_ago_is_used() -> None:
    async def test(ports: Ports) -> None:
        retired = ports.origins._retired
        retired.update(dict.fromkeys(range(1, 65_536)))

        url = await ports.origins.open(ports.route("l"), "", permanent=True)

        assert port_of(url) not in retired
        assert len(retired) == 65_534
        assert listens(url)

    with_ports(test)


def test_a_machine_that_lets_nobody_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, *_: Any) -> None:
            raise OSError(24, "Too many open files")

    async def test(tunnels: Tunnels) -> None:
        _, lease = await tunnels.serving("app")
        with monkeypatch.context() as patch:
            patch.setattr("pytest_synth_tunnels.backend.origins.socket.socket", Full)
            with pytest.raises(TunnelUnavailableError, match="Too many open files"):
                await tunnels.backend.open_origin(lease.id)
        assert listens(await tunnels.backend.open_origin(lease.id))

    run(test)


def test_callers_of_all_origins_count_together() -> None:
    async def test() -> None:
        async with Tunnels(limits=Limits(max_unauthenticated_connections=2)) as tunnels:
            _, lease = await tunnels.serving("app")
            urls = [await tunnels.backend.open_origin(lease.id, name) for name in ("a", "b")]
            opened = [await asyncio.open_connection(HOST, port_of(urls[0])) for _ in range(2)]

            assert statuses(await send(urls[1], get(lease))) == [503]

            for _, writer in opened:
                writer.close()

    asyncio.run(test())


def test_one_that_is_closed_takes_its_own_connections_along() -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        urls = [await ports.origins.open(route, name, permanent=False) for name in ("t1", "t2")]
        ends = [await asyncio.open_connection(HOST, port_of(url)) for url in urls]
        while len(ports.http.limiter.connections) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)

        await ports.origins.open(route, "t3", permanent=False)

        assert await ends[0][0].read() == b""
        assert len(ports.http.limiter.connections) == 1
        for _, writer in ends:
            writer.close()

    with_ports(test, max_origins=2)
