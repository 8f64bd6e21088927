"""Connectors that leases share, and those that fail."""

import asyncio

import pytest

from pytest_synth_tunnels.connectors.base import ConnectorError

from ...support.managed_leases import (
    FakeConnector,
    ManagedLeases,
    failure_of,
    run,
)


def test_leases_of_one_tunnel_share_its_connector_until_it_is_idle() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.backend.tunnel_token = "tt"
        one, two = managed.lease(), managed.lease()
        await asyncio.gather(one.ready(), two.ready())
        (connector,) = FakeConnector.made
        await one.release(5)
        assert connector.state == "connected"
        await two.release(5)
        await connector.stopped.wait()
        three = managed.lease()
        await three.ready()
        assert len(FakeConnector.made) == 2
        await three.release(5)

    run(scenario, idle_s=0)


def test_a_connector_that_failed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.backend.tunnel_token = "tt"
        with monkeypatch.context() as patch:
            patch.setattr(FakeConnector, "fails", ConnectorError("no network"))
            await failure_of(managed.lease())
        again = managed.lease()
        await again.ready()
        await again.release(5)

    run(scenario)


def test_leases_that_share_a_connector_restart_it_once() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.backend.tunnel_token = "tt"
        one, two = managed.lease(), managed.lease()
        await asyncio.gather(one.ready(), two.ready())
        managed.backend.actions[:] = ["restart_connector", "restart_connector"]
        for lease in (one, two):  # the loop has no turn between them
            lease.transport.beat()
        await asyncio.sleep(0)
        actions = [t.transport.actions for t in (one, two)]  # type: ignore[attr-defined]
        await asyncio.wait([queue.task for queue in actions])
        assert [queue.last_error for queue in actions] == ["", ""]
        assert [connector.state for connector in FakeConnector.made] == ["stopped", "connected"]
        await asyncio.gather(one.release(5), two.release(5))

    run(scenario)


def test_a_connector_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeConnector, "fails", ConnectorError("the token is bad", "Get another"))

    async def scenario(managed: ManagedLeases) -> None:
        failure = await failure_of(managed.lease())
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

    async def scenario(managed: ManagedLeases) -> None:
        failure = await failure_of(managed.lease())
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

    async def scenario(managed: ManagedLeases) -> None:
        monkeypatch.setattr(FakeConnector, "hangs", True)
        monkeypatch.setattr(FakeConnector, "stop", stop)
        await failure_of(managed.lease())

    run(scenario, timeout_s=0.5)
    assert FakeConnector.made[0].state == "stopped"


def test_an_unknown_provider() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        failure = await failure_of(managed.lease("pigeon"))
        assert failure.code == "TUNNEL_PROVIDER_INVALID"
        assert "'pigeon'" in failure.message

    assert run(scenario).backend.asked == []


def test_a_connector_whose_failure_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        await lease.ready()
        monkeypatch.setattr(FakeConnector, "fails", KeyError("origin"))
        await managed.beat(lease, "restart_connector")
        monkeypatch.setattr(FakeConnector, "fails", None)
        await managed.beat(lease, "restart_connector")
        await managed.beat(lease)
        await lease.release(5)

    errors = [body["last_error"] for body in run(scenario).backend.said("/heartbeat")]
    assert errors == [None, None, "restart_connector failed: KeyError: 'origin'", None]
