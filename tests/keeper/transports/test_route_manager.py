"""What the backend asks for in the answers to heartbeats, and what follows."""

import asyncio
import time
from typing import Any

import pytest

from pytest_synth_tunnels.connectors.base import ConnectorError
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError, TunnelError, from_status
from pytest_synth_tunnels.sdk.requests import Request

from ...support.managed_leases import (
    FakeConnector,
    ManagedLeases,
    OwnUrlConnector,
    ask,
    run,
    serve,
)


def test_the_connector_is_restarted() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        async with await serve(lease):
            await lease.ready()
            url = lease.url("")
            await managed.beat(lease, "restart_connector")
            assert [connector.state for connector in FakeConnector.made] == ["stopped", "connected"]
            assert (await lease.transport.status())["connector"]["starts"] == 2
            assert lease.url("") == url
            assert await ask(f"{url}/x") == (200, b"app /x")
        assert managed.told == []
        await lease.release(5)

    run(scenario)


def test_the_tunnel_is_rotated() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        async with await serve(lease):
            await lease.ready()
            await managed.beat(lease, "rotate_tunnel")
            assert await ask(lease.url("") + "/x") == (200, b"app /x")
        assert lease.lease_id == "lease_1"
        tokens = [connector.assignment.lease["tunnel_token"] for connector in FakeConnector.made]
        assert tokens == ["tt_1", "tt_1+"]
        await lease.release(5)

    managed = run(scenario)
    (rotation,) = managed.backend.said("/rotate")
    assert rotation["local_port"] == managed.backend.gateway_port
    one, again = managed.backend.said("/lease")
    assert one == again


def test_a_rotation_that_changes_nothing_restarts_the_connector() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        gone = from_status(404, {"code": "not_found", "message": "no tunnel"}, where="here")
        managed.backend.refusals["/rotate"] = gone
        await managed.beat(lease, "rotate_tunnel")
        assert [connector.state for connector in FakeConnector.made] == ["stopped", "connected"]
        await lease.release(5)

    run(scenario)


def test_a_backend_that_forgets_idempotency_keys_is_left_nothing() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.backend.by_key.clear()
        await managed.beat(lease, "rotate_tunnel")
        assert lease.lease_id == "lease_1"
        assert managed.backend.leases["lease_2"]["status"] == "released"
        await managed.beat(lease)
        await lease.release(5)

    last_error = run(scenario).backend.said("/heartbeat")[-1]["last_error"]
    assert last_error == "rotate_tunnel failed: the backend forgot the lease's idempotency key"


def test_the_tunnel_is_made_anew() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        async with await serve(lease):
            await lease.ready()
            before = lease.url("")
            await managed.beat(lease, "recreate_tunnel")
            assert lease.lease_id == "lease_2"
            assert lease.transport.has_id("lease_1")
            assert lease.url("") != before
            assert await ask(lease.url("") + "/x") == (200, b"app /x")
            assert (await ask(f"{before}/x"))[0] == 404
            assert (await managed.beat(lease)).alive
        reason = "the backend asked for recreate_tunnel"
        assert managed.told == [
            ("moved", f"lease lease_2: it has another public URL now: {reason}"),
        ]
        assert await lease.release(5) is None

    managed = run(scenario)
    assert {lease["status"] for lease in managed.backend.leases.values()} == {"released"}
    one, two = managed.backend.said("/lease")
    assert one["idempotency_key"] != two["idempotency_key"]


def test_what_cannot_be_done_is_reported_with_the_next_beat() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        async with await serve(lease):
            await lease.ready()
            managed.backend.refusals["/lease"] = TunnelConnectionError("connection refused")
            await managed.beat(lease, "recreate_tunnel")
            await managed.beat(lease)
            assert await ask(lease.url("") + "/x") == (200, b"app /x")
            del managed.backend.refusals["/lease"]
            await managed.beat(lease, "recreate_tunnel")
            await managed.beat(lease)
        assert await lease.release(5) is None

    managed = run(scenario)
    errors = [body["last_error"] for body in managed.backend.said("/heartbeat")]
    assert errors == [None, None, "recreate_tunnel failed: connection refused", None, None]


def test_a_replacement_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        monkeypatch.setattr(FakeConnector, "fails", ConnectorError("the edge is down"))
        await managed.beat(lease, "recreate_tunnel")
        assert lease.lease_id == "lease_1"
        # At once, not at the end.
        while managed.backend.leases["lease_2"]["status"] != "released":  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert await lease.release(5) is None

    managed = run(scenario)
    assert {lease["status"] for lease in managed.backend.leases.values()} == {"released"}


