"""Waits that are told through files, at times that the test says."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_synth_tunnels.keeper.open_waits import OpenWait, OpenWaits, read_waits, write_waits
from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory


class Clock:
    """A time, and the calls that are to come."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._calls: list[tuple[float, Callable[[], None], Clock.Call]] = []

    class Call:
        is_cancelled = False

        def cancel(self) -> None:
            self.is_cancelled = True

    def call_later(self, delay_s: float, function: Callable[[], None]) -> "Clock.Call":
        call = Clock.Call()
        self._calls.append((self.now_s + delay_s, function, call))
        return call

    @property
    def waiting(self) -> int:
        """How many calls are to come."""
        return sum(not call.is_cancelled for _, _, call in self._calls)

    def advance(self, by_s: float) -> None:
        end_s = self.now_s + by_s
        while due := [entry for entry in self._calls if entry[0] <= end_s]:
            entry = min(due, key=lambda one: one[0])
            self._calls.remove(entry)
            self.now_s, function, call = entry
            if not call.is_cancelled:
                function()
        self.now_s = end_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


@pytest.fixture
def waits(directory: RunDirectory, clock: Clock) -> OpenWaits:
    return OpenWaits(directory, call_later=clock.call_later, now=lambda: clock.now_s)


def test_a_short_wait_writes_nothing(
    waits: OpenWaits, clock: Clock, directory: RunDirectory
) -> None:
    with waits.waiting(lambda: "a lease"):
        clock.advance(1.9)
        assert os.listdir(directory.path) == []

    assert clock.waiting == 0


def test_a_long_wait_is_told_until_its_end(
    waits: OpenWaits, clock: Clock, directory: RunDirectory
) -> None:
    what = "a lease"
    with waits.waiting(lambda: what):
        clock.advance(2.0)
        assert read_waits(directory, clock.now_s) == [OpenWait("a lease", 100.0)]
        what = "the connector"
        clock.advance(0.5)
        assert read_waits(directory, clock.now_s) == [OpenWait("the connector", 100.0)]
        (path,) = Path(directory.path).iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    assert os.listdir(directory.path) == []
    assert clock.waiting == 0


def test_what_several_wait_for_is_told_once(
    waits: OpenWaits, clock: Clock, directory: RunDirectory
) -> None:
    with waits.waiting(lambda: "a lease"):
        clock.advance(1.0)
        with waits.waiting(lambda: "a lease"), waits.waiting(lambda: "the command"):
            clock.advance(2.0)
            assert read_waits(directory, clock.now_s) == [
                OpenWait("a lease", 100.0),
                OpenWait("the command", 101.0),
            ]
        assert read_waits(directory, clock.now_s) == [OpenWait("a lease", 100.0)]

    assert read_waits(directory, clock.now_s) == []


def test_a_wait_that_fails_is_over(waits: OpenWaits, clock: Clock, directory: RunDirectory) -> None:
    def fail() -> None:
        with waits.waiting(lambda: "a lease"):
            clock.advance(3.0)
            raise ValueError("no lease")

    with pytest.raises(ValueError, match="no lease"):
        fail()
    assert os.listdir(directory.path) == []


def test_nobody_is_told_without_a_directory(clock: Clock) -> None:
    waits = OpenWaits(None, call_later=clock.call_later, now=lambda: clock.now_s)
    with waits.waiting(lambda: "a lease"):
        assert clock.waiting == 0


def test_processes_tell_beside_each_other(directory: RunDirectory, clock: Clock) -> None:
    write_waits(directory, "gw1", [OpenWait("app b to start", 7.0)], 100.0)
    write_waits(directory, "", [OpenWait("a lease", 5.0)], 100.0)
    write_waits(directory, "gw0", [OpenWait("app a to start", 6.0)], 100.0)
    write_waits(directory, "gw1", [], 100.0)

    assert read_waits(directory, clock.now_s) == [
        OpenWait("a lease", 5.0),
        OpenWait("app a to start", 6.0),
    ]


@pytest.mark.parametrize(
    "content",
    [
        *("", "[[", "7", "{}", "[1]", '{"told_s": null, "waits": []}'),
        *('{"told_s": 100, "waits": [["a"]]}', '{"told_s": 100, "waits": [["a", "b"]]}'),
    ],
)
def test_a_file_that_is_none_is_left_out(
    directory: RunDirectory, clock: Clock, content: str
) -> None:
    write_waits(directory, "gw0", [OpenWait("app to start", 6.0)], 100.0)
    (Path(directory.path) / "waits-gw1").write_text(content)

    assert read_waits(directory, clock.now_s) == [OpenWait("app to start", 6.0)]


def test_where_nothing_can_be_written_nothing_is_told(tmp_path: Path) -> None:
    gone = RunDirectory(str(tmp_path / "gone"))

    write_waits(gone, "", [OpenWait("a lease", 5.0)], 100.0)
    write_waits(gone, "", [], 100.0)

    assert read_waits(gone, 5.0) == []


def test_a_file_that_nobody_renews_counts_no_more(
    waits: OpenWaits, clock: Clock, directory: RunDirectory
) -> None:
    with waits.waiting(lambda: "a lease"):
        clock.advance(60.0)
        assert read_waits(directory, clock.now_s) == [OpenWait("a lease", 100.0)]
        assert read_waits(directory, clock.now_s + 4.9) == [OpenWait("a lease", 100.0)]
        assert read_waits(directory, clock.now_s + 5.1) == []
