"""A managed lease from its creation to its release, with its heartbeats."""

import asyncio
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.state import LeaseState
from pytest_synth_tunnels.keeper.transports.managed import secret_part
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError, TunnelError, from_status
from pytest_synth_tunnels.sdk.requests import Request

from ...support.managed_leases import (
    ENDS,
    NOW,
    REFRESHED,
    TTL_S,
    FakeConnector,
    ManagedLeases,
    ask,
    failure_of,
    run,
    serve,
)


def test_the_whole_life_of_a_lease() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        async with await serve(lease):
            await lease.ready()
            assert lease.state is LeaseState.ACTIVE
            assert await ask(lease.url("") + "/x") == (200, b"app /x")
            info = lease.info("")
            assert (info.provider, info.worker_token) == ("fake", None)
            assert await lease.release(5) is None
            assert lease.state is LeaseState.RELEASED
            assert (await ask(info.public_url + "/x"))[0] == 404

    managed = run(scenario)
    methods = [(method, path.rpartition("/")[2]) for method, path, _ in managed.backend.asked]
    assert methods == [
        ("POST", "lease"),
        ("POST", "heartbeat"),
        ("POST", "release"),
        ("DELETE", "lease_1"),
    ]
    (create,) = managed.backend.said("/lease")
    assert create["provider_preference"] == "cloudflared"
    assert create["requested_ttl_seconds"] == TTL_S
    assert create["local_port"] == 8000
    assert create["app_name"] == "hooks (fake)"
    assert len(create["idempotency_key"]) >= 32
    (connector,) = FakeConnector.made
    assert connector.state == "stopped"
    assert connector.assignment.lease["tunnel_token"] == "tt_1"
    assert connector.assignment.gateway_url.endswith(str(managed.backend.gateway_port))


def test_heartbeats_tell_the_truth() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        # The first beat comes with the lease.
        assert lease.transport.interval_s == 7
        FakeConnector.made[0].state, FakeConnector.made[0].error = "broken", "edge lost"
        async with await serve(lease):
            beat = await managed.beat(lease)
        assert (beat.alive, beat.attached, beat.reason) == (True, False, "edge lost")
        await lease.release(5)

    managed = run(scenario)
    assert managed.backend.said("/heartbeat") == [
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
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.now += TTL_S / 3 - 1
        await managed.beat(lease)
        assert managed.backend.said("/refresh") == []
        managed.now += 2
        beat = await managed.beat(lease)
        assert managed.backend.said("/refresh") == [{"requested_ttl_seconds": TTL_S}]
        assert beat.expires_at is not None
        assert beat.expires_at > NOW + TTL_S
        assert lease.transport.expires_at == REFRESHED
        await lease.release(5)

    run(scenario)


def test_a_lease_that_the_backend_forgot_is_lost() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.backend.leases.clear()
        beat = await managed.beat(lease)
        assert (beat.alive, beat.reason) == (False, "here answered 404: no such lease")
        assert await lease.release(5) is None

    run(scenario)


def test_a_backend_that_is_down_for_a_beat_changes_nothing() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.backend.refusals["/heartbeat"] = TunnelConnectionError("connection refused")
        with pytest.raises(TunnelError):
            await managed.beat(lease)
        assert lease.state is LeaseState.ACTIVE
        await lease.release(5)

    run(scenario)


def test_a_create_that_takes_too_long_is_given_back_all_the_same() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        call = managed.backend.call
        late = asyncio.Event()

        async def slow(request: Request) -> Any:
            if request.path.endswith("/lease"):
                await late.wait()
            return await call(request)

        managed.backend.call = slow  # type: ignore[method-assign]
        lease = managed.lease()
        with pytest.raises(KeeperRequestError, match="the backend did not answer"):
            await lease.ready()
        releasing = asyncio.create_task(lease.release(5))
        await asyncio.sleep(0)
        late.set()
        assert await releasing is None

    assert run(scenario, timeout_s=0.05).backend.leases["lease_1"]["status"] == "released"


def test_a_refresh_that_is_refused_hides_no_action() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.now += TTL_S / 2
        managed.backend.refusals["/refresh"] = from_status(409, {"message": "no"}, where="here")
        assert (await managed.beat(lease, "restart_connector")).alive
        assert len(FakeConnector.made) == 2
        await lease.release(5)

    run(scenario)


def test_an_end_that_is_no_moment_changes_nothing() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.now += TTL_S / 2
        call = managed.backend.call_from_thread
        managed.backend.call_from_thread = (  # type: ignore[method-assign]
            lambda request: call(request) | {"expires_at": "soon"}
        )
        assert (await managed.beat(lease)).alive
        assert lease.transport.expires_at == ENDS
        managed.backend.call_from_thread = call  # type: ignore[method-assign]
        await lease.release(5)

    run(scenario)


@pytest.mark.parametrize("said", [0, -3, "30", None, [], float("inf"), float("nan")])
def test_a_next_heartbeat_that_makes_no_sense(said: object) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        call = managed.backend.call_from_thread
        managed.backend.call_from_thread = (  # type: ignore[method-assign]
            lambda request: call(request) | {"next_heartbeat_seconds": said}
        )
        lease = managed.lease()
        await lease.ready()
        assert lease.transport.interval_s == 30
        assert (await managed.beat(lease)).next_s is None
        managed.backend.call_from_thread = call  # type: ignore[method-assign]
        await lease.release(5)

    run(scenario)


def test_a_backend_that_wants_beats_without_a_pause() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        call = managed.backend.call_from_thread
        managed.backend.call_from_thread = (  # type: ignore[method-assign]
            lambda request: call(request) | {"next_heartbeat_seconds": 1e-9}
        )
        lease = managed.lease()
        await lease.ready()
        assert lease.transport.beat().next_s == 0.1
        managed.backend.call_from_thread = call  # type: ignore[method-assign]
        await lease.release(5)

    run(scenario)


def test_a_connector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeConnector, "hangs", True)

    async def scenario(managed: ManagedLeases) -> None:
        failure = await failure_of(managed.lease())
        assert failure.code == "TUNNEL_NOT_READY"
        assert "is not ready after 0.2 s" in failure.message
        assert "the fake connector has no connection to its edge: dialling" in failure.message
        assert "line two" in failure.message

    run(scenario, timeout_s=0.2)
    assert FakeConnector.made[0].state == "stopped"


