"""What the processes of a run show and tell of their waits, at times that the test says."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.open_waits import OpenWait, read_waits, write_waits
from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory
from pytest_synth_tunnels.run_waits import RunWaits, ToldWaits
from pytest_synth_tunnels.wait_display import StreamScreen, WaitDisplay


class Run:
    """A run directory, the time, and what is on the screen."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.now_s = 50.0
        self.directory = RunDirectory(str(path))
        self._capsys = capsys

    def waits(self, **options: Any) -> RunWaits:
        display = WaitDisplay(StreamScreen(sys.stdout), now=lambda: self.now_s)
        return RunWaits(self.directory, display, now=lambda: self.now_s, **options)

    def start(self) -> None:
        """Be a run whose keeper listens."""
        Path(self.directory.run_file).write_text("{}")

    def shown(self) -> str:
        return self._capsys.readouterr().out


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, capsys)


def test_a_keeper_that_starts(run: Run) -> None:
    run.waits().waiting(4.0)

    assert run.shown() == "waiting 4 s for the tunnel keeper to start\n"


def test_a_keeper_that_will_not_start_is_not_waited_for(run: Run) -> None:
    run.directory.claim()
    run.directory.mark_failed()

    run.waits().waiting(4.0)

    assert run.shown() == ""


def test_what_the_keeper_tells(run: Run) -> None:
    run.start()
    waits = run.waits(rename=lambda text: text.replace("synth_tunnels_command", "--command"))
    waits.waiting(4.0)
    assert run.shown() == ""

    write_waits(run.directory, "", [OpenWait("synth_tunnels_command to listen", 40.0)], 50.0)
    waits.waiting(4.0)
    waits.over()
    assert run.shown() == "waiting 10 s for --command to listen\n"


def test_what_the_process_itself_waits_for(run: Run) -> None:
    waits = run.waits()

    waits.waiting_for("shop:app to start", 1.5)
    waits.waiting_for("shop:app to start", 2.5)
    waits.over()

    assert run.shown() == "waiting 2 s for shop:app to start\n"


def test_a_thread_that_may_not_write_shows_nothing(run: Run) -> None:
    waits = run.waits(may_show=lambda: False)

    waits.waiting(4.0)
    waits.waiting_for("shop:app to start", 4.0)
    waits.over()

    assert run.shown() == ""


def test_who_waits_for_nothing_shows_what_others_wait_for(run: Run) -> None:
    waits = run.waits()
    for _ in range(10):
        waits.look()
        run.now_s += 1.0
    assert run.shown() == ""

    run.directory.claim()
    for _ in range(4):
        waits.look()
        run.now_s += 1.0
    assert run.shown() == "waiting 3 s for the tunnel keeper to start\n"

    run.start()
    waits.look()
    write_waits(run.directory, "gw1", [OpenWait("shop:app to start", run.now_s - 5)], run.now_s)
    waits.look()
    assert run.shown() == "waiting 5 s for shop:app to start\n"

    run.directory.remove()
    waits.look()
    assert run.shown() == ""


def test_a_worker_tells_what_it_waits_for(run: Run) -> None:
    told = ToldWaits(run.directory, "gw1", now=lambda: run.now_s)

    told.waiting_for("shop:app to start", 2.0)
    assert read_waits(run.directory, run.now_s) == []
    told.waiting_for("shop:app to start", 2.5)
    assert read_waits(run.directory, run.now_s) == [OpenWait("shop:app to start", 47.5)]
    told.over()
    told.over()
    assert list(Path(run.directory.path).iterdir()) == []
