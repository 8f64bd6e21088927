"""What the keeper writes into the ledger, and releases for dead keepers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.ledger.ledger import HostIdentity, Ledger
from pytest_synth_tunnels.keeper.ledger.recorder import LedgerRecorder
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError, from_status

from ...support.synth_leases import NOW, FakeBackendClient, run


def recorder(
    folder: Path, backend_client: FakeBackendClient, lock: str = "/run/keeper.lock"
) -> LedgerRecorder:
    ledger = Ledger(str(folder), now=lambda: NOW)
    return LedgerRecorder(ledger, backend_client, lock, now=lambda: NOW)


def test_a_lease_is_written_down_with_its_keeper_and_crossed_out(tmp_path: Path) -> None:
    async def main() -> None:
        own = recorder(tmp_path, FakeBackendClient())
        await own.add("lease_1", "ngrok", NOW + 60)

        (entry,) = Ledger(str(tmp_path), now=lambda: NOW).entries()
        here = HostIdentity.here()
        assert (entry.lease_id, entry.provider, entry.lock) == (
            "lease_1",
            "ngrok",
            "/run/keeper.lock",
        )
        assert (entry.host, entry.boot) == (here.host, here.boot)
        assert "sk" not in entry.key_hash
        await own.remove("lease_1")
        assert Ledger(str(tmp_path), now=lambda: NOW).entries() == []

    run(main())


@pytest.mark.parametrize(
    ("answer", "left"),
    [({}, []), (from_status(404, {}, where="x"), []), (TunnelConnectionError("no"), ["lease_1"])],
)
def test_what_a_dead_keeper_left_is_released(tmp_path: Path, answer: Any, left: list[str]) -> None:
    async def main() -> None:
        dead = recorder(tmp_path, FakeBackendClient(), lock=str(tmp_path / "gone" / "keeper.lock"))
        await dead.add("lease_1", "synthtunnel", NOW + 60)
        backend_client = FakeBackendClient(DELETE=[answer])

        await recorder(tmp_path, backend_client).release_stale()

        assert backend_client.methods == ["DELETE"]
        entries = Ledger(str(tmp_path), now=lambda: NOW).entries()
        assert [entry.lease_id for entry in entries] == left

    run(main())


def test_a_ledger_that_cannot_be_used_fails_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("")
        own = recorder(tmp_path / "file" / "folder", FakeBackendClient())
        await own.add("lease_1", "synthtunnel", NOW + 60)
        await own.release_stale()

    asyncio.run(main())
    assert "cannot write lease lease_1 into the ledger" in caplog.text
