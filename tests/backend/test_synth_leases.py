import re
from itertools import count
from typing import Any

import pytest

from pytest_synth_tunnels.backend import synth_leases as module
from pytest_synth_tunnels.backend.common import RefusedError
from pytest_synth_tunnels.backend.synth_leases import SynthLeaseRequest, SynthLeases
from pytest_synth_tunnels.relay.route import Limits, Route

REQUEST = SynthLeaseRequest(
    client_instance_id="client-12345678",
    local_host="127.0.0.1",
    local_port=8000,
    requested_ttl_seconds=600,
    metadata={"name": "demo"},
    capabilities={},
)


class Relay:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.closed: list[tuple[str, str]] = []

    def add(self, route: Route) -> None:
        self.routes[route.lease_id] = route

    def close(self, lease_id: str, reason: str) -> None:
        self.routes[lease_id].closed = True
        self.closed.append((lease_id, reason))

    def rotate_agent(self, lease_id: str, agent_token: str) -> None:
        self.routes[lease_id].agent_token = agent_token

    def rotate_worker(self, lease_id: str, worker_token: str) -> None:
        self.routes[lease_id].worker_token = worker_token

    def remove(self, lease_id: str) -> None:
        del self.routes[lease_id]


class World:
    """Leases under a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0
        self.relay = Relay()
        numbers = count(1)
        self.leases = SynthLeases(
            now=lambda: self.time,
            token=lambda prefix: f"{prefix}_{next(numbers)}",
            relay=self.relay,
            public_base_url="http://127.0.0.1:8787",
            agent_url="ws://127.0.0.1:8787/api/v1/synthtunnel/agent",
        )

    def create(self, **changes: Any) -> dict[str, Any]:
        return self.leases.create(REQUEST._replace(**changes))

    def route(self, lease: dict[str, Any]) -> Route:
        return self.relay.routes[lease["lease_id"]]


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_lease_says_all_of_itself(world: World) -> None:
    lease = world.create()
    assert lease.pop("limits") == {
        "max_inflight": 128,
        "max_request_bytes": 1 << 36,
        "max_response_bytes": 1 << 36,
        "max_websocket_streams": 64,
        "max_websocket_message_bytes": 1 << 24,
        "max_header_bytes": 65_536,
        "max_headers": 128,
        "header_timeout_s": 15.0,
        "idle_timeout_s": 75.0,
        "max_unauthenticated_connections": 2048,
        "hold_s": 5.0,
        "max_held": 128,
    }
    assert lease == {
        "lease_id": "synth_1",
        "status": "PENDING",
        "route_token": "rt_2",
        "client_instance_id": "client-12345678",
        "public_base_url": "http://127.0.0.1:8787",
        "public_url": "http://127.0.0.1:8787/s/rt_2",
        "agent_connect": {
            "transport": "ws",
            "url": "ws://127.0.0.1:8787/api/v1/synthtunnel/agent",
            "agent_token": "at_3",
        },
        "worker_token": "wt_4",
        "expires_at": "2023-11-14T22:23:20.000Z",
        "heartbeat": {"required": False, "recommended_interval_seconds": 25},
        "local_target": {"host": "127.0.0.1", "port": 8000},
        "metadata": {"name": "demo"},
        "capabilities": {},
    }


def test_the_relay_gets_the_route(world: World) -> None:
    route = world.route(world.create())
    assert (route.route_token, route.agent_token, route.worker_token) == ("rt_2", "at_3", "wt_4")
    assert route.expires_at == world.time + 600
    assert route.public_base_url == "http://127.0.0.1:8787"


def test_callers_may_be_let_in_without_a_token(world: World) -> None:
    lease = world.create(metadata={"require_token": False})
    assert lease["worker_token"]
    assert not world.route(lease).require_token
    assert world.route(world.create(metadata={"require_token": True})).require_token


@pytest.mark.parametrize(("asked", "granted"), [(1, 1), (1024, 1024), (5000, 1024)])
def test_concurrency_is_granted_up_to_a_bound(world: World, asked: int, granted: int) -> None:
    lease = world.create(capabilities={"max_inflight": asked})
    assert lease["limits"]["max_inflight"] == granted
    assert world.route(lease).limits.max_inflight == granted


@pytest.mark.parametrize(("asked", "held"), [(1, 128), (500, 500), (5000, 1024)])
def test_all_that_is_in_flight_may_wait_for_the_agent(world: World, asked: int, held: int) -> None:
    lease = world.create(capabilities={"max_inflight": asked})
    assert world.route(lease).limits.max_held == held


def test_the_worker_token_rotates(world: World) -> None:
    lease = world.create()
    answer = world.leases.refresh_worker_token(lease["lease_id"])
    assert answer.keys() == {"lease_id", "worker_token"}
    assert answer["worker_token"] != lease["worker_token"]
    assert world.route(lease).worker_token == answer["worker_token"]


def test_the_agent_token_rotates(world: World) -> None:
    lease = world.create()
    answer = world.leases.refresh_agent_token(lease["lease_id"])
    assert answer.keys() == {"lease_id", "agent_connect"}
    assert answer["agent_connect"]["url"] == lease["agent_connect"]["url"]
    token = answer["agent_connect"]["agent_token"]
    assert token != lease["agent_connect"]["agent_token"]
    assert world.route(lease).agent_token == token


def test_limits_are_a_lease_s_own(world: World) -> None:
    world.leases = SynthLeases(
        now=lambda: world.time,
        token=lambda prefix: f"{prefix}_{len(world.relay.routes)}",
        relay=world.relay,
        public_base_url="",
        agent_url="",
        limits=Limits(max_inflight=7, hold_s=0),
    )
    assert world.create(capabilities={"max_inflight": 9})["limits"]["max_inflight"] == 9
    lease = world.create()
    assert lease["limits"]["max_inflight"] == 7
    assert lease["limits"]["hold_s"] == 0


def test_the_status_follows_the_route(world: World) -> None:
    lease = world.create()
    lease_id = lease["lease_id"]
    assert world.leases.status(lease_id) == {
        "lease_id": lease_id,
        "status": "PENDING",
        "last_seen_at": None,
        "connected": False,
        "inflight": 0,
        "expires_at": lease["expires_at"],
    }
    world.route(lease).last_seen_at = world.time + 1
    world.route(lease).inflight = 3
    status = world.leases.status(lease_id)
    assert (status["status"], status["inflight"]) == ("ACTIVE", 3)
    assert status["last_seen_at"] == "2023-11-14T22:13:21.000Z"


def test_a_closed_lease_is_over(world: World) -> None:
    lease_id = world.create()["lease_id"]
    for _ in range(2):
        assert world.leases.close(lease_id)["status"] == "EXPIRED"
    assert world.relay.closed == [(lease_id, "the lease was closed")]
    assert world.leases.status(lease_id)["status"] == "EXPIRED"
    with pytest.raises(RefusedError, match="lease_expired") as caught:
        world.leases.refresh_worker_token(lease_id)
    assert caught.value.status == 410
    with pytest.raises(RefusedError, match="lease_expired") as caught:
        world.leases.refresh_agent_token(lease_id)
    assert caught.value.status == 410


def test_a_lease_expires(world: World) -> None:
    first, second = world.create(), world.create(requested_ttl_seconds=1200)
    assert world.leases.expire() == world.time + 600
    world.time += 600
    assert world.leases.expire() == world.time + 600
    assert world.relay.closed == [(first["lease_id"], "the lease expired")]
    world.time += 600
    assert world.leases.status(second["lease_id"])["status"] == "EXPIRED"
    assert world.leases.expire() is None


@pytest.mark.parametrize("call", ["status", "close", "refresh_worker_token", "refresh_agent_token"])
def test_an_unknown_lease_is_refused(world: World, call: str) -> None:
    with pytest.raises(RefusedError, match="'synth_x'") as caught:
        getattr(world.leases, call)("synth_x")
    assert caught.value.status == 404


def test_leases_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEASES", 2)
    first, second = world.create(), world.create()
    with pytest.raises(RefusedError, match=re.escape("all 2 SynthTunnel leases")):
        world.create()
    world.leases.close(first["lease_id"])
    third = world.create()
    assert list(world.relay.routes) == [second["lease_id"], third["lease_id"]]


def test_no_token_is_in_a_repr(world: World) -> None:
    lease = world.create()
    shown = repr(world.leases._leases[lease["lease_id"]])
    assert lease["worker_token"] not in shown
    assert lease["agent_connect"]["agent_token"] not in shown
