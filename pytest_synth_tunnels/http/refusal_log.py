"""What was refused or has failed, for the log: one line each, and not too many of them.

A line has nothing that a caller or an agent wrote: no path, query, header or message. A relay's
name for a request is taken where it is plain. A flood is thinned out by a filter on this module's
logger, :class:`FloodFilter`.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import Final

__all__ = ["FloodFilter", "log_refusal"]

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 60.0
_LINES: Final = 16
"""So many of one kind are written in each interval; then only when their number has doubled."""

_PLAIN = re.compile(r"[\w. -]{1,64}", re.ASCII)


class FloodFilter(logging.Filter):
    """Keeps a flood of refusals from filling the log.

    The first 16 lines of a kind in a minute are written, and then every one that doubles their
    number. A line that is written says how many were left out before it.

    Args:
        now: seconds, of any clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._kinds: dict[str, tuple[float, int, int]] = {}
        """When the interval of each kind began, how many there were in it, and how many were left
        out since the last that was written."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written, and tell in it what was left out.

        Args:
            record: its ``kind`` is one of a few; one without a kind is written.
        """
        kind: str | None = getattr(record, "kind", None)
        if kind is None:
            return True
        now = self._now()
        began_at, number, left_out = self._kinds.get(kind, (now, 0, 0))
        if now - began_at >= _INTERVAL_S:
            began_at, number = now, 0
        number += 1
        times, rest = divmod(number, _LINES)
        written = number <= _LINES or (rest == 0 and times & (times - 1) == 0)
        self._kinds[kind] = began_at, number, 0 if written else left_out + 1
        if written and left_out:
            record.msg = f"{record.msg} (and {left_out} more of these before)"
        return written


_log.addFilter(FloodFilter())


def log_refusal(status: int, code: str, who: str = "", peer: str = "") -> None:
    """Note that something was refused, or has failed.

    Args:
        status: what was answered, or would have been.
        code: its stable code, which is also the kind of line that is thinned out.
        who: a request's id, or what else it was.
        peer: the caller's address.
    """
    _log.info(
        "%s%s: %d %s",
        who if _PLAIN.fullmatch(who) else "a request",
        f" from {peer}" if peer else "",
        status,
        code,
        extra={"kind": code},
    )