def test_an_unknown_action_is_ignored() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        assert (await managed.beat(lease, "dance")).alive
        await lease.release(5)

    assert run(scenario).told == []


def test_a_connector_may_come_back_with_another_url(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.now = time.time()  # its backend is a real one
        lease = managed.lease("own-url")
        await lease.ready()
        assert lease.transport.backend_url != managed.backend.url
        port = FakeConnector.made[0].assignment.gateway_url.rpartition(":")[2]
        monkeypatch.setattr(OwnUrlConnector, "origin", f"http://localhost:{port}")
        await managed.beat(lease)
        assert lease.url("").startswith(f"http://localhost:{port}/m/r_")
        assert managed.told[0][1].endswith("it has another public URL now: its edge moved it")
        await lease.release(5)

    assert run(scenario).backend.asked == []


def test_nothing_is_asked_for_once_the_lease_is_given_back() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        assert await lease.release(5) is None
        await managed.beat(lease, "recreate_tunnel")  # was in flight in its thread

    assert list(run(scenario).backend.leases) == ["lease_1"]


def test_a_replacement_that_is_being_made_at_the_end_is_given_back() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        asked, answers = asyncio.Event(), asyncio.Event()
        call = managed.backend.call

        async def slow(request: Request) -> Any:
            if request.path.endswith("/lease"):
                asked.set()
                await answers.wait()
            return await call(request)

        managed.backend.call = slow  # type: ignore[method-assign]
        managed.backend.actions[:] = ["recreate_tunnel"]
        await asyncio.to_thread(lease.transport.beat)
        await asked.wait()
        releasing = asyncio.create_task(lease.release(5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answers.set()
        assert await releasing is None

    leases = run(scenario).backend.leases
    assert {name: lease["status"] for name, lease in leases.items()} == {
        "lease_1": "released",
        "lease_2": "released",
    }


def test_a_lease_that_is_gone_while_it_is_replaced_is_not_lost() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        asked, answers = asyncio.Event(), asyncio.Event()
        call = managed.backend.call

        async def slow(request: Request) -> Any:
            if request.path.endswith("/lease"):
                asked.set()
                await answers.wait()
            return await call(request)

        managed.backend.call = slow  # type: ignore[method-assign]
        managed.backend.actions[:] = ["recreate_tunnel"]
        await asyncio.to_thread(lease.transport.beat)
        await asked.wait()
        del managed.backend.leases["lease_1"]
        with pytest.raises(TunnelError):  # a beat in vain, and no more than that
            await asyncio.to_thread(lease.transport.beat)
        answers.set()
        await asyncio.wait([lease.transport.actions.task])  # type: ignore[attr-defined]
        assert (await managed.beat(lease)).alive
        assert lease.lease_id == "lease_2"
        assert await lease.release(5) is None

    run(scenario)


def test_what_is_asked_for_meanwhile_is_done_after_that() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.backend.actions[:] = ["restart_connector", "recreate_tunnel", "recreate_tunnel"]
        for _ in range(3):  # the loop has no turn between them
            lease.transport.beat()
        await managed.beat(lease)
        assert lease.lease_id == "lease_2"
        assert [connector.state for connector in FakeConnector.made].count("connected") == 2
        assert await lease.release(5) is None

    run(scenario)


def test_a_replaced_lease_that_cannot_be_given_back_is_named() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        managed.backend.refusals["lease_1/release"] = TunnelConnectionError("connection refused")
        await managed.beat(lease, "recreate_tunnel")
        assert await lease.release(0.3) == "lease_1, which it replaced: connection refused"

    assert run(scenario).backend.leases["lease_2"]["status"] == "released"


def test_an_account_s_lease_comes_from_the_backend_though_the_connector_knows_its_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "pytest_synth_tunnels.keeper.transports.route_manager.ACCOUNTS", ("own-url",)
    )
    monkeypatch.setattr("pytest_synth_tunnels.keeper.transports.provider_route.ACCOUNTS", ())

    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease("own-url")
        await lease.ready()
        assert lease.lease_id == "lease_1"
        (connector,) = FakeConnector.made
        assert connector.assignment.lease["tunnel_token"] == "tt_1"
        # It takes whichever port is free, and its origin is the public one.
        assert not connector.assignment.gateway_url.endswith(str(managed.backend.gateway_port))
        assert lease.url("").startswith(connector.assignment.gateway_url)
        await lease.release(5)

    run(scenario)
