"""The leases of a run: who gets which, who may close which, and what is counted at the end."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases import registry as module
from pytest_synth_tunnels.keeper.leases.journal import Journal
from pytest_synth_tunnels.keeper.leases.lease import HeldLease
from pytest_synth_tunnels.keeper.leases.registry import COMMON, LeaseRegistry
from pytest_synth_tunnels.keeper.leases.spec import LeaseSpec
from pytest_synth_tunnels.keeper.transports.synthtunnel import SynthTunnelTransport
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError
from pytest_synth_tunnels.settings import Settings

from ...support.synth_leases import MADE, FakeBackendClient, FakeLedgerRecorder, failure_of

TARGET = Target("127.0.0.1", 9001)


class FakeTransports:
    """A factory whose transports all have the same backend."""

    def __init__(self, backend_client: FakeBackendClient, ledger: Any) -> None:
        self.backend_client = backend_client
        self.ledger_recorder = ledger
        self.closed = False

    def make(self, provider: str, spec: LeaseSpec) -> SynthTunnelTransport:
        return SynthTunnelTransport(
            self.backend_client, self.ledger_recorder, spec, Agent(patience_s=0)
        )

    async def close(self) -> None:
        self.closed = True


class Leases:
    """A registry, its backend and its journal."""

    def __init__(self, share: str, answers: dict[str, list[Any]], ledger: Any) -> None:
        made = [MADE | {"lease_id": f"lease_{number}"} for number in range(1, 9)]
        self.backend_client = FakeBackendClient(**({"POST": made, "DELETE": [{}] * 9} | answers))
        self.transports = FakeTransports(self.backend_client, ledger)
        self.journal = Journal()
        self.registry = LeaseRegistry(
            run_id="r1",
            settings=Settings(share=share),
            transports=self.transports,  # type: ignore[arg-type]
            on_event=lambda *_: None,
            journal=self.journal,
        )

    def expose(self, pid: int = 1) -> HeldLease:
        return self.registry.expose(
            pid,
            TARGET,
            provider="synthtunnel",
            ttl_s=None,
            name="hooks",
            require_token=True,
            url_style="path",
        )


def run(
    test: Callable[[Leases], Coroutine[Any, Any, None]],
    share: str = "run",
    ledger: Any = None,
    **answers: list[Any],
) -> Leases:
    async def main() -> Leases:
        leases = Leases(share, answers, ledger)
        async with asyncio.timeout(20):
            try:
                await test(leases)
            finally:
                await leases.registry.finish(5)
        return leases

    return asyncio.run(main())


def test_one_lease_for_the_run() -> None:
    async def test(leases: Leases) -> None:
        one, two = leases.registry.shared("gw1", 9001), leases.registry.shared("gw2", 9002)
        await one.ready()

        assert one is two
        assert leases.registry.is_common(one)
        assert leases.registry.is_shared(one)
        assert leases.registry.is_used_by(one, 5, "gw7")
        one.targets.set_target("gw1", TARGET)
        leases.registry.vacate("gw1")
        with pytest.raises(KeeperRequestError, match="gw1"):
            one.info("gw1")

    leases = run(test)
    assert leases.backend_client.methods == ["POST", "DELETE"]
    assert (leases.registry.created, leases.registry.released) == (1, 1)
    assert leases.transports.closed


def test_a_lease_for_each_address_ends_with_it() -> None:
    async def test(leases: Leases) -> None:
        one, two = leases.registry.shared("gw1", 9001), leases.registry.shared("gw2", 9002)
        await asyncio.gather(one.ready(), two.ready())

        assert one is not two
        assert not leases.registry.is_common(one)
        assert leases.registry.is_used_by(one, 5, "gw1")
        assert not leases.registry.is_used_by(one, 5, "gw2")
        leases.registry.vacate("gw1")
        assert await one.release(5) is None  # waits for the release that has begun
        assert (await failure_of(one)).code == "LEASE_OVER"
        assert leases.registry.find("lease_2") is two
        with pytest.raises(KeeperRequestError, match="holds no lease lease_1"):
            leases.registry.find("lease_1")
        with pytest.raises(KeeperRequestError, match="there is no lease that this belongs to"):
            leases.registry.find("")

    run(test, share="worker")


async def failing(lease: HeldLease) -> str:
    return (await failure_of(lease)).message


def test_what_refuses_the_first_lease_refuses_all_and_is_asked_once() -> None:
    async def test(leases: Leases) -> None:
        shared = [leases.registry.shared(f"gw{number}", 9000) for number in range(4)]

        messages = {await failing(lease) for lease in shared}

        assert len(messages) == 1
        assert "no route" in messages.pop()

    leases = run(test, share="worker", POST=[TunnelConnectionError("no route")])
    assert leases.backend_client.methods == ["POST"]
    assert leases.journal.drain() == []


def test_a_process_closes_its_own_leases_alone() -> None:
    async def test(leases: Leases) -> None:
        lease = leases.expose(pid=1)
        shared = leases.registry.shared("", 9000)
        await asyncio.gather(lease.ready(), shared.ready())
        assert not leases.registry.is_used_by(lease, 2, "")

        for lease_id, pid, code in [
            (lease.lease_id, 2, "LEASE_FOREIGN"),
            (shared.lease_id, 1, "LEASE_SHARED"),
        ]:
            with pytest.raises(KeeperRequestError) as caught:
                await leases.registry.close(lease_id, pid)
            assert caught.value.code == code
        await leases.registry.close(lease.lease_id, 1)
        await leases.registry.close(lease.lease_id, 1)
        with pytest.raises(KeeperRequestError, match="holds no lease"):
            leases.registry.find(lease.lease_id)

    kinds = [(event["kind"], event["lease"]["lease_id"]) for event in run(test).journal.drain()]
    assert sorted(kinds) == [
        ("created", "lease_1"),
        ("created", "lease_2"),
        ("released", "lease_1"),
        ("released", "lease_2"),
    ]


def test_what_a_process_exposed_ends_with_it() -> None:
    async def test(leases: Leases) -> None:
        own, other = leases.expose(pid=1), leases.expose(pid=2)
        await asyncio.gather(own.ready(), other.ready())

        leases.registry.leave(1)

        assert await own.release(5) is None  # waits for the release that has begun
        assert (await failure_of(own)).code == "LEASE_OVER"
        await other.ready()

    assert run(test).registry.released == 2


def test_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_EXPOSED", 2)

    async def test(leases: Leases) -> None:
        await asyncio.gather(leases.expose().ready(), leases.expose().ready())

        with pytest.raises(KeeperRequestError, match="2 leases are open already"):
            leases.expose()

    run(test)


@pytest.mark.parametrize(("hosted", "hint"), [(False, False), (True, True)])
def test_what_cannot_be_released_is_reported(
    hosted: bool, hint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RELEASE_TIMEOUT_S", 0.05)

    class Ledger(FakeLedgerRecorder):
        async def release_stale(self) -> None:
            pass

    async def test(leases: Leases) -> None:
        await leases.registry.shared("", 9000).ready()

    leases = run(test, ledger=Ledger() if hosted else None, DELETE=[TunnelConnectionError("down")])
    (line,) = leases.registry.unreleased
    assert line.startswith("lease lease_1 could not be released: down")
    assert ("leases --release-stale" in line) is hint
    assert (leases.registry.created, leases.registry.released) == (1, 0)


def test_the_common_address_is_the_one_without_a_name() -> None:
    async def test(leases: Leases) -> None:
        lease = leases.registry.shared(COMMON, 9000)
        lease.targets.set_target(COMMON, TARGET)
        leases.registry.vacate(COMMON)  # as when the last process without an address leaves
        await lease.ready()
        assert lease.info(COMMON).local_port == 9001

    run(test)


def test_it_knows_what_must_not_be_shown() -> None:
    async def test(leases: Leases) -> None:
        leases.backend_client.api_key = "sk-1"
        assert leases.registry.secrets() == {"sk-1"}
        await leases.registry.shared("gw1", 9001).ready()
        assert leases.registry.secrets() == {"sk-1", MADE["worker_token"]}

    run(test)
