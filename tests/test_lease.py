import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.messages import CloseLease, LeaseInfo, Message, Token
from pytest_synth_tunnels.lease import ExposedLease, Lease, expose

from .support import messages

SECRET_PATH = "m/0123456789abcdef0123456789abcdef"


def info(**values: Any) -> LeaseInfo:
    return LeaseInfo(
        **{
            "lease_id": "lease_1",
            "public_url": "http://127.0.0.1:1/s/rt_1/~gw0",
            "loopback_url": "",
            "ca_file": "",
            "url_secret": "",
            "worker_token": "wt_secret",
            "headers": {"X-SynthTunnel-Worker-Token": "wt_secret"},
            "local_host": "127.0.0.1",
            "local_port": 8000,
            "expires_at": "2030-01-01T00:00:00Z",
            "provider": "synthtunnel",
            "backend": "http://127.0.0.1:1",
        }
        | values
    )


class FakeKeeper:
    """Answers what it is told, and remembers what it was asked."""

    def __init__(self, answer: LeaseInfo | KeeperError) -> None:
        self.answer = answer
        self.asked: list[Message] = []

    def ask(self, message: Message, *_: Any) -> Any:
        self.asked.append(message)
        if isinstance(self.answer, KeeperError):
            raise self.answer
        return self.answer


def public(url: str = f"https://t.example/{SECRET_PATH}", **values: Any) -> LeaseInfo:
    found = {"public_url": url, "url_secret": SECRET_PATH, "worker_token": None, "headers": {}}
    return info(provider="cloudflared", **found, **values)


def test_a_synthtunnel_lease_stays_where_it_is() -> None:
    keeper: Any = FakeKeeper(info(headers={"X-SynthTunnel-Worker-Token": "wt_new"}))
    lease = Lease(keeper, info())

    assert lease.url("/x?y=1") == lease.url("x?y=1") == "http://127.0.0.1:1/s/rt_1/~gw0/x?y=1"
    assert lease.expires_at.isoformat() == "2030-01-01T00:00:00+00:00"
    assert keeper.asked == []
    assert lease.headers == {"X-SynthTunnel-Worker-Token": "wt_new"}
    assert "wt_" not in repr([lease, lease.headers])
    assert "http://127.0.0.1:1/s/rt_1/~gw0 -> 127.0.0.1:8000" in repr(lease)


def test_callers_on_this_machine_have_a_url_of_their_own() -> None:
    keeper: Any = FakeKeeper(info())
    public_url = "http://host.docker.internal:5001"
    lease = Lease(keeper, info(public_url=public_url, loopback_url="http://172.17.0.1:5001"))

    assert lease.url("/x") == f"{public_url}/x"
    assert lease.loopback_url("/x?y= ") == "http://172.17.0.1:5001/x?y=%20"
    assert Lease(keeper, info()).loopback_url() == "http://127.0.0.1:1/s/rt_1/~gw0/"
    assert keeper.asked == []


def test_what_callers_trust(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    keeper: Any = FakeKeeper(info())
    lease = Lease(keeper, info(ca_file=str(tmp_path / "ca.pem")))

    assert lease.ca_file == str(tmp_path / "ca.pem")
    assert len(lease.ssl_context().get_ca_certs()) == 1
    of_the_world = Lease(keeper, info())
    assert of_the_world.ca_file is None
    assert of_the_world.ssl_context().verify_mode is ssl.CERT_REQUIRED


def test_a_managed_lease_is_where_the_keeper_says_now() -> None:
    keeper: Any = FakeKeeper(public())
    lease = Lease(keeper, public())
    assert lease.url("/x") == f"https://t.example/{SECRET_PATH}/x"
    assert lease.headers == {}

    keeper.answer = public("https://u.example/r/2", expires_at="2031-01-01T00:00:00Z")

    assert lease.public_url == "https://u.example/r/2"
    assert lease.url("/x") == "https://u.example/r/2/x"
    assert lease.expires_at.year == 2031
    assert lease.provider == "cloudflared"
    assert set(map(type, keeper.asked)) == {Token}


def test_a_url_that_is_the_only_secret_is_not_shown() -> None:
    keeper: Any = FakeKeeper(public())

    assert repr(Lease(keeper, public())) == "<Lease lease_1 -> 127.0.0.1:8000>"


def test_what_the_keeper_refuses_is_told_as_it_says() -> None:
    refusal = KeeperError("the lease has no worker token", code="NO_TOKEN", hint="Use its URL")
    keeper: Any = FakeKeeper(refusal)
    lease = Lease(keeper, public())

    with pytest.raises(KeeperError, match=r"^the lease has no worker token\. Use its URL$"):
        lease.refresh_worker_token()
    with pytest.raises(KeeperError, match="no worker token"):
        _ = lease.public_url


def test_what_is_exposed_names_its_provider() -> None:
    keeper: Any = FakeKeeper(public())

    with expose(keeper, 5000, provider="cloudflared", name="hook") as lease:
        assert isinstance(lease, ExposedLease)

    assert keeper.asked == [
        messages.expose("5000", provider="cloudflared", name="hook"),
        CloseLease(lease_id="lease_1"),
    ]


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        (8000, "8000"),
        ("8000", "8000"),
        (" 8000 ", "8000"),
        (8000.0, "8000"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("localhost:8000", "localhost:8000"),
    ],
)
def test_a_target_is_a_port_or_a_url(target: Any, asked: str) -> None:
    keeper: Any = FakeKeeper(public())

    expose(keeper, target)

    assert keeper.asked[0].target == asked


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"not None \(NoneType\)"),
        (True, r"not True \(bool\)"),
        (80.5, r"not 80.5 \(float\)"),
        (b"8000", r"not b'8000' \(bytes\)"),
        (("127.0.0.1", 80), r"must be a port \(int\) or a URL \(str\).*\(tuple\)"),
        (0, "a port from 1 to 65535, not 0"),
        ("70000", "a port from 1 to 65535, not 70000"),
        (-1, "a port from 1 to 65535, not -1"),
    ],
)
def test_another_target_is_refused_with_what_is_expected(target: Any, message: str) -> None:
    keeper: Any = FakeKeeper(public())

    with pytest.raises((TypeError, ValueError), match=message):
        expose(keeper, target)

    assert keeper.asked == []


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), float("inf"), 3601, "5", None])
def test_a_wait_s_time_is_a_number_of_seconds(timeout_s: Any) -> None:
    keeper: Any = FakeKeeper(public())
    lease = Lease(keeper, public())

    with pytest.raises(ValueError, match="timeout_s must be a number of seconds from 0 to 3600"):
        lease.wait_ready(timeout_s)
    with pytest.raises(ValueError, match="timeout_s must be"):
        asyncio.run(lease.wait_ready_async(timeout_s))

    assert keeper.asked == []
