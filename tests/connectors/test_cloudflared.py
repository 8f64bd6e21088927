"""The connectors of Cloudflare's tunnels: with a stand-in that carries traffic, and with the real
program where there is one."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.connectors.base import Assignment, ConnectorError
from pytest_synth_tunnels.connectors.cloudflared import CloudflaredConnector
from pytest_synth_tunnels.connectors.cloudflared_quick import CloudflaredQuickConnector
from pytest_synth_tunnels.connectors.program import ProgramConnector
from pytest_synth_tunnels.sdk import requests

from ..support.live_tunnels import StrictApp, Tunnels, run, statuses
from ..support.processes import gone, seen_by_all, until
from ..support.standins import cloudflared as standin

PATH = os.environ["PATH"]
REAL = shutil.which("cloudflared")
needs_real = pytest.mark.skipif(REAL is None, reason="there is no cloudflared in the PATH")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def pid_of(connector: ProgramConnector) -> int:
    assert connector._supervisor is not None
    process: Any = connector._supervisor._process
    return int(process.pid)


class Managed:
    """A managed lease of an embedded backend, whose edge the stand-in dials, and a gateway."""

    def __init__(self, tunnels: Tunnels, gateway: StrictApp, directory: Path) -> None:
        lease = tunnels.backend.call(
            requests.create_lease(
                client_instance_id="client-12345678",
                local_host="127.0.0.1",
                local_port=gateway.port,
                provider_preference="cloudflared",
            )
        )
        self.lease: dict[str, Any] = lease
        self.tunnels = tunnels
        self.token = str(lease["tunnel_token"])
        self.program = standin.install(
            directory,
            STANDIN_EDGE_URL=lease["edge_url"],
            STANDIN_TUNNEL_ID=lease["managed_tunnel_id"],
            STANDIN_TOKEN=self.token,
        )
        self.assignment = Assignment(
            f"http://127.0.0.1:{gateway.port}",
            lease,
            {"PATH": PATH, "SYNTH_API_KEY": "sk_of_the_run"},
            cloudflared=str(self.program),
        )

    async def get(self, path: str) -> bytes:
        """Get a path of the public URL."""
        prefix = self.lease["route_prefix"]
        request = f"GET {prefix}{path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n"
        return await self.tunnels.send(request.encode())


def managed(directory: Path, scenario: Callable[[Managed], Awaitable[None]]) -> None:
    async def main(tunnels: Tunnels) -> None:
        await scenario(Managed(tunnels, await tunnels.app("gateway"), directory))

    run(main)


def test_a_stand_in_carries_traffic(tmp_path: Path) -> None:
    async def scenario(managed: Managed) -> None:
        connector = CloudflaredConnector(managed.assignment)
        await connector.start()
        try:
            assert await connector.ready() is None
            answer = await managed.get("/a%20b?c")
            assert answer.endswith(f"gateway {managed.lease['route_prefix']}/a%20b?c".encode())
            assert any("Registered tunnel connection" in line for line in connector.logs())
            pid = pid_of(connector)
        finally:
            await connector.stop()
        await gone(pid)
        assert "Unregistered tunnel connection" in repr(connector.logs())
        assert managed.token not in repr((connector.logs(), connector.assignment))

    managed(tmp_path, scenario)


@linux
def test_what_others_can_see_of_it(tmp_path: Path) -> None:
    async def scenario(managed: Managed) -> None:
        connector = CloudflaredConnector(managed.assignment)
        await connector.start()
        try:
            await connector.ready()
            pid = pid_of(connector)
            command = await asyncio.to_thread(Path(f"/proc/{pid}/cmdline").read_bytes)
            assert managed.token.encode() not in command
            assert b"\0--no-autoupdate\0run\0" in command
            assert b"sk_of_the_run" not in seen_by_all(pid)
        finally:
            await connector.stop()

    managed(tmp_path, scenario)


def test_one_that_is_killed_costs_no_get(tmp_path: Path) -> None:
    async def scenario(managed: Managed) -> None:
        connector = CloudflaredConnector(managed.assignment)
        await connector.start()
        try:
            await connector.ready()
            os.kill(pid_of(connector), signal.SIGKILL)
            assert statuses(await managed.get("/x")) == [200]
            await connector.ready()
        finally:
            await connector.stop()

    managed(tmp_path, scenario)


def test_an_edge_that_takes_another_token_now(tmp_path: Path) -> None:
    async def scenario(managed: Managed) -> None:
        connector = CloudflaredConnector(managed.assignment)
        await connector.start()
        try:
            await connector.ready()
            relay = managed.tunnels.backend._running.relay
            relay.rotate_agent(managed.lease["managed_tunnel_id"], "tt_another")
            await until(lambda: "Unauthorized" in connector.status().error)
            with pytest.raises(ConnectorError, match="Unauthorized: Invalid tunnel secret"):
                await connector.ready()
        finally:
            await connector.stop()

    managed(tmp_path, scenario)


def test_a_quick_tunnel(tmp_path: Path) -> None:
    async def scenario(managed: Managed) -> None:
        assignment = Assignment(
            managed.assignment.gateway_url, {}, {"PATH": PATH}, str(managed.program)
        )
        connector = CloudflaredQuickConnector(assignment)
        await connector.start()
        try:
            assert await connector.ready() == "https://made-of-four-words.trycloudflare.com"
            assert statuses(await managed.get("/x")) == [200]
        finally:
            await connector.stop()

    managed(tmp_path, scenario)


def failure(
    kind: type[ProgramConnector], lease: dict[str, str], path: str = PATH, **options: Any
) -> ConnectorError:
    """Return how a connector fails, within seconds."""
    connector = kind(Assignment("http://127.0.0.1:9", lease, {"PATH": path}, **options))

    async def main() -> ConnectorError:
        try:
            async with asyncio.timeout(20):
                await connector.start()
                await connector.ready()
        except ConnectorError as error:
            return error
        finally:
            await connector.stop()
        pytest.fail("it did not fail")

    error = asyncio.run(main())
    for value in lease.values():
        assert value not in str(error) + repr(connector.logs())
    return error


@pytest.mark.parametrize("kind", [CloudflaredConnector, CloudflaredQuickConnector])
@pytest.mark.parametrize("name", [None, "/no/such/cloudflared", "cloudflared-of-mine"])
def test_no_program(kind: type[ProgramConnector], name: str | None, tmp_path: Path) -> None:
    error = failure(kind, {"tunnel_token": "tt_1234567"}, path=str(tmp_path), cloudflared=name)

    assert repr(name or "cloudflared") in error.message
    for part in ("brew install cloudflared", "winget", "/downloads/", "synth_tunnels_cloudflared"):
        assert part in error.hint


def test_no_token(tmp_path: Path) -> None:
    program = str(standin.install(tmp_path))
    assert "lease has no tunnel_token" in str(
        failure(CloudflaredConnector, {}, cloudflared=program)
    )


def bad_token(program: str | None) -> None:
    error = failure(CloudflaredConnector, {"tunnel_token": "no_token"}, cloudflared=program)

    assert error.message == "cloudflared is not connected: Provided Tunnel token is not valid."
    assert "not accepted" in error.hint


def test_a_token_that_is_none(tmp_path: Path) -> None:
    bad_token(str(standin.install(tmp_path)))


@needs_real
def test_the_real_one_with_a_token_that_is_none() -> None:
    bad_token(REAL)


@needs_real
def test_the_real_one_that_cannot_reach_its_edge() -> None:
    token = standin.tunnel_token("11111111-2222-3333-4444-555555555555")
    error = failure(CloudflaredConnector, {"tunnel_token": token})

    assert "edge discovery: error looking up Cloudflare edge IPs" in error.message
    assert "port 7844" in error.hint


@needs_real
def test_a_real_quick_tunnel_that_cannot_be_asked_for() -> None:
    error = failure(CloudflaredQuickConnector, {})

    assert "failed to request quick Tunnel" in error.message
    assert "api.trycloudflare.com" in error.hint