def test_a_public_url_that_leads_elsewhere() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        elsewhere = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = elsewhere.sockets[0].getsockname()[1]
        elsewhere.close()
        create = managed.backend._create
        managed.backend._create = lambda body: {  # type: ignore[method-assign]
            **create(body),
            "public_url": f"http://127.0.0.1:{port}/m/x",
        }
        failure = await failure_of(managed.lease())
        assert failure.code == "TUNNEL_NOT_READY"
        assert "the public URL cannot be reached" in failure.message
        assert "r_aaaa" not in failure.message

    run(scenario, timeout_s=0.3)


def test_an_answer_that_is_no_lease() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.backend._create = lambda body: {"lease_id": "lease_x"}  # type: ignore[method-assign]
        failure = await failure_of(managed.lease())
        assert "a lease that cannot be used" in failure.message

    run(scenario)


def test_a_lease_without_a_worker_token_has_none_to_rotate() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        with pytest.raises(KeeperRequestError, match="has no worker token"):
            await lease.transport.refresh_token()
        await lease.release(5)

    run(scenario)


def test_a_backend_that_is_down_at_the_end_is_owed_a_release() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        async with await serve(lease):
            await lease.ready()
            url = lease.url("")
            managed.backend.refusals["/release"] = TunnelConnectionError("connection refused")
            assert await lease.release(0.2) == "connection refused"
            # Nobody gets in any more, whatever the backend thinks.
            assert (await ask(url))[0] == 404

    run(scenario)


SECRET_PATH = "m/0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("url", "part"),
    [
        (f"https://t.example/{SECRET_PATH}", SECRET_PATH),
        (
            "https://green-words-of-chance.trycloudflare.com",
            "green-words-of-chance.trycloudflare.com",
        ),
        ("https://green-words-of-chance.example/app", "green-words-of-chance.example"),
    ],
)
def test_what_of_a_url_reports_leave_out(url: str, part: str) -> None:
    assert secret_part(url) == part
