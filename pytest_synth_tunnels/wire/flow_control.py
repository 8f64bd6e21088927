"""Flow control on a link: how much one stream may send, and which stream sends next.

A stream is one direction of a request's, an answer's or a WebSocket's body. Its sender begins with
a window of :data:`.frames.WINDOW_BYTES`, spends it with what it sends, and gets it back with the
``WINDOW`` frames of the receiver, which tells what its own reader has taken. So no more than a
window of each stream waits anywhere, and a slow reader holds up nobody but its own stream. Windows
are used only between two ends that have both announced ``flow_control``.

Beside that the link as a whole may be full: then every stream pauses, and :class:`FairResume` lets
them go on in turns.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from .frames import WINDOW_BYTES

__all__ = ["FairResume", "Pausable", "ReceiveWindow", "SendWindow"]

_WORTH_A_FRAME_BYTES: Final = WINDOW_BYTES // 2
_OVERRUN_BYTES: Final = 4 * WINDOW_BYTES


class SendWindow:
    """How much of a stream's body may still be sent.

    Attributes:
        credit_bytes: what is left of the window, in bytes; below 0 after a piece that was larger
            than that, for pieces are never cut.
    """

    __slots__ = ("credit_bytes",)

    def __init__(self) -> None:
        self.credit_bytes = WINDOW_BYTES

    @property
    def open(self) -> bool:
        """Whether another piece may be sent."""
        return self.credit_bytes > 0

    def spend(self, size_bytes: int) -> bool:
        """Count a piece that is sent; return whether another one may follow."""
        self.credit_bytes -= size_bytes
        return self.credit_bytes > 0

    def grant(self, credit_bytes: int) -> bool:
        """Take a ``WINDOW`` frame's credit.

        Args:
            credit_bytes: what the receiver has taken, in bytes. What would be more than the whole
                window, or nothing, is not believed.

        Returns:
            Whether that added anything.
        """
        taken = min(credit_bytes, WINDOW_BYTES - self.credit_bytes)
        if taken <= 0:
            return False
        self.credit_bytes += taken
        return True


class ReceiveWindow:
    """How much of a stream's body has come that its sender got no credit for.

    Attributes:
        untold_bytes: what has come, and was not told to the sender as taken, in bytes.
    """

    __slots__ = ("untold_bytes",)

    def __init__(self) -> None:
        self.untold_bytes = 0

    @property
    def due(self) -> bool:
        """Whether there is enough to tell that a ``WINDOW`` frame is worth it."""
        return self.untold_bytes >= _WORTH_A_FRAME_BYTES

    @property
    def full(self) -> bool:
        """Whether more than a window has come for a reader that takes nothing."""
        return self.untold_bytes > WINDOW_BYTES

    @property
    def overrun(self) -> bool:
        """Whether more has come than a sender that knows windows would send."""
        return self.untold_bytes > _OVERRUN_BYTES

    def take(self, size_bytes: int) -> None:
        """Count a piece that came."""
        self.untold_bytes += size_bytes

    def credit(self) -> int:
        """Return what the reader has taken, for the ``WINDOW`` frame that tells the sender, and
        begin to count anew."""
        credit_bytes, self.untold_bytes = self.untold_bytes, 0
        return credit_bytes


class Pausable(Protocol):
    """A request or a WebSocket whose body waits while the link is full."""

    __slots__ = ()

    def pause(self) -> None:
        """Send nothing of any size for now: the link is full."""

    def resume(self) -> None:
        """Go on after :meth:`pause`."""


class FairResume:
    """Pauses all streams of one end of a link, and lets them go on in another order each time: the
    first ones fill the link, and those behind them would wait forever.

    WebSockets send what they hold at once, but requests must read first, which they do in the next
    tick of the loop. So in every other turn the WebSockets wait until the requests have read.

    Args:
        loop: the event loop.
        requests: those in flight, by rid.
        websockets: those in flight, by rid.
        full: whether the link is full again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        requests: Mapping[str, Pausable],
        websockets: Mapping[str, Pausable],
        full: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._requests = requests
        self._websockets = websockets
        self._full = full
        self._turn = 0
        """How often the link has gone on."""

    def pause(self) -> None:
        """Let all wait."""
        for waiting in (*self._requests.values(), *self._websockets.values()):
            waiting.pause()

    def resume(self) -> None:
        """Let them go on until the link is full."""
        self._turn += 1
        if self._turn % 2:
            self._go_on(self._websockets)
            self._go_on(self._requests)
        else:
            self._go_on(self._requests)
            self._after_two_ticks(self._go_on, self._websockets)

    def _after_two_ticks(
        self,
        callback: Callable[[Mapping[str, Pausable]], None],
        waiting: Mapping[str, Pausable],
    ) -> None:
        """Call back in the tick after the next one. The next tick reads what the requests wait
        for and sends it; whether that has filled the link is known in the one after it."""
        self._loop.call_soon(self._loop.call_soon, callback, waiting)

    def _go_on(self, waiting: Mapping[str, Pausable]) -> None:
        """Let these go on, beginning with another one in every second turn."""
        order = list(waiting.values())
        first = self._turn // 2 % len(order) if order else 0
        for each in order[first:] + order[:first]:
            if self._full():
                return
            each.resume()
