"""The seam between relay and agent: frames in memory, or the same frames over a WebSocket.

Both ends see a :class:`Link` and give it a :class:`LinkHandler`. Inside the keeper the two ends
are a :func:`memory_links` pair, which hands frame objects over in the same call, about twice as
fast as a WebSocket; elsewhere :mod:`.websocket_link` carries them.
"""

from collections.abc import Callable
from typing import Protocol

from ..compiled import mypyc_attr
from .frames import Frame, FrameError

__all__ = ["Link", "LinkHandler", "MemoryLink", "memory_links"]


@mypyc_attr(allow_interpreted_subclasses=True)  # for that of an agent
class LinkHandler(Protocol):
    """What an end of a link does with what arrives. Nothing here may raise or block."""

    def frame_received(self, frame: Frame) -> None:
        """Take one frame. It may arrive while this end is inside :meth:`Link.send`."""

    def frame_failed(self, error: FrameError) -> None:
        """Fail the one request that a malformed frame names, if it names one."""

    def link_lost(self, reason: str) -> None:
        """Forget the link: it carries nothing any more. Told once."""

    def pause_writing(self) -> None:
        """Stop producing bodies: the link's own buffer is full. Frames sent still arrive. Told
        while the frame that fills it is being sent."""

    def resume_writing(self) -> None:
        """Go on after :meth:`pause_writing`. What is sent meanwhile may fill the link again."""


class Link(Protocol):
    """One end of a connection that carries frames in order."""

    def send(self, frame: Frame, *, at_once: bool = False) -> None:
        """Send one frame, without waiting. Does nothing once the link is closed.

        Args:
            frame: it belongs to the link from now on.
            at_once: nothing else is to be expected in this tick of the loop, at whose end what
                was sent in it is written together.
        """

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the link with a WebSocket close code. The other end is told, this one is not."""

    def pause_reading(self) -> None:
        """Let the other end wait, all streams of it: the last resort against a peer without
        flow control."""

    def resume_reading(self) -> None:
        """Go on after :meth:`pause_reading`."""


class MemoryLink(Link):
    """One end of a link inside a process. Frames arrive before ``send`` returns."""

    def __init__(self) -> None:
        self.handler: LinkHandler | None = None
        """Takes what the other end sends; frames sent before it is set are lost."""
        self.on_lost: Callable[[str], None] | None = None
        """Told why the other end has closed, after the handler."""
        self._peer: MemoryLink | None = None
        """The other end; ``None`` once the link is closed."""

    def send(self, frame: Frame, *, at_once: bool = False) -> None:
        peer = self._peer
        if peer is not None and (handler := peer.handler) is not None:
            handler.frame_received(frame)

    def close(self, code: int = 1000, reason: str = "") -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            peer._peer = None
            reason = reason or f"closed with {code}"
            if peer.handler is not None:
                peer.handler.link_lost(reason)
            if peer.on_lost is not None:
                peer.on_lost(reason)

    def pause_reading(self) -> None:
        """Nothing to pause: both ends of a memory link have flow control."""

    def resume_reading(self) -> None:
        """Nothing to resume."""


def memory_links() -> tuple[MemoryLink, MemoryLink]:
    """Return the two ends of a link inside this process."""
    one, other = MemoryLink(), MemoryLink()
    one._peer, other._peer = other, one
    return one, other
