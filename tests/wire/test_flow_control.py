"""Who goes on when a full link takes more: the loop by hand, and streams that only take note."""

from typing import Any

import pytest

from pytest_synth_tunnels.wire.flow_control import FairResume

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
