import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_synth_tunnels.keeper.ledger.ledger import (
    Entry,
    HostIdentity,
    KeeperLiveness,
    Ledger,
    hash_key,
    liveness_of,
    remove_traces,
    state_folder,
)

URL, KEY = "https://api.example", hash_key("sk_secret")
NOW = 1_000_000.0


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "user" / "run"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def entry(run_dir: Path) -> Entry:
    lock = run_dir / "keeper.lock"
    lock.touch()
    here = HostIdentity.here()
    return Entry(
        backend_url=URL,
        key_hash=KEY,
        lease_id="lease_1",
        provider="synthtunnel",
        host=here.host,
        boot=here.boot,
        lock=str(lock),
        created_at=NOW,
        expires_at=NOW + 3600,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "state" / "synth-tunnels"), now=lambda: NOW)


def test_a_key_hash_tells_keys_apart_and_reveals_nothing() -> None:
    assert hash_key("sk_secret") == KEY
    assert hash_key("sk_other") != KEY
    assert "sk_secret" not in KEY
    assert len(KEY) == 12


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="folders of Linux")
def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    assert state_folder({}) == "/home/me/.local/state/synth-tunnels"
    assert state_folder({"XDG_STATE_HOME": "/s"}) == "/s/synth-tunnels"
    assert state_folder({"XDG_STATE_HOME": "s"}) == "/home/me/.local/state/synth-tunnels"


def test_written_down_and_crossed_out(ledger: Ledger, entry: Entry, tmp_path: Path) -> None:
    other = replace(entry, lease_id="lease_2")
    ledger.add(entry)
    ledger.add(other)
    assert ledger.entries() == [entry, other]

    ledger.remove(["lease_1", "lease_9"])
    assert ledger.entries() == [other]

    ledger.remove(["lease_2"])
    assert ledger.entries() == []
    assert not (tmp_path / "state" / "synth-tunnels" / "leases.jsonl").exists()


def test_reading_and_removing_make_no_file(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.entries() == []
    assert ledger.stale(URL, KEY, HostIdentity.here()) == []
    ledger.remove(["lease_1"])

    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_nobody_else_can_read_it(ledger: Ledger, entry: Entry, tmp_path: Path) -> None:
    ledger.add(entry)

    folder = tmp_path / "state" / "synth-tunnels"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "secret" not in file.read_text()


def test_what_expired_by_itself_is_no_debt(ledger: Ledger, entry: Entry, tmp_path: Path) -> None:
    ledger.add(replace(entry, expires_at=NOW))
    assert ledger.entries() == []

    ledger.add(entry)
    lines = (tmp_path / "state" / "synth-tunnels" / "leases.jsonl").read_text().splitlines()
    assert [json.loads(line)["lease_id"] for line in lines] == ["lease_1"]


def test_garbage_is_nobodys(ledger: Ledger, entry: Entry, tmp_path: Path) -> None:
    ledger.add(entry)
    path = tmp_path / "state" / "synth-tunnels" / "leases.jsonl"
    path.write_text('{"lease_id": 3}\nhalf a li\n[]\n' + path.read_text() + '{"created_at":"x"}\n')

    assert ledger.entries() == [entry]


def test_stale_is_what_a_dead_keeper_left(ledger: Ledger, entry: Entry) -> None:
    ledger.add(entry)

    with FileLock(entry.lock):
        assert liveness_of(entry, HostIdentity.here()) is KeeperLiveness.LIVE
        assert ledger.stale(URL, KEY, HostIdentity.here()) == []

    assert ledger.stale(URL, KEY, HostIdentity.here()) == [entry]
    assert ledger.stale("https://other.example", KEY, HostIdentity.here()) == []
    assert ledger.stale(URL, hash_key("sk_other"), HostIdentity.here()) == []


def test_the_lock_of_a_killed_process_can_be_taken(entry: Entry) -> None:
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.stdout.flush(); input()", entry.lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert liveness_of(entry, HostIdentity.here()) is KeeperLiveness.LIVE
        process.kill()
        process.wait()
        assert liveness_of(entry, HostIdentity.here()) is KeeperLiveness.STALE


def test_a_keeper_whose_lock_is_gone_is_dead(entry: Entry) -> None:
    os.unlink(entry.lock)

    assert liveness_of(entry, HostIdentity.here()) is KeeperLiveness.STALE
    assert not os.path.exists(entry.lock)


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"boot": "another"}])
def test_nothing_is_known_of_other_machines(entry: Entry, change: dict[str, str]) -> None:
    assert liveness_of(replace(entry, **change), HostIdentity.here()) is KeeperLiveness.UNKNOWN


def test_the_traces_of_a_dead_keeper_go(entry: Entry, run_dir: Path) -> None:
    (run_dir / "claim").mkdir()
    (run_dir / "keeper.json").touch()

    remove_traces(entry)

    assert not run_dir.parent.exists()
    remove_traces(entry)


def test_only_a_run_directory_is_ever_removed(entry: Entry, run_dir: Path) -> None:
    (run_dir / "mine").touch()

    remove_traces(replace(entry, lock=str(run_dir / "mine")))

    assert (run_dir / "mine").exists()
