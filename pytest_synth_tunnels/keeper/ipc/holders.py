"""Who holds this run's tunnels, and the watch that tells when one of them has died.

A process holds by having a connection open. A forked child inherits its parent's connection and
would hold on for ever, so the process itself is watched too: by the kernel's own handle on it
(a pidfd, a kqueue event, a Windows handle), never by asking whether its id still answers, since a
zombie answers and ids are used again.
"""

import asyncio
import os
import select
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from ..process.launch import process_start
from .messages import Event

__all__ = ["Holder", "Holders", "Watch", "watch_process"]

_POLL_S: Final = 0.5


class Watch(Protocol):
    """A process that is being watched."""

    def close(self) -> None:
        """Stop watching; nothing is told any more."""


def watch_process(pid: int, died: Callable[[], None], *, start: str | None = None) -> Watch:
    """Watch a process from the running event loop.

    Args:
        pid: the process.
        died: called once, from the loop and never from inside this function, when it has died.
        start: when it started, as :func:`..process.launch.process_start` says; a process that
            started at
            another time only has the same id, so the one meant is dead.
    """
    watch = _watch(pid, died)
    # Asked after the kernel gave a handle: from now on it stands for whoever has the id now.
    if start is not None and process_start(pid) not in (start, None):
        watch.close()
        return _AlreadyDead(died)
    return watch


def _watch(pid: int, died: Callable[[], None]) -> Watch:
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


def _kqueue_watch(pid: int, died: Callable[[], None]) -> Watch:
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


class HoldingConnection(Protocol):
    """A connection, as far as its holder is concerned."""

    def tell(self, event: Event) -> None:
        """Tell the process something that it did not ask."""

    def abort(self) -> None:
        """Close it at once."""


@dataclass(eq=False)
class Holder:
    """One process that holds this run's tunnels.

    Attributes:
        pid: its process id.
        address: its part of a shared URL; a forked child has its parent's.
        connections: by which it holds; it may have several.
    """

    pid: int
    address: str
    connections: set[HoldingConnection] = field(default_factory=set)
    watch: Watch | None = None

    def tell(self, event: Event) -> None:
        """Tell the process something, on each of its lines."""
        for connection in list(self.connections):
            connection.tell(event)


class Holders:
    """All processes that hold, in the order in which they came.

    Args:
        gone: called once for each holder when its last connection closed or it died.
    """

    def __init__(self, gone: Callable[[Holder], None]) -> None:
        self._gone = gone
        self._by_pid: dict[int, Holder] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def __iter__(self) -> Iterator[Holder]:
        return iter(list(self._by_pid.values()))

    def has_address(self, address: str) -> bool:
        """Whether any holder has this address."""
        return any(holder.address == address for holder in self._by_pid.values())

    def join(self, pid: int, address: str, connection: HoldingConnection) -> Holder:
        """Count a connection; its process holds from now on."""
        holder = self._by_pid.get(pid)
        if holder is None:
            holder = self._by_pid[pid] = Holder(pid, address)
            holder.watch = watch_process(pid, lambda: self._end(holder))
        holder.connections.add(connection)
        return holder

    def leave(self, holder: Holder, connection: HoldingConnection) -> None:
        """Take a closed connection off; the last one ends the hold."""
        holder.connections.discard(connection)
        if not holder.connections:
            self._end(holder)

    def _end(self, holder: Holder) -> None:
        if self._by_pid.get(holder.pid) is not holder:
            return
        del self._by_pid[holder.pid]
        if holder.watch is not None:
            holder.watch.close()
        for connection in list(holder.connections):
            connection.abort()
        self._gone(holder)

    def close(self) -> None:
        """Stop watching, and tell nothing any more."""
        for holder in self:
            if holder.watch is not None:
                holder.watch.close()
        self._by_pid.clear()
