"""What the processes of a run wait for, where it is shown and where it is only told.

The process that owns the run has the terminal and shows it; a worker of pytest-xdist has none, and
tells it to the process that has one.
"""

from collections.abc import Callable
from typing import Protocol

from ._unpatched import unpatched
from .keeper.open_waits import SHOWN_AFTER_S, OpenWait, read_waits, write_waits
from .keeper.process.run_directory import RunDirectory
from .wait_display import WaitDisplay

__all__ = ["AppWaits", "RunWaits", "ToldWaits"]


class AppWaits(Protocol):
    """Takes what a process waits for in itself."""

    def waiting_for(self, what: str, waited_s: float) -> None:
        """Take what is waited for (the end of a sentence), and how long it has been, in seconds."""

    def over(self) -> None:
        """Take that nothing is waited for any more."""


class RunWaits:
    """Shows what a run waits for: an :class:`AppWaits` of the process that owns the run, and a
    :class:`~.keeper.ipc.connection.WaitListener` while it waits for its keeper.

    Args:
        directory: of the run.
        display: where it is shown.
        rename: returns a text with the names that settings have there.
        may_show: says whether the calling thread of this process may write.
        now: seconds, by :func:`time.monotonic`.
    """

    def __init__(
        self,
        directory: RunDirectory,
        display: WaitDisplay,
        *,
        rename: Callable[[str], str] = str,
        may_show: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = unpatched.monotonic,
    ) -> None:
        self._directory = directory
        self._display = display
        self._rename = rename
        self._may_show = may_show
        self._now = now
        self._start_seen_s: float | None = None
        """Since when :meth:`look` has known that there is to be a keeper."""

    def waiting(self, waited_s: float) -> None:
        """Show what the keeper is asked for, or that it is starting."""
        if not self._may_show():
            return
        now_s = self._now()
        if self._directory.read(self._directory.run_file) is not None:
            waits = read_waits(self._directory, now_s)
            self._display.show([OpenWait(self._rename(what), s) for what, s in waits])
        elif not self._directory.has_failed():
            self._display.show([OpenWait("the tunnel keeper to start", now_s - waited_s)])
        else:
            self._display.end()

    def look(self) -> None:
        """Show what other processes of the run wait for; called twice a second."""
        if not self._directory.is_claimed():
            self._start_seen_s = None
            self.over()
            return
        now_s = self._now()
        if self._start_seen_s is None:
            self._start_seen_s = now_s
        self.waiting(now_s - self._start_seen_s)

    def waiting_for(self, what: str, waited_s: float) -> None:
        """Show what this process waits for in itself."""
        if self._may_show():
            self._display.show([OpenWait(what, self._now() - waited_s)])

    def pause(self) -> None:
        """Make room for what others are about to write."""
        self._display.pause()

    def over(self) -> None:
        """Show that nothing is waited for any more."""
        if self._may_show():
            self._display.end()


class ToldWaits:
    """Tells what a worker waits for in itself: an :class:`AppWaits`.

    Args:
        directory: of the run.
        worker: its name, ``gw1``.
        now: seconds, by :func:`time.monotonic`.
    """

    def __init__(
        self,
        directory: RunDirectory,
        worker: str,
        now: Callable[[], float] = unpatched.monotonic,
    ) -> None:
        self._directory = directory
        self._worker = worker
        self._now = now
        self._has_told = False

    def waiting_for(self, what: str, waited_s: float) -> None:
        """Tell it, once it has taken more than two seconds."""
        if waited_s > SHOWN_AFTER_S:
            self._has_told = True
            now_s = self._now()
            write_waits(self._directory, self._worker, [OpenWait(what, now_s - waited_s)], now_s)

    def over(self) -> None:
        """Tell that it is over."""
        if self._has_told:
            self._has_told = False
            write_waits(self._directory, self._worker, [], self._now())
