"""What a person sees of a wait, at times that the test says."""

import io

import pytest

from pytest_synth_tunnels.keeper.open_waits import OpenWait
from pytest_synth_tunnels.wait_display import StreamScreen, WaitDisplay


class Stream(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class Watched:
    """A display, and what it has written."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.now_s = 0.0
        self._stream = Stream(is_terminal=is_terminal)
        self.display = WaitDisplay(
            StreamScreen(self._stream), prefix="synth tunnels: ", now=lambda: self.now_s
        )

    def show_until(self, end_s: float, *waits: OpenWait) -> None:
        """Show waits twice a second, as those who wait do."""
        while self.now_s < end_s:
            self.now_s += 0.5
            self.display.show(waits)

    def take(self) -> list[str]:
        """Return what has been written since the last call, by lines and rewritten ones."""
        text = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return text.replace("\x1b[K", "").replace("\r", "|").split("\n")


LEASE = OpenWait("a lease", 0.0)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_is_said_of_two_seconds(is_terminal: bool) -> None:
    watched = Watched(is_terminal=is_terminal)

    watched.show_until(2.0, LEASE)
    watched.display.end()

    assert watched.take() == [""]


def test_one_line_is_rewritten_on_a_terminal() -> None:
    watched = Watched(is_terminal=True)

    watched.show_until(4.0, LEASE)
    (shown,) = watched.take()
    assert shown.split("|")[1:] == [
        f"synth tunnels: waiting {number} s for a lease" for number in (2, 3, 4)
    ]
    watched.display.end()
    assert watched.take() == ["|synth tunnels: waited 4 s for a lease", ""]
    watched.display.end()
    assert watched.take() == [""]


def test_a_log_has_a_line_each_ten_seconds() -> None:
    watched = Watched(is_terminal=False)

    watched.show_until(23.0, LEASE)
    watched.display.end()

    assert watched.take() == [
        "synth tunnels: waiting 2 s for a lease",
        "synth tunnels: waiting 12 s for a lease",
        "synth tunnels: waiting 22 s for a lease",
        "",
    ]


def test_several_waits_share_the_line() -> None:
    watched = Watched(is_terminal=True)

    watched.show_until(4.0, LEASE, OpenWait("the command", 1.0), OpenWait("an app", 3.0))

    assert watched.take()[-1].endswith("waiting 4 s for a lease and 3 s for the command")


def test_what_others_write_does_not_meet_an_open_line() -> None:
    watched = Watched(is_terminal=True)

    watched.show_until(2.5, LEASE)
    watched.display.pause()
    assert watched.take() == ["|synth tunnels: waiting 2 s for a lease", ""]
    watched.show_until(12.0, LEASE)
    assert watched.take() == [""]
    watched.show_until(12.5, LEASE)
    assert watched.take() == ["|synth tunnels: waiting 12 s for a lease"]
    watched.display.pause()
    watched.display.end()
    assert watched.take() == ["", ""]


def test_the_next_wait_is_said_at_once() -> None:
    watched = Watched(is_terminal=False)

    watched.show_until(3.0, LEASE)
    watched.display.show([])
    watched.show_until(5.5, OpenWait("the command", 3.0))

    assert watched.take() == [
        "synth tunnels: waiting 2 s for a lease",
        "synth tunnels: waiting 2 s for the command",
        "",
    ]


def test_a_line_fits_into_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    watched = Watched(is_terminal=True)

    watched.show_until(2.5, OpenWait("the connector of a provider with a long name", 0.0))

    (shown,) = watched.take()
    assert len(shown.strip("|")) == 39
