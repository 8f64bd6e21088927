"""A lease at the backend, from the create to the release."""

import asyncio
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.backend_record import BackendLeaseRecord, CreatedLease
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError
from pytest_synth_tunnels.sdk.requests import Request

from ...support.synth_leases import MADE, FakeBackendClient, FakeLedgerRecorder, run

CREATE = Request("POST", "/create")


def record_of(
    backend_client: FakeBackendClient, ledger: FakeLedgerRecorder | None = None
) -> BackendLeaseRecord:
    return BackendLeaseRecord(backend_client, "synthtunnel", ledger)  # type: ignore[arg-type]


def test_a_lease_is_written_down_as_soon_as_it_is_created_and_crossed_out() -> None:
    async def main() -> None:
        backend_client, ledger = FakeBackendClient(), FakeLedgerRecorder()
        record = record_of(backend_client, ledger)

        created, answer = await record.create(CREATE, CreatedLease)

        assert (created.expires_at, answer) == (MADE["expires_at"], MADE)
        assert ledger.lines == [record.lease_id] == ["lease_1"]
        await record.release()
        assert record.released
        assert ledger.lines == []

    run(main())


def test_two_releases_at_once_ask_the_backend_once() -> None:
    async def main() -> None:
        backend_client = FakeBackendClient()
        record = record_of(backend_client)
        await record.create(CREATE, CreatedLease)

        await asyncio.gather(record.release(), record.release())

        assert backend_client.methods == ["POST", "DELETE"]

    run(main())


def test_a_create_whose_caller_gave_up_is_released_when_it_is_answered() -> None:
    async def main() -> None:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        backend_client = FakeBackendClient(POST=[answer])
        record = record_of(backend_client)
        creating = asyncio.create_task(record.create(CREATE, CreatedLease))
        while not backend_client.asked:  # noqa: ASYNC110 - the fake has no event for it
            await asyncio.sleep(0)
        creating.cancel()
        releasing = asyncio.create_task(record.release())
        await asyncio.sleep(0)
        assert not releasing.done()

        answer.set_result(MADE)

        await releasing
        assert record.released

    run(main())


def test_a_create_that_was_refused_leaves_nothing_to_release() -> None:
    async def main() -> None:
        backend_client = FakeBackendClient(POST=[TunnelConnectionError("refused")])
        record = record_of(backend_client)

        with pytest.raises(TunnelConnectionError):
            await record.create(CREATE, CreatedLease)

        await record.release()
        assert backend_client.methods == ["POST"]
        assert not record.released

    run(main())


def test_an_answer_that_cannot_be_used_names_the_backend_and_keeps_the_id() -> None:
    async def main() -> None:
        backend_client = FakeBackendClient(POST=[{"lease_id": "lease_1"}])
        record = record_of(backend_client)

        with pytest.raises(KeeperRequestError, match=r"the backend at https://backend\.example"):
            await record.create(CREATE, CreatedLease)

        await record.release()
        assert backend_client.methods == ["POST", "DELETE"]

    run(main())


def test_a_lease_that_was_created_by_mistake_is_released() -> None:
    async def main() -> None:
        backend_client = FakeBackendClient()
        record = record_of(backend_client)

        await record.release_another({"lease_id": "lease_2"})

        assert str(backend_client.asked[0]).endswith("/lease_2")
        assert not record.released

    run(main())
