"""Managed leases against a backend and connectors that do what the test says.

The gateway, the agent and the traffic are real.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, ClassVar

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.connectors.base import Assignment, ConnectorStatus
from pytest_synth_tunnels.keeper.backend_client import BackendClient, EmbeddedBackendClient
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.heartbeat import Beat
from pytest_synth_tunnels.keeper.leases.lease import HeldLease
from pytest_synth_tunnels.keeper.leases.spec import LeaseSpec
from pytest_synth_tunnels.keeper.leases.state import LeaseState
from pytest_synth_tunnels.keeper.transports.connector_pool import ConnectorPool
from pytest_synth_tunnels.keeper.transports.gateway_pool import GatewayPool
from pytest_synth_tunnels.keeper.transports.managed import ManagedTransport
from pytest_synth_tunnels.keeper.transports.route_manager import RouteContext
from pytest_synth_tunnels.sdk.errors import from_status
from pytest_synth_tunnels.sdk.requests import Request

NOW = 1_800_000_000.0
TTL_S = 3_600
ENDS = "2027-01-15T09:00:00+00:00"
REFRESHED = "2027-01-15T12:00:00+00:00"


class FakeManagedBackend:
    """A backend client whose leases' public URLs are the gateway's own."""

    url = "https://backend.example"
    api_key = "sk"
    embedded = False

    def __init__(self, gateway_port: int) -> None:
        self.gateway_port = gateway_port
        self.asked: list[tuple[str, str, Any]] = []
        self.actions: list[str] = []
        """What the next heartbeats' answers ask for."""
        self.refusals: dict[str, Exception] = {}
        """By the end of a path."""
        self.leases: dict[str, dict[str, Any]] = {}
        self.by_key: dict[str, str] = {}
        self.prefix = "/m/r_" + 48 * "a"
        self.tunnel_token = ""
        """Of all leases; each has its own unless given."""
        self.changes: dict[str, Any] = {}
        """To the answers of creates."""
        self._numbers = count(1)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def attach(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("managed leases have no agent at the relay")

    def client_id(self) -> str:
        return "client-00000000"

    async def call(self, request: Request) -> Any:
        return self.call_from_thread(request)

    def call_from_thread(self, request: Request) -> Any:
        self.asked.append((request.method, request.path, request.body))
        path = request.path.removeprefix("/v1/tunnels")
        for end, error in self.refusals.items():
            if path.endswith(end):
                raise error
        if path == "/lease":
            return self._create(request.body) if request.method == "POST" else self._list()
        if path == "/rotate":
            for lease in self.leases.values():
                lease["tunnel_token"] += "+"
            return {"status": "rotated"}
        lease_id, _, verb = path.removeprefix("/lease/").partition("/")
        if lease_id not in self.leases:
            raise from_status(404, {"code": "not_found", "message": "no such lease"}, where="here")
        lease = self.leases[lease_id]
        if verb == "heartbeat":
            action = self.actions.pop(0) if self.actions else "none"
            return {**lease, "action": action, "next_heartbeat_seconds": 7}
        if verb == "refresh":
            lease["expires_at"] = REFRESHED
        if verb == "release":
            lease["status"] = "released"
        return dict(lease)

    def _create(self, body: Any) -> dict[str, Any]:
        key = body["idempotency_key"]
        if key not in self.by_key:
            number = next(self._numbers)
            prefix = self.prefix if number == 1 else f"{self.prefix}{number}"
            self.by_key[key] = f"lease_{number}"
            self.leases[f"lease_{number}"] = {
                "lease_id": f"lease_{number}",
                "status": "pending",
                "public_url": f"http://127.0.0.1:{self.gateway_port}{prefix}",
                "route_prefix": prefix,
                "tunnel_token": self.tunnel_token or f"tt_{number}",
                "gateway_port": self.gateway_port,
                "expires_at": ENDS,
            }
        return self.leases[self.by_key[key]] | self.changes

    def _list(self) -> list[dict[str, Any]]:
        return [dict(lease) for lease in self.leases.values()]

    def said(self, end: str) -> list[Any]:
        """Return the bodies of the calls whose path ends so."""
        return [body for _, path, body in self.asked if path.endswith(end)]


class FakeConnector:
    """A connector of a plugin, which does what the test says."""

    brings_url: ClassVar[bool] = False
    is_public: ClassVar[bool] = False
    made: ClassVar[list["FakeConnector"]] = []
    fails: ClassVar[Exception | None] = None
    hangs: ClassVar[bool] = False

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.state = "new"
        self.error = ""
        self.stopped = asyncio.Event()
        self.made.append(self)

    async def start(self) -> None:
        self.state = "started"

    async def ready(self) -> str | None:
        if self.fails is not None:
            raise self.fails
        if self.hangs:
            self.error = "dialling"
            await asyncio.Event().wait()
        self.state = "connected"
        return None

    def status(self) -> ConnectorStatus:
        return ConnectorStatus(self.state == "connected", self.error)

    async def stop(self) -> None:
        self.state = "stopped"
        self.stopped.set()

    def logs(self) -> list[str]:
        return ["line one", "line two"]


class PublicConnector(FakeConnector):
    is_public = True


class OwnUrlConnector(FakeConnector):
    brings_url = True
    origin: ClassVar[str] = ""

    async def ready(self) -> str | None:
        await super().ready()
        return self.origin or self.assignment.gateway_url


class ManagedLeases:
    """The backend, the connectors and the gateways that the managed leases of a test share."""

    def __init__(self, **options: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.backend = FakeManagedBackend(free.getsockname()[1])
        self.now = NOW
        self.told: list[tuple[str, str]] = []
        self._own_backend = EmbeddedBackendClient(5)
        self._starting = asyncio.Lock()
        self._gateway_pool = GatewayPool(5)
        self._connector_pool = ConnectorPool(
            environ={},
            cloudflared=None,
            registered={
                "fake": f"{__name__}:FakeConnector",
                "public": f"{__name__}:PublicConnector",
                "own-url": f"{__name__}:OwnUrlConnector",
            },
            idle_s=options.pop("idle_s", 30),
        )
        self.timeout_s: float = options.pop("timeout_s", 10)
        assert not options

    def lease(self, provider: str = "fake", **options: Any) -> HeldLease:
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        started.set_result(None)
        spec = LeaseSpec(port=8000, ttl_s=TTL_S, metadata={"name": "hooks"}, **options)
        transport = ManagedTransport(
            provider,
            spec,
            Agent(patience_s=0),
            context=RouteContext(
                backend_client=self.backend,
                find_backend=self._find_backend,
                gateway_pool=self._gateway_pool,
                connector_pool=self._connector_pool,
            ),
            timeout_s=self.timeout_s,
            now=lambda: self.now,
        )
        return HeldLease(
            transport,
            started=started,
            on_event=lambda lease, kind, message: self.told.append((kind, message)),
            now=lambda: self.now,
        )

    async def _find_backend(self, needs_none: bool) -> tuple[BackendClient, None]:
        if not needs_none:
            return self.backend, None
        async with self._starting:
            if not self._own_backend.url:
                await self._own_backend.start()
        return self._own_backend, None

    async def beat(self, lease: HeldLease, *actions: str) -> Beat:
        """Beat once, as the heartbeat's thread does, and let what is asked for be done."""
        self.backend.actions[:] = actions
        found = await asyncio.to_thread(lease.transport.beat)
        await asyncio.sleep(0)
        obeying = lease.transport.actions.task  # type: ignore[attr-defined]
        if obeying is not None:
            await asyncio.wait([obeying])
        return found

    async def close(self) -> None:
        await self._connector_pool.close()
        await self._gateway_pool.close()
        await self._own_backend.close()


def run(
    scenario: Callable[[ManagedLeases], Coroutine[Any, Any, None]], **options: Any
) -> ManagedLeases:
    async def main() -> ManagedLeases:
        FakeConnector.made.clear()
        managed = ManagedLeases(**options)
        async with asyncio.timeout(30):
            try:
                await scenario(managed)
            finally:
                await managed.close()
        return managed

    return asyncio.run(main())


async def ask(url: str) -> tuple[int, bytes]:
    """GET a URL of this machine."""
    host, slash, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET {slash}{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def serve(lease: HeldLease, address: str = "") -> asyncio.Server:
    """Serve an app behind a tunnel."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readuntil(b"\r\n\r\n")
            body = b"app " + line.split()[1]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        except (EOFError, OSError):
            pass  # the caller asked only whether somebody listens
        finally:
            writer.close()

    server = await asyncio.start_server(app, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    lease.targets.set_target(address, Target("127.0.0.1", port))
    return server


async def failure_of(lease: HeldLease) -> KeeperRequestError:
    """Return why a lease fails, and release it."""
    with pytest.raises(KeeperRequestError) as caught:
        await lease.ready()
    assert lease.state is LeaseState.FAILED
    assert await lease.release(5) is None
    return caught.value
