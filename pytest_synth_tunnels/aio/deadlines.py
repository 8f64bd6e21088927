"""Deadlines for many short-lived things with one timer.

A ``call_later`` for each request costs more than the rest of its bookkeeping. Here a thing
carries its own ``due_at``, moving it is an assignment, and one timer wakes for the earliest.
"""

import asyncio
import logging
from math import inf
from typing import Final, Protocol

__all__ = ["Deadlines", "Expiring"]

_log = logging.getLogger(__name__)

_GRAIN_S: Final = 0.02
"""The least time between two sweeps, and so how late a deadline may be noticed."""


class Expiring(Protocol):
    """Something with a deadline. It is compared by identity."""

    __slots__ = ("due_at",)

    due_at: float
    """In the loop's time; infinite while there is no deadline. It may be moved later freely, and
    earlier through :meth:`Deadlines.set`."""

    def expire(self) -> None:
        """Act on the deadline. Called once; ``due_at`` is infinite again by then."""


class Deadlines:
    """Calls :meth:`Expiring.expire` on what is due.

    Args:
        loop: whose clock and timer to use.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: set[Expiring] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf

    def __len__(self) -> int:
        return len(self._items)

    def set(self, item: Expiring, due_at: float) -> None:
        """Give ``item`` a deadline, or move the one it has.

        Args:
            item: held until :meth:`forget`.
            due_at: in the loop's time, in seconds.
        """
        item.due_at = due_at
        self._items.add(item)
        if due_at < self._wakes_at:
            self._wake_at(due_at)

    def forget(self, item: Expiring) -> None:
        """Drop ``item`` and its deadline, if it has one."""
        self._items.discard(item)

    def close(self) -> None:
        """Drop everything, and the timer."""
        self._items.clear()
        self._wake_at(inf)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = when
        self._timer = None if when == inf else self._loop.call_at(when, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        self._timer = None
        # Until the end of the sweep no item may arm the timer: each is looked at again below.
        self._wakes_at = -inf
        for item in [item for item in self._items if item.due_at <= now]:
            # An earlier one in this sweep may have moved or dropped it.
            if item.due_at <= now and item in self._items:
                item.due_at = inf
                try:
                    item.expire()
                except Exception:
                    # The others have deadlines too.
                    _log.exception("a deadline could not be acted on")
        earliest = min((item.due_at for item in self._items), default=inf)
        self._wake_at(max(earliest, now + _GRAIN_S) if earliest < inf else inf)
