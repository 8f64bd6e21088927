"""What was refused or has failed, for the log: one line each, and not too many of them.

A line has nothing that a caller or an agent wrote: no path, query, header or message. A relay's
name for a request is taken where it is plain.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Bound", "log_refusal"]

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 60.0
_LINES: Final = 16
"""So many of one kind are written in each interval; then only when their number has doubled."""


class Bound:
    """Keeps a flood from filling the log.

    Args:
        now: seconds, of any clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kinds: dict[str, tuple[float, int, int]] = {}
        """When the interval of each kind began, how many there were in it, and how many were left
        out since the last that was written."""

    def admit(self, kind: str) -> int | None:
        """Say whether another of its kind is written.

        Args:
            kind: one of a few.

        Returns:
            How many were left out before it, or ``None`` to leave it out too.
        """
        now = self._now()
        began_at, number, left_out = self._kinds.get(kind, (now, 0, 0))
        if now - began_at >= _INTERVAL_S:
            began_at, number = now, 0
        number += 1
        times, rest = divmod(number, _LINES)
        written = number <= _LINES or (rest == 0 and times & (times - 1) == 0)
        self._kinds[kind] = began_at, number, 0 if written else left_out + 1
        return left_out if written else None


_bound = Bound()
_PLAIN = re.compile(r"[\w. -]{1,64}", re.ASCII)


def log_refusal(status: int, code: str, who: str = "", peer: str = "") -> None:
    """Note that something was refused, or has failed.

    Args:
        status: what was answered, or would have been.
        code: its stable code.
        who: a request's id, or what else it was.
        peer: the caller's address.
    """
    left_out = _bound.admit(code)
    if left_out is not None:
        _log.info(
            "%s%s: %d %s%s",
            who if _PLAIN.fullmatch(who) else "a request",
            f" from {peer}" if peer else "",
            status,
            code,
            f" (and {left_out} more of these before)" if left_out else "",
        )
