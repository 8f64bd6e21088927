"""The loopback connector, its process included, with a real relay."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from pytest_synth_tunnels.connectors.base import Assignment, ConnectorError, ConnectorStatus
from pytest_synth_tunnels.connectors.loopback import LoopbackConfig, LoopbackConnector, serve
from pytest_synth_tunnels.sdk import requests

from ..support.live_tunnels import Lease, StrictApp, Tunnels, run, statuses
from ..support.processes import gone, seen_by_all, until

ENVIRON = {"PATH": os.environ["PATH"], "SYNTH_API_KEY": "sk_of_the_run"}


def assignment(lease: Lease, gateway: StrictApp, **changes: Any) -> Assignment:
    whole = {
        "edge_url": lease.agent_url,
        "tunnel_token": lease.agent_token,
        "managed_tunnel_id": lease.id,
        "public_url": lease.public_url,
    }
    return Assignment(f"http://127.0.0.1:{gateway.port}", whole | changes, ENVIRON)


def pid_of(connector: LoopbackConnector) -> int:
    assert connector._supervisor is not None
    process: Any = connector._supervisor._process
    return int(process.pid)


def test_it_carries_traffic_and_leaves_nothing() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = tunnels.lease(gateway.port)
        connector = LoopbackConnector(assignment(lease, gateway))
        assert not connector.status().connected

        await connector.start()
        await connector.start()
        try:
            assert await connector.ready() is None
            assert connector.status() == ConnectorStatus(True)
            assert connector.logs() == ["connected"]
            pid = pid_of(connector)
            answer = await tunnels.send(lease.get("/m/r_1/~x?y=%20", close=True))
            assert answer.endswith(b"gateway /m/r_1/~x?y=%20")
            for secret in (lease.agent_token, "sk_of_the_run"):
                assert secret.encode() not in seen_by_all(pid)
        finally:
            await connector.stop()
        await connector.stop()
        await gone(pid)
        assert connector.status() == ConnectorStatus(False, "the loopback connector was stopped")

    run(scenario)


def test_a_managed_lease_of_the_embedded_backend() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = tunnels.backend.call(
            requests.create_lease(
                client_instance_id="client-12345678", local_host="127.0.0.1", local_port=1
            )
        )
        connector = LoopbackConnector(Assignment(f"http://127.0.0.1:{gateway.port}", lease))
        await connector.start()
        try:
            await connector.ready()
            path = f"{lease['route_prefix']}/x"
            head = f"GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n"
            answer = await tunnels.send(head.encode())
            assert answer.endswith(f"gateway {path}".encode())
        finally:
            await connector.stop()

    run(scenario)


def test_one_that_is_killed_costs_no_get() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = tunnels.lease(gateway.port)
        connector = LoopbackConnector(assignment(lease, gateway))
        await connector.start()
        try:
            await connector.ready()
            answers, killed = [], []
            for kill in (False, True, False):
                if kill:
                    killed.append(pid_of(connector))
                    os.kill(killed[-1], signal.SIGKILL)
                answers.append(await tunnels.send(lease.get("/x", close=True)))
            assert [statuses(answer) for answer in answers] == [[200]] * 3
            await connector.ready()
            assert pid_of(connector) not in killed
        finally:
            await connector.stop()

    run(scenario)


def test_a_relay_that_goes_away_is_seen_and_comes_back() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = tunnels.lease(gateway.port)
        connector = LoopbackConnector(assignment(lease, gateway))
        await connector.start()
        try:
            await connector.ready()
            route = tunnels.backend._running.relay.by_lease(lease.id)
            assert route is not None
            tunnels.backend._running.relay.rotate_agent(lease.id, "at_another")
            await until(lambda: not connector.status().connected)
            assert "offline: " in connector.status().error
            await until(lambda: "401" in connector.status().error)
            route.agent_token = lease.agent_token
            await connector.ready()
            assert connector.status().connected
            assert lease.agent_token not in repr(connector.logs())
        finally:
            await connector.stop()

    run(scenario)


@pytest.mark.parametrize("name", ["edge_url", "tunnel_token", "managed_tunnel_id", "public_url"])
def test_a_lease_that_lacks_something(name: str) -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        connector = LoopbackConnector(
            assignment(tunnels.lease(gateway.port), gateway, **{name: None})
        )
        with pytest.raises(ConnectorError, match=f"lease has no {name}"):
            await connector.start()
        await connector.stop()

    run(scenario)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"managed_tunnel_id": "another"}, "refused: the relay does not take this agent"),
        ({"tunnel_token": "at_nobody's"}, "offline: the relay answered 401"),
    ],
)
def test_what_the_relay_refuses_is_the_end(change: dict[str, str], part: str) -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = tunnels.lease(gateway.port)
        connector = LoopbackConnector(assignment(lease, gateway, **change))
        await connector.start()
        try:
            with pytest.raises(ConnectorError, match=part):
                await connector.ready()
            assert part in connector.status().error
        finally:
            await connector.stop()

    run(scenario)


def test_what_its_process_does() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = tunnels.lease(gateway.port)
        said: list[str] = []
        ended = asyncio.Event()
        config = LoopbackConfig(
            url=lease.agent_url,
            token=lease.agent_token,
            lease_id=lease.id,
            public_url=tunnels.backend.url,
            target=f"http://127.0.0.1:{gateway.port}",
        )
        serving = asyncio.create_task(serve(config, said.append, ended))
        await until(lambda: said)
        assert said == ["connected"]
        assert statuses(await tunnels.send(lease.get("/x", close=True))) == [200]
        ended.set()
        await serving
        await until(lambda: not tunnels.backend._running.relay.by_lease(lease.id).connected)  # type: ignore[union-attr]

    run(scenario)


KEEPER = """
import asyncio, json, os, sys
from pytest_synth_tunnels.connectors.base import Assignment
from pytest_synth_tunnels.connectors.loopback import LoopbackConnector

async def keep():
    assignment = Assignment("http://127.0.0.1:9", json.load(sys.stdin), os.environ)
    connector = LoopbackConnector(assignment)
    await connector.start()
    await connector.ready()
    print(connector._supervisor._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(keep())
"""


def test_it_ends_with_a_keeper_that_is_killed() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = assignment(tunnels.lease(gateway.port), gateway).lease
        keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(json.dumps(dict(lease)).encode())
        keeper.stdin.close()
        pid = int(await keeper.stdout.readline())
        keeper.kill()
        await keeper.wait()
        await gone(pid)

    run(scenario)
