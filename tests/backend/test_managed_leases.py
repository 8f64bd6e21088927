from itertools import count
from typing import Any

import pytest

from pytest_synth_tunnels.backend import managed_leases as module
from pytest_synth_tunnels.backend.common import RefusedError
from pytest_synth_tunnels.backend.managed_leases import LeaseRequest, ManagedLeases

REQUEST = LeaseRequest(
    client_instance_id="client-12345678",
    local_host="127.0.0.1",
    local_port=8000,
    provider_preference="ngrok",
    requested_ttl_seconds=600,
    reuse_connector=False,
    app_name="demo",
    idempotency_key=None,
)
HEALTHY = {
    "connected_to_edge": True,
    "gateway_ready": True,
    "local_ready": True,
    "last_error": None,
}


class World:
    """Leases under a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0
        self.led: dict[str, str] = {}
        """The paths whose traffic is carried, and to which connector."""
        numbers = count(1)
        self.leases = ManagedLeases(
            now=lambda: self.time,
            token=lambda prefix: f"{prefix}_{next(numbers)}",
            public_base_url="http://127.0.0.1:8787",
            edge=self,
            edge_url="ws://127.0.0.1:8787/edge",
        )

    def open_lease(self, prefix: str, managed_tunnel_id: str, tunnel_token: str) -> None:
        self.led[prefix] = managed_tunnel_id

    def close_lease(self, prefix: str, managed_tunnel_id: str) -> None:
        assert self.led.pop(prefix) == managed_tunnel_id

    def create(self, **changes: Any) -> dict[str, Any]:
        return self.leases.create(REQUEST._replace(**changes))

    def status(self, lease_id: str) -> str | None:
        listed = self.leases.list(client_instance_id=None, include_ended=True)
        return next((lease["status"] for lease in listed if lease["lease_id"] == lease_id), None)


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_lease_has_what_its_connector_needs(world: World) -> None:
    lease = world.create()
    assert lease.pop("diagnostics_hint")
    assert lease == {
        "lease_id": "lease_1",
        "status": "pending",
        "client_instance_id": "client-12345678",
        "local_host": "127.0.0.1",
        "local_port": 8000,
        "provider_preference": "ngrok",
        "requested_ttl_seconds": 600,
        "reuse_connector": False,
        "app_name": "demo",
        "idempotency_key": None,
        "public_url": "http://127.0.0.1:8787/m/r_2",
        "managed_tunnel_id": "mt_3",
        "hostname": "127.0.0.1:8787",
        "route_prefix": "/m/r_2",
        "tunnel_token": "tt_4",
        "expires_at": "2023-11-14T22:23:20.000Z",
        "access_client_id": None,
        "access_client_secret": None,
        "gateway_port": 8016,
        "edge_url": "ws://127.0.0.1:8787/edge",
    }


def test_no_token_is_shown_again(world: World) -> None:
    lease = world.create()
    lease_id = lease["lease_id"]
    shown = [
        *world.leases.list(client_instance_id=None, include_ended=True),
        world.leases.heartbeat(lease_id, **HEALTHY),
        world.leases.refresh(lease_id, 600),
        world.leases.release(lease_id),
        world.leases.delete(lease_id),
    ]
    assert len(shown) == 5
    assert not any(lease["tunnel_token"] in repr(answer) for answer in shown)
    assert lease["tunnel_token"] not in repr(world.leases._leases[lease_id])


def test_an_idempotency_key_makes_one_lease(world: World) -> None:
    first = world.create(idempotency_key="k")
    assert world.create(idempotency_key="k") == first
    assert len(world.leases.list(client_instance_id=None, include_ended=True)) == 1
    assert world.create(idempotency_key="other")["lease_id"] != first["lease_id"]
    assert (
        world.create(idempotency_key="k", client_instance_id="client-2")["lease_id"]
        != first["lease_id"]
    )


def test_an_idempotency_key_is_for_one_request(world: World) -> None:
    world.create(idempotency_key="k")
    with pytest.raises(RefusedError, match="another request") as caught:
        world.create(idempotency_key="k", local_port=9)
    assert caught.value.status == 409


def test_a_repeated_request_sees_that_its_lease_ended(world: World) -> None:
    lease = world.create(idempotency_key="k")
    world.leases.release(lease["lease_id"])
    assert world.create(idempotency_key="k") == lease | {"status": "released"}


def test_heartbeats_tell_when_the_lease_is_active(world: World) -> None:
    lease_id = world.create()["lease_id"]
    beat = world.leases.heartbeat(lease_id, **HEALTHY | {"local_ready": False})
    assert (beat["status"], beat["action"], beat["next_heartbeat_seconds"]) == (
        "heartbeat_ok",
        "none",
        30,
    )
    assert world.status(lease_id) == "active"
    beat = world.leases.heartbeat(
        lease_id, **HEALTHY | {"connected_to_edge": False, "last_error": "edge gone"}
    )
    assert beat["last_error"] == "edge gone"
    assert world.status(lease_id) == "pending"


def test_a_lease_expires_unless_it_is_refreshed(world: World) -> None:
    kept, left = world.create()["lease_id"], world.create()["lease_id"]
    world.time += 599
    answer = world.leases.refresh(kept, 1200)
    assert (answer["status"], answer["requested_ttl_seconds"]) == ("refreshed", 1200)
    assert answer["expires_at"] == "2023-11-14T22:43:19.000Z"
    world.time += 1
    assert [lease["lease_id"] for lease in world.leases.list(
        client_instance_id=None, include_ended=False
    )] == [kept]  # fmt: skip
    assert world.status(left) == "expired"
    for call in (
        lambda: world.leases.heartbeat(left, **HEALTHY),
        lambda: world.leases.refresh(left, 600),
    ):
        with pytest.raises(RefusedError, match=r"lease_expired: .* is expired") as caught:
            call()
        assert caught.value.status == 410
    assert world.leases.release(left)["status"] == "released"
    assert world.status(left) == "expired"


def test_a_short_ttl_is_a_minute(world: World) -> None:
    lease = world.create(requested_ttl_seconds=1)
    assert lease["requested_ttl_seconds"] == 1
    world.time += 59
    assert world.status(lease["lease_id"]) == "pending"
    world.time += 1
    assert world.status(lease["lease_id"]) == "expired"


def test_release_keeps_the_record_and_delete_hides_it(world: World) -> None:
    lease_id = world.create()["lease_id"]
    for _ in range(2):
        assert world.leases.release(lease_id)["status"] == "released"
        assert world.status(lease_id) == "released"
    assert world.leases.list(client_instance_id=None, include_ended=False) == []
    for _ in range(2):
        assert world.leases.delete(lease_id)["status"] == "deleted"
        assert world.status(lease_id) is None


def test_leases_are_listed_by_client(world: World) -> None:
    one = world.create()["lease_id"]
    world.create(client_instance_id="client-other")
    listed = world.leases.list(client_instance_id="client-12345678", include_ended=False)
    assert [lease["lease_id"] for lease in listed] == [one]


@pytest.mark.parametrize("call", ["release", "delete"])
def test_an_unknown_lease_is_refused(world: World, call: str) -> None:
    with pytest.raises(RefusedError, match="'lease_x'") as caught:
        getattr(world.leases, call)("lease_x")
    assert caught.value.status == 404


def test_leases_of_a_client_share_a_connector_if_it_wants(world: World) -> None:
    def connector(**changes: Any) -> str:
        return str(world.create(**changes)["managed_tunnel_id"])

    alone = connector()
    first = connector(reuse_connector=True)
    assert first != alone
    assert connector(reuse_connector=True, local_port=9) == first
    assert connector(reuse_connector=True, client_instance_id="client-2") != first
    assert connector(reuse_connector=True, provider_preference="cloudflared") != first
    world.time += 600
    assert connector(reuse_connector=True) != first


def test_leases_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEASES", 2)
    first = world.create(idempotency_key="k")
    world.create()
    with pytest.raises(RefusedError, match="all 2 leases"):
        world.create()
    world.leases.release(first["lease_id"])
    world.create()
    assert world.status(first["lease_id"]) is None
    world.time += 600
    assert world.create(idempotency_key="k")["lease_id"] != first["lease_id"]
