"""The event loop's clock, read in one step."""

import asyncio
from collections.abc import Callable
from time import monotonic

__all__ = ["clock_of"]


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return a function that tells a loop's time in seconds, as ``loop.time`` does.

    The loops of asyncio read the monotonic clock in a method written in Python, which takes
    longer than the clock itself. Several times a request that is worth leaving out.

    Args:
        loop: any event loop; one with a clock of its own keeps it.
    """
    return monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time
