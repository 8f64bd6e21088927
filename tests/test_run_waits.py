"""What a process that waits for its keeper shows."""

import sys
from pathlib import Path

import pytest

from pytest_synth_tunnels.keeper.open_waits import OpenWait, write_waits
from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory
from pytest_synth_tunnels.run_waits import RunWaits
from pytest_synth_tunnels.wait_display import StreamScreen, WaitDisplay


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def waits(directory: RunDirectory) -> RunWaits:
    now_s = 50.0
    display = WaitDisplay(StreamScreen(sys.stdout), now=lambda: now_s)
    return RunWaits(
        directory,
        display,
        rename=lambda text: text.replace("synth_tunnels_command", "--command"),
        now=lambda: now_s,
    )


def test_a_keeper_that_starts(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    waits(directory).waiting(4.0)

    assert capsys.readouterr().out == "waiting for the tunnel keeper to start (4 s)\n"


def test_what_the_keeper_tells(directory: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    Path(directory.run_file).write_text("{}")
    shown = waits(directory)
    shown.waiting(4.0)
    assert capsys.readouterr().out == ""

    write_waits(directory, "", [OpenWait("synth_tunnels_command to listen", 40.0)])
    shown.waiting(4.0)
    shown.over()
    assert capsys.readouterr().out == "waiting for --command to listen (10 s)\n"
