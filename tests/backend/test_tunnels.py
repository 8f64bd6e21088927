from itertools import count

import pytest

from pytest_synth_tunnels.backend import tunnels as module
from pytest_synth_tunnels.backend.common import RefusedError
from pytest_synth_tunnels.backend.tunnels import Tunnel, Tunnels


class Edge:
    """Notes which tunnels' URLs answer, and from which port."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}

    def open_tunnel(self, tunnel: Tunnel) -> None:
        self.ports[tunnel.id] = tunnel.local_port

    def close_tunnel(self, tunnel_id: str) -> None:
        del self.ports[tunnel_id]


@pytest.fixture
def tunnels() -> Tunnels:
    numbers = count(1)
    return Tunnels(
        public_base_url="http://127.0.0.1:8787",
        token=lambda prefix: f"{prefix}_{next(numbers)}",
        edge=Edge(),
    )


def open_one(tunnels: Tunnels, subdomain: str = "demo") -> dict[str, object]:
    return tunnels.create(subdomain=subdomain, local_host="127.0.0.1", local_port=8000)


def test_a_tunnel_says_all_of_itself(tunnels: Tunnels) -> None:
    assert open_one(tunnels) == {
        "id": "tun_1",
        "provider": "cloudflared",
        "status": "active",
        "subdomain": "demo",
        "local_host": "127.0.0.1",
        "local_port": 8000,
        "public_url": "http://127.0.0.1:8787/t/demo",
    }


def test_a_subdomain_belongs_to_one_active_tunnel(tunnels: Tunnels) -> None:
    first = open_one(tunnels)
    with pytest.raises(RefusedError, match="'demo' is taken") as caught:
        open_one(tunnels, "DEMO")
    assert caught.value.status == 409
    tunnels.delete(str(first["id"]))
    assert open_one(tunnels)["id"] != first["id"]


def test_deleted_tunnels_are_listed_on_request(tunnels: Tunnels) -> None:
    gone = open_one(tunnels, "gone")
    kept = open_one(tunnels, "kept")
    assert tunnels.delete(str(gone["id"]))["status"] == "deleted"
    assert tunnels.delete(str(gone["id"]))["status"] == "deleted"
    assert tunnels.list() == [kept]
    assert [t["id"] for t in tunnels.list(include_deleted=True)] == [gone["id"], kept["id"]]
    assert [t["id"] for t in tunnels.list(include_deleted=True, status="deleted")] == [gone["id"]]
    assert tunnels.list(status="deleted") == []
    assert tunnels.list(status="active") == [kept]


def test_deleting_an_unknown_tunnel_is_refused(tunnels: Tunnels) -> None:
    with pytest.raises(RefusedError, match="'tun_9'") as caught:
        tunnels.delete("tun_9")
    assert caught.value.status == 404


def test_the_newest_active_tunnel_rotates(tunnels: Tunnels) -> None:
    open_one(tunnels, "old")
    new = open_one(tunnels, "new")
    tunnels.delete(str(open_one(tunnels, "gone")["id"]))
    rotated = tunnels.rotate(local_host="127.0.0.2", local_port=9000, reason="moved")
    assert rotated == new | {
        "status": "rotated",
        "reason": "moved",
        "local_host": "127.0.0.2",
        "local_port": 9000,
    }
    listed = {t["subdomain"]: t for t in tunnels.list()}
    assert (listed["new"]["status"], listed["new"]["local_port"]) == ("active", 9000)
    assert listed["old"]["local_port"] == 8000


def test_without_an_active_tunnel_nothing_rotates(tunnels: Tunnels) -> None:
    with pytest.raises(RefusedError, match="no tunnel is active") as caught:
        tunnels.rotate(local_host="127.0.0.1", local_port=8000, reason=None)
    assert caught.value.status == 404


def test_tunnels_are_bounded(tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TUNNELS", 2)
    first = open_one(tunnels, "a")
    open_one(tunnels, "b")
    with pytest.raises(RefusedError, match="all 2 tunnels"):
        open_one(tunnels, "c")
    tunnels.delete(str(first["id"]))
    open_one(tunnels, "c")
    assert [t["subdomain"] for t in tunnels.list(include_deleted=True)] == ["b", "c"]
