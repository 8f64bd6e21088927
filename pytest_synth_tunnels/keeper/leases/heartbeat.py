"""A lease's heartbeat: when to beat, what an answer means, and the thread that does it.

Theory of operation. :class:`HeartbeatSchedule` is the state machine. It is pure, takes the time as
an argument and is used by one thread; :class:`Heartbeat` is that thread. The schedule is *calm*,
*retrying* or *over*:

- It begins calm. A beat is due after the backend's interval, and at the latest after a third of
  the lease's time to live, so that there is room for two missed beats.
- A beat without an answer makes it retrying: the next beat comes after one second, then two, four
  and so on up to the calm period. No notice is given, for such failures are mostly transient. Any
  answer makes it calm again.
- It is over, for good, when an answer says that the lease is gone (notice *lost*), when no beat
  has been answered for the lease's whole time to live (*lost*), or when the lease's time has run
  out (*expired*). The thread ends then.

Beside that it counts for how long answers say that the agent is cut off, and notices *offline*
once for each time that this exceeds a minute; and it notices *expiring* once, some time before
the lease ends, and again only if the end was put off meanwhile.
"""

import logging
import threading
from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

from ...aio.backoff import Backoff

__all__ = ["Beat", "Heartbeat", "HeartbeatSchedule", "Notice", "NoticeKind"]

_log = logging.getLogger(__name__)

_ANNOUNCED_AHEAD_S: Final = 600.0
_FIRST_RETRY_S: Final = 1.0
_OFFLINE_AFTER_S: Final = 60.0
"""How long the agent may be cut off without a notice: reconnecting takes seconds."""


class Beat(NamedTuple):
    """What one beat found out.

    Attributes:
        alive: whether the backend still has the lease.
        reason: why the lease is gone, in the backend's words, or why the agent is cut off.
        attached: whether what carries the lease's traffic is connected.
        next_s: when the backend wants the next beat, in seconds, if it says.
        expires_at: when the lease ends, in unix seconds, if the backend says.
    """

    alive: bool
    reason: str = ""
    attached: bool = True
    next_s: float | None = None
    expires_at: float | None = None


class NoticeKind(StrEnum):
    """What a notice is about.

    ``moved`` (the lease has another public URL) comes from the lease's transport, all others from
    its heartbeat.
    """

    LOST = "lost"
    EXPIRED = "expired"
    EXPIRING = "expiring"
    OFFLINE = "offline"
    MOVED = "moved"


class Notice(NamedTuple):
    """Something that the lease's holders should know."""

    kind: NoticeKind
    message: str


