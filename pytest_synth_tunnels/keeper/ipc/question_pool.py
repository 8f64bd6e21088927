"""The connections over which the threads of one process ask the keeper.

Each request has a connection of its own until its answer has come, so that a slow one holds up no
other. A connection is idle, in use by one thread, or closed:

- a thread takes an idle one, or opens one while fewer than :data:`MAX_CONNECTIONS` are in use, or
  waits in a queue for one that comes back;
- the thread that took it gives it back: it is idle again if its answer has come, and closed
  otherwise (the request timed out, or an exception cut the wait short), because the answer that
  is still to come belongs to nobody;
- the lock is held for a few statements only, never while anything waits.

Waits are timeouts of C locks: a test may have frozen Python's clocks, and `threading.Semaphore`
asks them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..._unpatched import Lock, unpatched
from .connection import KeeperConnection
from .errors import KeeperError

__all__ = ["MAX_CONNECTIONS", "QuestionPool"]

__tracebackhide__ = True  # pytest shows a failed request at the line of the test that made it

MAX_CONNECTIONS = 64
"""Requests of one process that wait for their answers at the same time; others queue."""

_MAX_IDLE = 8


class QuestionPool:
    """Connections for requests, for any number of threads.

    Args:
        open_connection: returns a new connection; never called by two threads at once.
    """

    def __init__(self, open_connection: Callable[[], KeeperConnection]) -> None:
        self._open = open_connection
        self._lock = unpatched.allocate_lock()
        """Guards all that follows."""
        self._idle: list[KeeperConnection] = []
        self._in_use: set[KeeperConnection] = set()
        self._slots = MAX_CONNECTIONS
        """How many more threads may have a connection."""
        self._queue: deque[Lock] = deque()
        """A locked lock for each thread that waits for a slot. The thread that hands its slot on
        unlocks the lock."""
        self._is_closed = False
        self._opening = unpatched.allocate_lock()
        """Held while a connection is being opened: the keeper's backlog is short on some
        systems, and refuses what it cannot hold."""

    @contextmanager
    def connection(self, timeout_s: float) -> Iterator[KeeperConnection]:
        """Lend a connection to the calling thread.

        Args:
            timeout_s: how long to wait for one where too many are in use, in seconds.

        Raises:
            KeeperError: none became free in time, none can be opened, or the run is over.
        """
        self._take_slot(timeout_s)
        try:
            connection = self._take(timeout_s)
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._give_back_slot()

    def _take_slot(self, timeout_s: float) -> None:
        with self._lock:
            if self._slots:
                self._slots -= 1
                return
            turn = unpatched.allocate_lock()
            turn.acquire()
            self._queue.append(turn)
        if turn.acquire(timeout=timeout_s):
            return
        with self._lock:
            if turn not in self._queue:
                return  # a slot came at the last moment
            self._queue.remove(turn)
        raise KeeperError(
            f"{MAX_CONNECTIONS} requests of this process have been waiting for the keeper's "
            f"answers for {timeout_s:g} s, and no more may wait at the same time",
            code="KEEPER_TIMEOUT",
        )

    def _give_back_slot(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._slots += 1

    def _take(self, timeout_s: float) -> KeeperConnection:
        connection = self._take_idle()
        if connection is None:
            if not self._opening.acquire(timeout=timeout_s):
                raise KeeperError(
                    f"no connection to the keeper could be opened within {timeout_s:g} s",
                    code="KEEPER_TIMEOUT",
                )
            try:
                # One may have become idle while another thread was opening its own.
                connection = self._take_idle() or self._open()
            finally:
                self._opening.release()
        with self._lock:
            self._in_use.add(connection)
            if not self._is_closed:
                return connection
        self._give_back(connection)
        raise _over()

    def _take_idle(self) -> KeeperConnection | None:
        with self._lock:
            if self._is_closed:
                raise _over()
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: KeeperConnection) -> None:
        with self._lock:
            self._in_use.discard(connection)
            if connection.is_free and not self._is_closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close the idle connections and end the others, whose threads close them."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            for connection in self._in_use:
                connection.shut_down()
        for connection in idle:
            connection.close()

    def abandon(self) -> None:
        """In a forked child: close the descriptors that it inherited.

        No thread of the child uses them, and the lock may be held for ever by a thread that the
        child does not have.
        """
        for connection in (*self._idle, *self._in_use):
            connection.close()


def _over() -> KeeperError:
    return KeeperError(
        "the run is over, and its tunnels with it",
        code="KEEPER_FINISHING",
        hint="A thread that outlives the tests can use no fixture",
    )
