"""Who goes on first when a link that was full takes more."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

__all__ = ["FairResume", "Pausable"]


class Pausable(Protocol):
    """What waits while the link is full."""

    def pause(self) -> None:
        """Send nothing of any size for now: the link is full."""

    def resume(self) -> None:
        """Go on after :meth:`pause`."""


class FairResume:
    """Pauses all that one end of a link carries, and lets it go on in another order each time: the
    first ones fill the link, and those behind them would wait forever.

    WebSockets send what they hold at once, but requests must read first, which they do in the next
    tick of the loop. So WebSockets come first and wait for the requests' reads by turns.

    Args:
        loop: the event loop.
        requests: those under way, by rid.
        websockets: those under way, by rid.
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
            # The next tick reads, the one after it knows how much that was.
            self._loop.call_soon(self._loop.call_soon, self._go_on, self._websockets)

    def _go_on(self, waiting: Mapping[str, Pausable]) -> None:
        """Let these go on, beginning with another one in every second turn."""
        order = list(waiting.values())
        first = self._turn // 2 % len(order) if order else 0
        for each in order[first:] + order[:first]:
            if self._full():
                return
            each.resume()
