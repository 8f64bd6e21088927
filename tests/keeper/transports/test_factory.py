"""Which transport a lease gets, and which backend."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pytest_synth_tunnels.keeper.leases.spec import LeaseSpec
from pytest_synth_tunnels.keeper.transports.factory import TransportFactory
from pytest_synth_tunnels.keeper.transports.managed import ManagedTransport
from pytest_synth_tunnels.keeper.transports.synthtunnel import SynthTunnelTransport
from pytest_synth_tunnels.settings import Settings

from ...support.synth_leases import FakeBackendClient, FakeLedgerRecorder

SPEC = LeaseSpec(port=8000, ttl_s=3600, metadata={})


def run(test: Callable[[TransportFactory], Coroutine[Any, Any, None]]) -> FakeBackendClient:
    async def main() -> FakeBackendClient:
        backend_client = FakeBackendClient()
        factory = TransportFactory(
            Settings(),
            backend_client,
            FakeLedgerRecorder(),  # type: ignore[arg-type]
            {},
            time.time,
        )
        async with asyncio.timeout(20):
            try:
                await test(factory)
            finally:
                await factory.close()
        return backend_client

    return asyncio.run(main())


def test_each_provider_has_its_transport() -> None:
    async def test(factory: TransportFactory) -> None:
        synth = factory.make("synthtunnel", SPEC)
        managed = factory.make("cloudflared", SPEC)

        assert isinstance(synth, SynthTunnelTransport)
        assert isinstance(managed, ManagedTransport)
        assert (managed.provider, synth.lease_id, managed.public_url) == ("cloudflared", "", "")
        await synth.close()
        await managed.close()

    assert run(test).attached == ["closed"]


def test_a_connector_that_needs_no_backend_gets_one_of_the_keeper_s_own() -> None:
    async def test(factory: TransportFactory) -> None:
        (own, ledger), (again, _) = await asyncio.gather(
            factory.find_backend(True), factory.find_backend(True)
        )

        assert own is again
        assert own.embedded
        assert own.url.startswith("http://127.0.0.1:")
        assert ledger is None

    run(test)


def test_all_others_get_the_run_s() -> None:
    async def test(factory: TransportFactory) -> None:
        found = await factory.find_backend(False)

        assert found == (factory.backend_client, factory.ledger_recorder)

    run(test)
