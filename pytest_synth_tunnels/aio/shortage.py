"""Sums up what an event loop tells while the process has no open files left.

asyncio tries to accept as many connections as a server's backlog has room for, once a second, and
reports each one that it cannot accept with a traceback of its own: thousands of lines a second.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["ShortageLog"]

_log = logging.getLogger(__name__)

_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_FIRST_PAUSE_S: Final = 10.0
_LONGEST_PAUSE_S: Final = 600.0
_OVER_AFTER_S: Final = 60.0
"""A shortage is over when none was reported for so long."""


class ShortageLog:
    """An event loop's exception handler. It writes one line when a shortage begins, and then one
    after 10 s, 20 s and so on for as long as it lasts. Whatever else a loop reports goes to its
    default handler.

    Args:
        now: seconds, of any clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._reported_at = float("-inf")
        self._write_at = 0.0
        self._pause_s = 0.0
        self._left_out = 0
        """How many reports were not written since the last line."""

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _SHORTAGES and "socket" in context):
            loop.default_exception_handler(context)
            return
        now = self._now()
        if now - self._reported_at >= _OVER_AFTER_S:
            self._pause_s, self._left_out = _FIRST_PAUSE_S, 0
            _log.error(
                "no more connections can be accepted: %s. Callers wait until others are done; "
                "fewer connections at a time, or a higher limit (ulimit -n), would help",
                error.strerror,
            )
            self._write_at = now + self._pause_s
        else:
            self._left_out += 1
            if now >= self._write_at:
                _log.error(
                    "still no more connections can be accepted: %s (%d attempts since)",
                    error.strerror,
                    self._left_out,
                )
                self._left_out = 0
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
                self._write_at = now + self._pause_s
        self._reported_at = now
