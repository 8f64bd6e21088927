"""Windows, and who goes on when a full link takes more: the loop by hand, and streams that only
take note."""

from typing import Any

import pytest

from pytest_synth_tunnels.wire.flow_control import FairResume, ReceiveWindow, SendWindow
from pytest_synth_tunnels.wire.frames import WINDOW_BYTES

from ..support.manual_loop import ManualLoop


class Streams:
    """What one end of a link carries, and the order in which it went on."""

    def __init__(self, loop: ManualLoop, *, requests: str = "", websockets: str = "") -> None:
        self.told: list[str] = []
        self.full = False
        self.filling = ""
        """Who fills the link by going on."""
        self.loop = loop
        fake: Any = loop
        self.turns = FairResume(
            fake,
            {name: Stream(self, name) for name in requests},
            {name: Stream(self, name) for name in websockets},
            lambda: self.full,
        )

    def resume(self) -> str:
        """Return who goes on in one turn, and, behind a comma, who does so later."""
        self.full = False
        self.told.clear()
        self.turns.resume()
        at_once = "".join(self.told)
        self.told.clear()
        self.loop.tick()
        return f"{at_once},{''.join(self.told)}"


class Stream:
    def __init__(self, streams: Streams, name: str) -> None:
        self._streams = streams
        self._name = name

    def pause(self) -> None:
        self._streams.told.append(self._name)

    def resume(self) -> None:
        self._streams.told.append(self._name)
        self._streams.full |= self._name in self._streams.filling


def test_all_wait(loop: ManualLoop) -> None:
    streams = Streams(loop, requests="ab", websockets="xy")
    streams.turns.pause()
    assert streams.told == ["a", "b", "x", "y"]


def test_all_go_on_and_every_second_time_websockets_are_later(loop: ManualLoop) -> None:
    streams = Streams(loop, requests="ab", websockets="xy")
    assert [streams.resume() for _ in range(4)] == ["xyab,", "ba,yx", "yxba,", "ab,xy"]
    assert [Streams(loop).resume() for _ in range(2)] == [",", ","]


def test_nobody_goes_on_in_a_full_link_and_everybody_is_the_first(loop: ManualLoop) -> None:
    streams = Streams(loop, requests="a", websockets="xyz")
    streams.filling = "xyz"
    assert [streams.resume() for _ in range(6)] == ["x,", "a,y", "y,", "a,z", "z,", "a,x"]


@pytest.mark.parametrize("reads", [True, False])
def test_websockets_wait_until_requests_have_been_read(loop: ManualLoop, reads: bool) -> None:
    streams = Streams(loop, requests="a", websockets="x")
    streams.resume()
    streams.turns.resume()
    if reads:  # a loop reads behind what was called soon before
        loop.call_soon(lambda: setattr(streams, "full", True))
    streams.told.clear()
    loop.tick()
    assert streams.told == ([] if reads else ["x"])


def test_a_sender_stops_with_its_window_and_goes_on_with_credit() -> None:
    window = SendWindow()
    assert window.open
    assert window.spend(WINDOW_BYTES - 1)
    assert not window.spend(100)  # pieces are never cut
    assert not window.open
    assert window.grant(99)
    assert not window.open
    assert window.grant(1)
    assert window.credit_bytes == 1


@pytest.mark.parametrize("credit_bytes", [0, -1, -(1 << 60)])
def test_credit_that_is_none_adds_nothing(credit_bytes: int) -> None:
    window = SendWindow()
    window.spend(10)
    assert not window.grant(credit_bytes)
    assert window.credit_bytes == WINDOW_BYTES - 10


def test_credit_never_exceeds_the_window() -> None:
    window = SendWindow()
    assert not window.grant(5)
    window.spend(10)
    assert window.grant(1 << 60)
    assert window.credit_bytes == WINDOW_BYTES


def test_a_receiver_gives_credit_when_it_is_worth_a_frame() -> None:
    window = ReceiveWindow()
    window.take(WINDOW_BYTES // 2 - 1)
    assert not window.due
    window.take(1)
    assert window.due
    assert window.credit() == WINDOW_BYTES // 2
    assert window.untold_bytes == 0


def test_a_receiver_knows_a_full_window_from_one_that_is_overrun() -> None:
    window = ReceiveWindow()
    window.take(WINDOW_BYTES)
    assert not window.full
    window.take(1)
    assert window.full
    assert not window.overrun
    window.take(3 * WINDOW_BYTES)
    assert window.overrun
