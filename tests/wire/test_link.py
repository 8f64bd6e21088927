from pytest_synth_tunnels.wire.frames import Frame, FrameError, ReqEnd
from pytest_synth_tunnels.wire.link import MemoryLink, memory_links


class Handler:
    """Notes what arrives, and answers each frame once while it is being sent."""

    def __init__(self, link: MemoryLink) -> None:
        self.link = link
        self.got: list[Frame] = []
        self.lost: list[str] = []
        link.handler = self

    def frame_received(self, frame: Frame) -> None:
        self.got.append(frame)
        if len(self.got) == 1:
            self.link.send(ReqEnd("answer"))

    def frame_failed(self, error: FrameError) -> None:
        raise AssertionError("frames in memory are never malformed")

    def link_lost(self, reason: str) -> None:
        self.lost.append(reason)

    def pause_writing(self) -> None:
        raise AssertionError("a memory link has no buffer")

    def resume_writing(self) -> None:
        raise AssertionError("a memory link has no buffer")


def test_frames_arrive_before_send_returns_and_may_be_answered_meanwhile() -> None:
    one, other = memory_links()
    left, right = Handler(one), Handler(other)

    one.send(ReqEnd("r1"))

    assert right.got == [ReqEnd("r1"), ReqEnd("answer")]
    assert left.got == [ReqEnd("answer")]


def test_closing_is_told_to_the_other_end_once_and_nothing_follows() -> None:
    one, other = memory_links()
    left, right = Handler(one), Handler(other)

    one.close(1001, "over")
    one.close()
    other.close()
    one.send(ReqEnd("r1"))
    other.send(ReqEnd("r1"))

    assert (left.lost, right.lost) == ([], ["over"])
    assert left.got == right.got == []


def test_a_close_without_a_reason_names_its_code() -> None:
    one, other = memory_links()
    handler = Handler(other)

    one.close(1012)

    assert handler.lost == ["closed with 1012"]


def test_an_end_without_a_handler_loses_what_is_sent_to_it() -> None:
    one, other = memory_links()

    one.send(ReqEnd("r1"))
    one.pause_reading()
    one.resume_reading()
    one.close()

    assert other.handler is None
