import json
import os
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_synth_tunnels.keeper.process.process_start import process_start
from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory
from pytest_synth_tunnels.keeper.process.stale_runs import remove_stale_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="start times come from /proc")


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = RunDirectory(f"{tmp_path_factory.mktemp('b')}/user/own")
    directory.create()
    return directory


def leave(own: RunDirectory, owner_pid: int, owner_start: str | None) -> RunDirectory:
    """Make the directory of another run."""
    directory = RunDirectory(own.path.replace("own", "other"))
    directory.create()
    directory.claim()
    run_file = {"pid": 1, "owner_pid": owner_pid, "owner_start": owner_start}
    Path(directory.run_file).write_text(json.dumps(run_file))
    return directory


def test_a_directory_without_owner_and_keeper_goes(own: RunDirectory) -> None:
    other = leave(own, os.getpid(), "1")

    remove_stale_runs(own)

    assert os.listdir(os.path.dirname(other.path)) == ["own"]


def test_it_stays_while_its_owner_lives(own: RunDirectory) -> None:
    other = leave(own, os.getpid(), process_start(os.getpid()))

    remove_stale_runs(own)

    assert other.is_claimed()


def test_it_stays_while_its_keeper_lives(own: RunDirectory) -> None:
    other = leave(own, os.getpid(), "1")

    with FileLock(other.lock):
        remove_stale_runs(own)

    assert other.is_claimed()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"owner_pid": "x", "owner_start": "1"}'])
def test_one_that_does_not_tell_its_owner_goes_after_a_day(own: RunDirectory, content: str) -> None:
    other = leave(own, 1, None)
    Path(other.run_file).write_text(content)

    remove_stale_runs(own)
    assert other.is_claimed()

    os.utime(other.path, (0, time.time() - 90_000))
    remove_stale_runs(own)
    assert not other.is_claimed()


def test_a_run_that_has_ended_meanwhile_is_no_error(own: RunDirectory) -> None:
    own.remove()

    remove_stale_runs(own)
