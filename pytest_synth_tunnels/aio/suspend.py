"""Noticing that this machine was asleep.

While a laptop sleeps its timers stand still, but connections end without a word: waiting for the
next ping, after it wakes, means waiting for nothing. The wall clock goes on meanwhile, and so
gives the sleep away.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

__all__ = ["SuspendDetector"]

_LOOK_EVERY_S = 2.0
_JUMP_S: Final = 5.0
"""How much more than a look's time must have passed. A loop that was busy for so long, or a clock
that was set, is taken for a sleep too, which costs a ping."""


class SuspendDetector:
    """Calls back soon after this machine woke up.

    Args:
        loop: for a timer.
        woke: called with the seconds that were lost.
        now: unix seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        woke: Callable[[float], None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._woke = woke
        self._now = now
        self._seen_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._seen_at = self._now()
        self._timer = self._loop.call_at(self._loop.time() + _LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        """Watch no more. Harmless if it does not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        lost_s = self._now() - self._seen_at - _LOOK_EVERY_S
        self.start()
        if lost_s > _JUMP_S:
            self._woke(lost_s)