class HeartbeatSchedule:
    """When to beat, and what the answers mean. No clock, no thread, no I/O.

    Args:
        ttl_s: the lease's time to live, in seconds.
        expires_at: when it ends, in unix seconds.
        interval_s: how often the backend wants a beat, in seconds, until it says otherwise.
        now: unix seconds.

    Raises:
        ValueError: a duration is not positive.
    """

    def __init__(self, *, ttl_s: float, expires_at: float, interval_s: float, now: float) -> None:
        if ttl_s <= 0 or interval_s <= 0:
            raise ValueError("ttl_s and interval_s must be positive")
        self._ttl_s = ttl_s
        self._expires_at = expires_at
        self._interval_s = interval_s
        self._retry = Backoff(_FIRST_RETRY_S, inf)
        """The pauses after failed beats; none is longer than a calm period."""
        self._answered_at = now
        self._detached_at: float | None = None
        """When a beat first found the agent cut off; ``None`` while it is connected."""
        self._beat_at = now + self._period_s
        self._announced = False
        self._offline = False
        self.over = False
        """Whether the lease was noticed to be lost or expired: there is nothing more to watch."""

    @property
    def _period_s(self) -> float:
        # A third of the time to live leaves room for two missed beats.
        return min(self._interval_s, self._ttl_s / 3)

    @property
    def _announce_at(self) -> float:
        return self._expires_at - min(_ANNOUNCED_AHEAD_S, self._ttl_s / 2)

    def due_s(self, now: float) -> float:
        """Return the seconds until something is to be done: a beat, or a notice of the end."""
        due = min(self._beat_at, self._expires_at)
        if not self._announced:
            due = min(due, self._announce_at)
        # The wall clock may be set back: never wait longer than a beat would.
        return min(max(0.0, due - now), self._period_s)

    def wants_beat(self, now: float) -> bool:
        """Whether it is time to ask the backend."""
        return not self.over and (now >= self._beat_at or self._beat_at - now > self._period_s)

    def answered(self, beat: Beat, now: float) -> list[Notice]:
        """Take the answer to a beat, and return the notices that follow from it."""
        self._answered_at = now
        self._retry.reset()
        if beat.next_s is not None and beat.next_s > 0:
            self._interval_s = beat.next_s
        if beat.expires_at is not None:
            self._announced = self._announced and beat.expires_at <= self._expires_at
            self._expires_at = beat.expires_at
        self._beat_at = now + self._period_s
        if not beat.alive:
            return self._end(NoticeKind.LOST, beat.reason or "the backend closed it")
        return self._watch_agent(beat, now)

    def _watch_agent(self, beat: Beat, now: float) -> list[Notice]:
        if beat.attached:
            self._detached_at = None
            self._offline = False
            return []
        # Counted from the first beat that saw it, not from the last good one: between the two a
        # laptop may have slept for hours.
        if self._detached_at is None:
            self._detached_at = now
        cut_off_s = now - self._detached_at
        if cut_off_s < _OFFLINE_AFTER_S or self._offline:
            return []
        self._offline = True
        cause = f": {beat.reason}" if beat.reason else ""
        message = f"its tunnel has been cut off for {cut_off_s:.0f} s{cause}"
        return [Notice(NoticeKind.OFFLINE, message)]

    def failed(self, error: str, now: float) -> list[Notice]:
        """Take a beat that got no answer, and return the notices that follow: mostly none."""
        self._beat_at = now + min(self._retry.next_s(), self._period_s)
        if now - self._answered_at >= self._ttl_s:
            return self._end(
                NoticeKind.LOST, f"the backend has not answered for {self._ttl_s:.0f} s: {error}"
            )
        return []

    def passed(self, now: float) -> list[Notice]:
        """Return the notices that follow from the passing of time alone."""
        if now >= self._expires_at:
            return self._end(NoticeKind.EXPIRED, f"its {self._ttl_s:.0f} s are over")
        if now >= self._announce_at and not self._announced and not self.over:
            self._announced = True
            left_s = self._expires_at - now
            return [Notice(NoticeKind.EXPIRING, f"it ends in {left_s:.0f} s")]
        return []

    def _end(self, kind: NoticeKind, message: str) -> list[Notice]:
        if self.over:
            return []
        self.over = True
        return [Notice(kind, message)]


class Heartbeat(threading.Thread):
    """The thread that beats for one lease until it is stopped or the lease is over.

    Each thread has a stop event of its own, so a late one never acts for its successor.

    Args:
        name: the lease's id, for the log.
        schedule: when to beat.
        beat: asks the backend; it may raise, and has a deadline of its own.
        on_notice: called with each notice, in this thread.
        now: unix seconds.
        wait: waits that many seconds, or until stopped; returns whether it was stopped.
    """

    def __init__(
        self,
        name: str,
        *,
        schedule: HeartbeatSchedule,
        beat: Callable[[], Beat],
        on_notice: Callable[[Notice], None],
        now: Callable[[], float],
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        super().__init__(name=f"heartbeat {name}", daemon=True)
        self._schedule = schedule
        self._beat = beat
        self._on_notice = on_notice
        self._now = now
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait

    def run(self) -> None:
        """Beat. Ends when stopped, or when the lease is over."""
        while not self._schedule.over and not self._wait(self._schedule.due_s(self._now())):
            notices = self._schedule.passed(self._now())
            if self._schedule.wants_beat(self._now()):
                notices += self._ask()
            for notice in notices:
                if not self._stopping.is_set():
                    self._on_notice(notice)

    def _ask(self) -> list[Notice]:
        try:
            beat = self._beat()
        except Exception as error:  # whatever a backend can do wrong must not end the heartbeat
            _log.info("%s failed, will retry: %s", self.name, error)
            return self._schedule.failed(str(error) or type(error).__name__, self._now())
        return self._schedule.answered(beat, self._now())

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it; it gives no further notice."""
        self._stopping.set()
