"""Managed leases against a backend and connectors that do what the test says; the gateway, the
agent and the traffic are real."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, ClassVar

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.connectors.base import Assignment, ConnectorError, ConnectorStatus
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.heartbeat import Beat
from pytest_synth_tunnels.keeper.leases.lease import HeldLease
from pytest_synth_tunnels.keeper.leases.spec import LeaseSpec
from pytest_synth_tunnels.keeper.leases.state import LeaseState
from pytest_synth_tunnels.keeper.transports.backends import Backends
from pytest_synth_tunnels.keeper.transports.connector_pool import ConnectorPool
from pytest_synth_tunnels.keeper.transports.gateway_pool import GatewayPool
from pytest_synth_tunnels.keeper.transports.managed import ManagedTransport
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError, TunnelError, from_status
from pytest_synth_tunnels.sdk.requests import Request

NOW = 1_800_000_000.0
TTL_S = 3_600
ENDS = "2027-01-15T09:00:00+00:00"
REFRESHED = "2027-01-15T12:00:00+00:00"


class FakeBackend:
    """A plane whose leases' public URLs are the gateway's own."""

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
    """A connector of a plugin, which does what the test's world says."""

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


class World:
    def __init__(self, **options: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.backend = FakeBackend(free.getsockname()[1])
        self.now = NOW
        self.told: list[tuple[str, str]] = []
        self.backends = Backends(self.backend, None, 5)
        self.gateways = GatewayPool(5)
        self.connections = ConnectorPool(
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

    def tunnel(self, provider: str = "fake") -> HeldLease:
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        started.set_result(None)
        request = LeaseSpec(port=8000, ttl_s=TTL_S, metadata={"name": "hooks"})
        carrier = ManagedTransport(
            provider,
            request,
            Agent(patience_s=0),
            backends=self.backends,
            gateways=self.gateways,
            connections=self.connections,
            timeout_s=self.timeout_s,
            now=lambda: self.now,
        )
        return HeldLease(
            carrier,
            started=started,
            tell=lambda tunnel, kind, message: self.told.append((kind, message)),
            now=lambda: self.now,
        )

    async def beat(self, tunnel: HeldLease, *actions: str) -> Beat:
        """Beat once, as the heartbeat's thread does, and let what is asked for be done."""
        self.backend.actions[:] = actions
        found = await asyncio.to_thread(tunnel.carrier.beat)
        await asyncio.sleep(0)
        obeying = tunnel.carrier.orders.task  # type: ignore[attr-defined]
        if obeying is not None:
            await asyncio.wait([obeying])
        return found

    async def close(self) -> None:
        await self.connections.close()
        await self.gateways.close()
        await self.backends.close()


@pytest.fixture(autouse=True)
def _fresh_connectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeConnector, "made", [])


def run(scenario: Callable[[World], Coroutine[Any, Any, None]], **options: Any) -> World:
    async def main() -> World:
        world = World(**options)
        async with asyncio.timeout(30):
            try:
                await scenario(world)
            finally:
                await world.close()
        return world

    return asyncio.run(main())


async def ask(url: str) -> tuple[int, bytes]:
    """GET a URL of this machine."""
    host, slash, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET {slash}{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def serve(tunnel: HeldLease, address: str = "") -> asyncio.Server:
    """Serve an app behind a tunnel."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n\r\n")
        body = b"app " + line.split()[1]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(app, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tunnel.serving.set_target(address, Target("127.0.0.1", port))
    return server


def test_the_whole_life_of_a_lease() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        async with await serve(tunnel):
            await tunnel.ready()
            assert tunnel.life.state is LeaseState.ACTIVE
            assert await ask(tunnel.url("") + "/x") == (200, b"app /x")
            info = tunnel.info("")
            assert (info.provider, info.worker_token) == ("fake", None)
            assert await tunnel.release(5) is None
            assert tunnel.life.state is LeaseState.RELEASED
            assert (await ask(info.public_url + "/x"))[0] == 404

    world = run(scenario)
    methods = [(method, path.rpartition("/")[2]) for method, path, _ in world.backend.asked]
    assert methods == [
        ("POST", "lease"),
        ("POST", "heartbeat"),
        ("POST", "release"),
        ("DELETE", "lease_1"),
    ]
    (create,) = world.backend.said("/lease")
    assert create["provider_preference"] == "cloudflared"
    assert create["requested_ttl_seconds"] == TTL_S
    assert create["local_port"] == 8000
    assert create["app_name"] == "hooks (fake)"
    assert len(create["idempotency_key"]) >= 32
    (connector,) = FakeConnector.made
    assert connector.state == "stopped"
    assert connector.assignment.lease["tunnel_token"] == "tt_1"
    assert connector.assignment.gateway_url.endswith(str(world.backend.gateway_port))


def test_heartbeats_tell_the_truth() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        # The first beat comes with the lease.
        assert tunnel.carrier.interval_s == 7
        FakeConnector.made[0].state, FakeConnector.made[0].error = "broken", "edge lost"
        async with await serve(tunnel):
            beat = await world.beat(tunnel)
        assert (beat.alive, beat.attached, beat.reason) == (True, False, "edge lost")
        await tunnel.release(5)

    world = run(scenario)
    assert world.backend.said("/heartbeat") == [
        {
            "connected_to_edge": True,
            "gateway_ready": True,
            "local_ready": False,
            "last_error": None,
        },
        {
            "connected_to_edge": False,
            "gateway_ready": True,
            "local_ready": True,
            "last_error": "edge lost",
        },
    ]


def test_the_time_of_a_lease_is_begun_anew_before_it_ends() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.now += TTL_S / 3 - 1
        await world.beat(tunnel)
        assert world.backend.said("/refresh") == []
        world.now += 2
        beat = await world.beat(tunnel)
        assert world.backend.said("/refresh") == [{"requested_ttl_seconds": TTL_S}]
        assert beat.expires_at is not None
        assert beat.expires_at > NOW + TTL_S
        assert tunnel.carrier.expires_at == REFRESHED
        await tunnel.release(5)

    run(scenario)


def test_a_lease_that_the_backend_forgot_is_lost() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.backend.leases.clear()
        beat = await world.beat(tunnel)
        assert (beat.alive, beat.reason) == (False, "here answered 404: no such lease")
        assert await tunnel.release(5) is None

    run(scenario)


def test_a_backend_that_is_down_for_a_beat_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.backend.refusals["/heartbeat"] = TunnelConnectionError("connection refused")
        with pytest.raises(TunnelError):
            await world.beat(tunnel)
        assert tunnel.life.state is LeaseState.ACTIVE
        await tunnel.release(5)

    run(scenario)


# --- what the backend asks for


def test_the_connector_is_restarted() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        async with await serve(tunnel):
            await tunnel.ready()
            url = tunnel.url("")
            await world.beat(tunnel, "restart_connector")
            assert [connector.state for connector in FakeConnector.made] == ["stopped", "connected"]
            assert (await tunnel.carrier.status())["connector"]["starts"] == 2
            assert tunnel.url("") == url
            assert await ask(f"{url}/x") == (200, b"app /x")
        assert world.told == []
        await tunnel.release(5)

    run(scenario)


def test_the_tunnel_is_rotated() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        async with await serve(tunnel):
            await tunnel.ready()
            await world.beat(tunnel, "rotate_tunnel")
            assert await ask(tunnel.url("") + "/x") == (200, b"app /x")
        assert tunnel.lease_id == "lease_1"
        tokens = [connector.assignment.lease["tunnel_token"] for connector in FakeConnector.made]
        assert tokens == ["tt_1", "tt_1+"]
        await tunnel.release(5)

    world = run(scenario)
    (rotation,) = world.backend.said("/rotate")
    assert rotation["local_port"] == world.backend.gateway_port
    one, again = world.backend.said("/lease")
    assert one == again


def test_a_rotation_that_changes_nothing_restarts_the_connector() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        gone = from_status(404, {"code": "not_found", "message": "no tunnel"}, where="here")
        world.backend.refusals["/rotate"] = gone
        await world.beat(tunnel, "rotate_tunnel")
        assert [connector.state for connector in FakeConnector.made] == ["stopped", "connected"]
        await tunnel.release(5)

    run(scenario)


def test_a_backend_that_forgets_idempotency_keys_is_left_nothing() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.backend.by_key.clear()
        await world.beat(tunnel, "rotate_tunnel")
        assert tunnel.lease_id == "lease_1"
        assert world.backend.leases["lease_2"]["status"] == "released"
        await world.beat(tunnel)
        await tunnel.release(5)

    last_error = run(scenario).backend.said("/heartbeat")[-1]["last_error"]
    assert last_error == "rotate_tunnel failed: the backend forgot the lease's idempotency key"


def test_the_tunnel_is_made_anew() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        async with await serve(tunnel):
            await tunnel.ready()
            before = tunnel.url("")
            await world.beat(tunnel, "recreate_tunnel")
            assert tunnel.lease_id == "lease_2"
            assert tunnel.carrier.is_called("lease_1")
            assert tunnel.url("") != before
            assert await ask(tunnel.url("") + "/x") == (200, b"app /x")
            assert (await ask(f"{before}/x"))[0] == 404
            assert (await world.beat(tunnel)).alive
        reason = "the backend asked for recreate_tunnel"
        assert world.told == [
            ("moved", f"lease lease_2: it has another public URL now: {reason}"),
        ]
        assert await tunnel.release(5) is None

    world = run(scenario)
    assert {lease["status"] for lease in world.backend.leases.values()} == {"released"}
    one, two = world.backend.said("/lease")
    assert one["idempotency_key"] != two["idempotency_key"]


def test_what_cannot_be_done_is_reported_with_the_next_beat() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        async with await serve(tunnel):
            await tunnel.ready()
            world.backend.refusals["/lease"] = TunnelConnectionError("connection refused")
            await world.beat(tunnel, "recreate_tunnel")
            await world.beat(tunnel)
            assert await ask(tunnel.url("") + "/x") == (200, b"app /x")
            del world.backend.refusals["/lease"]
            await world.beat(tunnel, "recreate_tunnel")
            await world.beat(tunnel)
        assert await tunnel.release(5) is None

    world = run(scenario)
    errors = [body["last_error"] for body in world.backend.said("/heartbeat")]
    assert errors == [None, None, "recreate_tunnel failed: connection refused", None, None]


def test_a_replacement_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        monkeypatch.setattr(FakeConnector, "fails", ConnectorError("the edge is down"))
        await world.beat(tunnel, "recreate_tunnel")
        assert tunnel.lease_id == "lease_1"
        # At once, not at the end.
        while world.backend.leases["lease_2"]["status"] != "released":  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert await tunnel.release(5) is None

    world = run(scenario)
    assert {lease["status"] for lease in world.backend.leases.values()} == {"released"}


def test_an_unknown_action_is_ignored() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        assert (await world.beat(tunnel, "dance")).alive
        await tunnel.release(5)

    assert run(scenario).told == []


def test_a_connector_may_come_back_with_another_url(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        world.now = time.time()  # its backend is a real one
        tunnel = world.tunnel("own-url")
        await tunnel.ready()
        assert tunnel.carrier.backend_url != world.backend.url
        port = FakeConnector.made[0].assignment.gateway_url.rpartition(":")[2]
        monkeypatch.setattr(OwnUrlConnector, "origin", f"http://localhost:{port}")
        await world.beat(tunnel)
        assert tunnel.url("").startswith(f"http://localhost:{port}/m/r_")
        assert world.told[0][1].endswith("it has another public URL now: its edge moved it")
        await tunnel.release(5)

    assert run(scenario).backend.asked == []


def test_nothing_is_asked_for_once_the_lease_is_given_back() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        assert await tunnel.release(5) is None
        await world.beat(tunnel, "recreate_tunnel")  # was under way in its thread

    assert list(run(scenario).backend.leases) == ["lease_1"]


def test_a_replacement_that_is_being_made_at_the_end_is_given_back() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        asked, answers = asyncio.Event(), asyncio.Event()
        call = world.backend.call

        async def slow(request: Request) -> Any:
            if request.path.endswith("/lease"):
                asked.set()
                await answers.wait()
            return await call(request)

        world.backend.call = slow  # type: ignore[method-assign]
        world.backend.actions[:] = ["recreate_tunnel"]
        await asyncio.to_thread(tunnel.carrier.beat)
        await asked.wait()
        releasing = asyncio.create_task(tunnel.release(5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answers.set()
        assert await releasing is None

    leases = run(scenario).backend.leases
    assert {name: lease["status"] for name, lease in leases.items()} == {
        "lease_1": "released",
        "lease_2": "released",
    }


def test_a_create_that_takes_too_long_is_given_back_all_the_same() -> None:
    async def scenario(world: World) -> None:
        call = world.backend.call
        late = asyncio.Event()

        async def slow(request: Request) -> Any:
            if request.path.endswith("/lease"):
                await late.wait()
            return await call(request)

        world.backend.call = slow  # type: ignore[method-assign]
        tunnel = world.tunnel()
        with pytest.raises(KeeperRequestError, match="the backend did not answer"):
            await tunnel.ready()
        releasing = asyncio.create_task(tunnel.release(5))
        await asyncio.sleep(0)
        late.set()
        assert await releasing is None

    assert run(scenario, timeout_s=0.05).backend.leases["lease_1"]["status"] == "released"


def test_a_lease_that_is_gone_while_it_is_replaced_is_not_lost() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        asked, answers = asyncio.Event(), asyncio.Event()
        call = world.backend.call

        async def slow(request: Request) -> Any:
            if request.path.endswith("/lease"):
                asked.set()
                await answers.wait()
            return await call(request)

        world.backend.call = slow  # type: ignore[method-assign]
        world.backend.actions[:] = ["recreate_tunnel"]
        await asyncio.to_thread(tunnel.carrier.beat)
        await asked.wait()
        del world.backend.leases["lease_1"]
        with pytest.raises(TunnelError):  # a beat in vain, and no more than that
            await asyncio.to_thread(tunnel.carrier.beat)
        answers.set()
        await asyncio.wait([tunnel.carrier.orders.task])  # type: ignore[attr-defined]
        assert (await world.beat(tunnel)).alive
        assert tunnel.lease_id == "lease_2"
        assert await tunnel.release(5) is None

    run(scenario)


def test_a_refresh_that_is_refused_hides_no_action() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.now += TTL_S / 2
        world.backend.refusals["/refresh"] = from_status(409, {"message": "no"}, where="here")
        assert (await world.beat(tunnel, "restart_connector")).alive
        assert len(FakeConnector.made) == 2
        await tunnel.release(5)

    run(scenario)


def test_an_end_that_is_no_moment_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.now += TTL_S / 2
        call = world.backend.call_from_thread
        world.backend.call_from_thread = (  # type: ignore[method-assign]
            lambda request: call(request) | {"expires_at": "soon"}
        )
        assert (await world.beat(tunnel)).alive
        assert tunnel.carrier.expires_at == ENDS
        world.backend.call_from_thread = call  # type: ignore[method-assign]
        await tunnel.release(5)

    run(scenario)


@pytest.mark.parametrize("said", [0, -3, "30", None, [], float("inf"), float("nan")])
def test_a_next_heartbeat_that_makes_no_sense(said: object) -> None:
    async def scenario(world: World) -> None:
        call = world.backend.call_from_thread
        world.backend.call_from_thread = (  # type: ignore[method-assign]
            lambda request: call(request) | {"next_heartbeat_seconds": said}
        )
        tunnel = world.tunnel()
        await tunnel.ready()
        assert tunnel.carrier.interval_s == 30
        assert (await world.beat(tunnel)).next_s is None
        world.backend.call_from_thread = call  # type: ignore[method-assign]
        await tunnel.release(5)

    run(scenario)


def test_a_backend_that_wants_beats_without_a_pause() -> None:
    async def scenario(world: World) -> None:
        call = world.backend.call_from_thread
        world.backend.call_from_thread = (  # type: ignore[method-assign]
            lambda request: call(request) | {"next_heartbeat_seconds": 1e-9}
        )
        tunnel = world.tunnel()
        await tunnel.ready()
        assert tunnel.carrier.beat().next_s == 0.1
        world.backend.call_from_thread = call  # type: ignore[method-assign]
        await tunnel.release(5)

    run(scenario)


def test_a_connector_whose_failure_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        monkeypatch.setattr(FakeConnector, "fails", KeyError("origin"))
        await world.beat(tunnel, "restart_connector")
        monkeypatch.setattr(FakeConnector, "fails", None)
        await world.beat(tunnel, "restart_connector")
        await world.beat(tunnel)
        await tunnel.release(5)

    errors = [body["last_error"] for body in run(scenario).backend.said("/heartbeat")]
    assert errors == [None, None, "restart_connector failed: KeyError: 'origin'", None]


def test_leases_that_share_a_connector_restart_it_once() -> None:
    async def scenario(world: World) -> None:
        world.backend.tunnel_token = "tt"
        one, two = world.tunnel(), world.tunnel()
        await asyncio.gather(one.ready(), two.ready())
        world.backend.actions[:] = ["restart_connector", "restart_connector"]
        for tunnel in (one, two):  # the loop has no turn between them
            tunnel.carrier.beat()
        await asyncio.sleep(0)
        orders = [t.carrier.orders for t in (one, two)]  # type: ignore[attr-defined]
        await asyncio.wait([order.task for order in orders])
        assert [order.last_error for order in orders] == ["", ""]
        assert [connector.state for connector in FakeConnector.made] == ["stopped", "connected"]
        await asyncio.gather(one.release(5), two.release(5))

    run(scenario)


# --- connectors and gateways


def test_leases_of_one_tunnel_share_its_connector_until_it_is_idle() -> None:
    async def scenario(world: World) -> None:
        world.backend.tunnel_token = "tt"
        one, two = world.tunnel(), world.tunnel()
        await asyncio.gather(one.ready(), two.ready())
        (connector,) = FakeConnector.made
        await one.release(5)
        assert connector.state == "connected"
        await two.release(5)
        await connector.stopped.wait()
        three = world.tunnel()
        await three.ready()
        assert len(FakeConnector.made) == 2
        await three.release(5)

    run(scenario, idle_s=0)


def test_a_connector_that_failed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        world.backend.tunnel_token = "tt"
        with monkeypatch.context() as patch:
            patch.setattr(FakeConnector, "fails", ConnectorError("no network"))
            await _failure(world.tunnel())
        again = world.tunnel()
        await again.ready()
        await again.release(5)

    run(scenario)


def test_a_lease_begins_with_the_url_that_a_shared_connector_has_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(world: World) -> None:
        world.now = time.time()
        one = world.tunnel("own-url")
        await one.ready()
        port = FakeConnector.made[0].assignment.gateway_url.rpartition(":")[2]
        monkeypatch.setattr(OwnUrlConnector, "origin", f"http://localhost:{port}")
        two = world.tunnel("own-url")
        await two.ready()
        assert len(FakeConnector.made) == 1
        assert two.url("").startswith(f"http://localhost:{port}/")
        await asyncio.gather(one.release(5), two.release(5))

    run(scenario)


@pytest.mark.parametrize("prefix", ["", "/", None])
def test_a_lease_without_a_prefix(prefix: str | None) -> None:
    async def scenario(world: World) -> None:
        world.backend.changes = {"route_prefix": prefix, "hostname": None}
        tunnel = world.tunnel("public")
        async with await serve(tunnel):
            await tunnel.ready()
            url = tunnel.url("")
            origin, _, secret = url.removeprefix("http://").partition("/")
            assert len(secret) == 32
            assert await ask(f"{url}/x") == (200, b"app /x")
            assert (await ask(f"http://{origin}/x"))[0] == 404
            assert (await ask(f"http://{origin}/__synth/ready"))[0] == 200
            await tunnel.release(5)

    run(scenario)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"public_url": None, "hostname": None}, "neither a public_url nor a hostname"),
        ({"gateway_port": 70_000}, "cannot be used: Expected `int` <= 65535"),
        ({"expires_at": None}, "a lease that cannot be used"),
        ({"expires_at": "soon"}, "a lease that cannot be used"),
        ({"lease_id": None}, "a lease without an id"),
    ],
)
def test_a_lease_that_lacks_something(change: dict[str, Any], part: str) -> None:
    async def scenario(world: World) -> None:
        world.backend.changes = change
        assert part in (await _failure(world.tunnel())).message

    run(scenario)


def test_a_public_lease_has_an_unguessable_path_and_is_reported() -> None:
    async def scenario(world: World) -> None:
        world.backend.prefix = "/short"
        tunnel = world.tunnel("public")
        async with await serve(tunnel):
            await tunnel.ready()
            url = tunnel.url("")
            origin, _, secret = url.partition("/short/")
            assert len(secret) == 32
            assert await ask(f"{url}/x") == (200, b"app /x")
            assert (await ask(f"{origin}/short/x"))[0] == 404
            assert (await ask(f"{origin}/short/__synth/ready"))[0] == 200
            port = tunnel.info("").local_port
            tunnel.serving.remove_target("")  # as when its worker leaves first
            await tunnel.release(5)
        assert tunnel.carrier.exposure() == [f"127.0.0.1:{port} was public through public for 0 s"]

    run(scenario)


def test_a_loopback_lease_is_no_exposure() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        async with await serve(tunnel):
            await tunnel.ready()
            await tunnel.release(5)
        assert tunnel.carrier.exposure() == []

    run(scenario)


# --- faults


async def _failure(tunnel: HeldLease) -> Any:
    with pytest.raises(KeeperRequestError) as caught:
        await tunnel.ready()
    assert tunnel.life.state is LeaseState.FAILED
    assert await tunnel.release(5) is None
    return caught.value.failure


def test_a_connector_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeConnector, "fails", ConnectorError("the token is bad", "Get another"))

    async def scenario(world: World) -> None:
        failure = await _failure(world.tunnel())
        assert failure.code == "CONNECTOR_FAILED"
        assert failure.message == (
            "the fake connector failed: the token is bad; its last lines:\n  line one\n  line two"
        )
        assert failure.hint == "Get another"

    assert run(scenario).backend.leases["lease_1"]["status"] == "released"


def test_what_a_program_prints_of_a_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 32 * "5f"
    error = ConnectorError(f"request failed dest=https://x.example/m/r_{secret}/hook")
    monkeypatch.setattr(FakeConnector, "fails", error)
    monkeypatch.setattr(FakeConnector, "logs", lambda _: [f"GET /m/r_{secret}/hook: EOF"])

    async def scenario(world: World) -> None:
        failure = await _failure(world.tunnel())
        assert secret not in failure.message
        assert "dest=https://x.example/m/r_…/hook" in failure.message
        assert "GET /m/r_…/hook: EOF" in failure.message

    run(scenario)


def test_a_connector_that_takes_its_time_to_stop_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stop(connector: FakeConnector) -> None:
        connector.state = "stopping"
        await asyncio.sleep(0.05)
        connector.state = "stopped"

    async def scenario(world: World) -> None:
        monkeypatch.setattr(FakeConnector, "hangs", True)
        monkeypatch.setattr(FakeConnector, "stop", stop)
        await _failure(world.tunnel())

    run(scenario, timeout_s=0.1)
    assert FakeConnector.made[0].state == "stopped"


def test_a_connector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeConnector, "hangs", True)

    async def scenario(world: World) -> None:
        failure = await _failure(world.tunnel())
        assert failure.code == "TUNNEL_NOT_READY"
        assert "is not ready after 0.2 s" in failure.message
        assert "the fake connector has no connection to its edge: dialling" in failure.message
        assert "line two" in failure.message

    run(scenario, timeout_s=0.2)
    assert FakeConnector.made[0].state == "stopped"


def test_a_gateway_port_that_is_taken() -> None:
    async def scenario(world: World) -> None:
        with socket.create_server(("127.0.0.1", world.backend.gateway_port)):
            failure = await _failure(world.tunnel())
        assert failure.code == "GATEWAY_PORT_TAKEN"
        assert f"127.0.0.1:{world.backend.gateway_port}" in failure.message

    assert run(scenario).backend.leases["lease_1"]["status"] == "released"


def test_a_public_url_that_leads_elsewhere() -> None:
    async def scenario(world: World) -> None:
        elsewhere = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = elsewhere.sockets[0].getsockname()[1]
        elsewhere.close()
        create = world.backend._create
        world.backend._create = lambda body: {  # type: ignore[method-assign]
            **create(body),
            "public_url": f"http://127.0.0.1:{port}/m/x",
        }
        failure = await _failure(world.tunnel())
        assert failure.code == "TUNNEL_NOT_READY"
        assert "the public URL cannot be reached" in failure.message
        assert "r_aaaa" not in failure.message

    run(scenario, timeout_s=0.3)


def test_an_unknown_provider() -> None:
    async def scenario(world: World) -> None:
        failure = await _failure(world.tunnel("pigeon"))
        assert failure.code == "TUNNEL_PROVIDER_INVALID"
        assert "'pigeon'" in failure.message

    assert run(scenario).backend.asked == []


def test_an_answer_that_is_no_lease() -> None:
    async def scenario(world: World) -> None:
        world.backend._create = lambda body: {"lease_id": "lease_x"}  # type: ignore[method-assign]
        failure = await _failure(world.tunnel())
        assert "a lease that cannot be used" in failure.message

    run(scenario)


def test_a_lease_without_a_worker_token_has_none_to_rotate() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        with pytest.raises(KeeperRequestError, match="has no worker token"):
            await tunnel.carrier.refresh_token()
        await tunnel.release(5)

    run(scenario)


def test_a_backend_that_is_down_at_the_end_is_owed_a_release() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        async with await serve(tunnel):
            await tunnel.ready()
            url = tunnel.url("")
            world.backend.refusals["/release"] = TunnelConnectionError("connection refused")
            assert await tunnel.release(0.2) == "connection refused"
            # Nobody gets in any more, whatever the backend thinks.
            assert (await ask(url))[0] == 404

    run(scenario)


def test_a_replaced_lease_that_cannot_be_given_back_is_named() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.backend.refusals["lease_1/release"] = TunnelConnectionError("connection refused")
        await world.beat(tunnel, "recreate_tunnel")
        assert await tunnel.release(0.3) == "lease_1, which it replaced: connection refused"

    assert run(scenario).backend.leases["lease_2"]["status"] == "released"


def test_what_is_asked_for_meanwhile_is_done_after_that() -> None:
    async def scenario(world: World) -> None:
        tunnel = world.tunnel()
        await tunnel.ready()
        world.backend.actions[:] = ["restart_connector", "recreate_tunnel", "recreate_tunnel"]
        for _ in range(3):  # the loop has no turn between them
            tunnel.carrier.beat()
        await world.beat(tunnel)
        assert tunnel.lease_id == "lease_2"
        assert [connector.state for connector in FakeConnector.made].count("connected") == 2
        assert await tunnel.release(5) is None

    run(scenario)


def test_callers_send_what_cloudflare_access_wants() -> None:
    async def scenario(world: World) -> None:
        create = world.backend._create
        world.backend._create = lambda body: {  # type: ignore[method-assign]
            **create(body),
            "access_client_id": "id.access",
            "access_client_secret": "shh",
        }
        tunnel = world.tunnel()
        await tunnel.ready()
        tunnel.serving.set_target("", Target("127.0.0.1", 9))
        assert tunnel.info("").headers == {
            "CF-Access-Client-Id": "id.access",
            "CF-Access-Client-Secret": "shh",
        }
        await tunnel.release(5)

    run(scenario)


def test_an_account_s_lease_comes_from_the_backend_though_the_connector_knows_its_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "pytest_synth_tunnels.keeper.transports.route_manager.ACCOUNTS", ("own-url",)
    )
    monkeypatch.setattr("pytest_synth_tunnels.keeper.transports.provider_route.ACCOUNTS", ())

    async def scenario(world: World) -> None:
        tunnel = world.tunnel("own-url")
        await tunnel.ready()
        assert tunnel.lease_id == "lease_1"
        (connector,) = FakeConnector.made
        assert connector.assignment.lease["tunnel_token"] == "tt_1"
        # It takes whichever port is free, and its origin is the public one.
        assert not connector.assignment.gateway_url.endswith(str(world.backend.gateway_port))
        assert tunnel.url("").startswith(connector.assignment.gateway_url)
        await tunnel.release(5)

    run(scenario)
