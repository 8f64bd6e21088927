"""Tells when a process has died.

The kernel's own handle on the process is watched (a pidfd, a kqueue event, a Windows handle).
Whether its id still answers is never asked where that can be avoided, since a zombie answers and
ids are used again.
"""

import asyncio
import os
import select
import sys
from collections.abc import Callable
from typing import Final, Protocol

from .process_start import process_start

__all__ = ["ProcessWatch", "watch_process"]

_POLL_S: Final = 0.5


class ProcessWatch(Protocol):
    """A process that is being watched."""

    def close(self) -> None:
        """Stop watching; ``died`` is not called after that."""


def watch_process(pid: int, died: Callable[[], None], *, start: str | None = None) -> ProcessWatch:
    """Watch a process from the running event loop.

    Args:
        pid: the process.
        died: called once, from the loop and never from inside this function, when it has died.
        start: when it started, by :func:`.process_start.process_start`; a process that started at
            another time only has the same id, so the one meant is dead.
    """
    watch = _watch(pid, died)
    # Asked after the kernel gave a handle, which stands for the process that has the id now.
    if start is not None and process_start(pid) not in (start, None):
        watch.close()
        return _AlreadyDead(died)
    return watch


def _watch(pid: int, died: Callable[[], None]) -> ProcessWatch:
    try:
        if hasattr(os, "pidfd_open"):
            return _Readable(os.pidfd_open(pid), died)
        if hasattr(select, "kqueue"):
            return _kqueue_watch(pid, died)
    except ProcessLookupError:
        return _AlreadyDead(died)
    except OSError:
        pass  # an old kernel, or a sandbox that forbids it
    return _Polling(pid, died)


class _AlreadyDead:
    """The process is dead already."""

    def __init__(self, died: Callable[[], None]) -> None:
        self._handle = asyncio.get_running_loop().call_soon(died)

    def close(self) -> None:
        self._handle.cancel()


class _Readable:
    """A descriptor that becomes readable when the process dies."""

    def __init__(self, fd: int, died: Callable[[], None], keep: object = None) -> None:
        self._fd = fd
        self._died = died
        self._keep = keep
        """Owns ``fd``, if that is not us."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        self.close()
        self._died()

    def close(self) -> None:
        if self._fd != -1:
            self._loop.remove_reader(self._fd)
            if self._keep is None:
                os.close(self._fd)
            self._fd = -1
            self._keep = None


def _kqueue_watch(pid: int, died: Callable[[], None]) -> ProcessWatch:
    if sys.platform in ("linux", "win32"):
        raise OSError("no kqueue here")
    queue = select.kqueue()
    event = select.kevent(
        pid,
        filter=select.KQ_FILTER_PROC,
        flags=select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
        fflags=select.KQ_NOTE_EXIT,
    )
    try:
        queue.control([event], 0)
    except OSError:
        queue.close()
        raise
    return _Readable(queue.fileno(), died, keep=queue)


class _Polling:
    """Where the kernel tells nothing by itself: look twice a second."""

    def __init__(self, pid: int, died: Callable[[], None]) -> None:
        self._pid = pid
        self._died = died
        self._is_dead = _death_test(pid)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(0.0, self._look)

    def _look(self) -> None:
        if self._is_dead():
            self._died()
        else:
            self._timer = self._loop.call_later(_POLL_S, self._look)

    def close(self) -> None:
        self._timer.cancel()


def _death_test(pid: int) -> Callable[[], bool]:
    """Return what says whether the process that has this id now has died."""
    if sys.platform == "win32":
        import _winapi

        try:
            handle = _winapi.OpenProcess(_winapi.SYNCHRONIZE, False, pid)
        except OSError:
            return lambda: True
        return lambda: _winapi.WaitForSingleObject(handle, 0) == _winapi.WAIT_OBJECT_0
    start = process_start(pid)
    if process_start(os.getpid()) is None:
        # Without /proc nothing safe can be asked; the connection's end has to do.
        return lambda: False
    return lambda: start is None or process_start(pid) != start or _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
