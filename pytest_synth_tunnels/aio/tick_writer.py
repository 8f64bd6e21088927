"""Writing once for each tick of the event loop.

System calls are most of what a small request costs. What several callbacks of one tick want to
write to one connection is collected and goes out in one call when the tick is over, and what goes
to several connections goes out together, so that the other end wakes up once for all of it.
"""

import asyncio
from typing import Protocol

__all__ = ["Flushable", "TickWriter"]


class Flushable(Protocol):
    """A connection that collects what is to be written."""

    __slots__ = ()

    def flush(self) -> None:
        """Write what was collected, if anything was. This may not raise."""


class TickWriter:
    """Flushes connections when the current tick of the event loop is over, in the order in which
    they asked for it.

    Args:
        loop: the event loop.
    """

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Flushable] = []

    def flush_soon(self, connection: Flushable) -> None:
        """Flush ``connection`` at the end of this tick. A connection asks once in a tick: when it
        collects the first piece."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(connection)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()
