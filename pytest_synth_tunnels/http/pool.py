"""The local app: pooled HTTP/1.1 connections to one host and port.

No task and no queue per request: a request takes an idle connection, or waits for the next one,
and hears everything else from the parser's callbacks. Only dialling a new connection is a task.

A connection idle for more than :data:`MAX_IDLE_S` is not used again. Servers keep idle connections
for longer than that, so a reused connection is practically never one that is being closed.
"""

import asyncio
import errno
from math import inf
from typing import Final, cast

from ..aio.deadlines import Deadlines
from ..aio.tick_writer import TickWriter
from .client_connection import ClientConnection, ConnectionWaiter, OriginError

__all__ = ["MAX_IDLE_S", "ConnectionPool"]

MAX_IDLE_S: Final = 1.0
"""How long an idle connection may be used again, in seconds."""

RETRY_EVERY_S: Final = 0.05
"""Between attempts while an app that never accepted refuses, in seconds."""

_CONNECT_TIMEOUT_S: Final = 10.0


class ConnectionPool:
    """The connections to one host and port.

    Args:
        host: name or address.
        port: TCP port.
        deadlines: wakes this up to close idle connections.
        patience_s: how long a refused connection is tried again for one request, in seconds, as
            long as the app has never accepted one: it may be starting.
    """

    def __init__(
        self, host: str, port: int, deadlines: Deadlines, *, patience_s: float = 5.0
    ) -> None:
        self.host, self.port = host, port
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        """For people."""
        self.accepted = False
        """The app has accepted a connection before."""
        self.due_at = inf
        """When the oldest idle connection is too old, or earlier."""
        self._deadlines = deadlines
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._idle: list[ClientConnection] = []
        """The last one used is used next, so that the others grow old and go."""
        self._waiting: dict[ConnectionWaiter, tuple[float, bool]] = {}
        """In order of arrival, with the time at which each gives up an app that refuses, and
        whether it takes none but a new connection."""
        self.flush_soon = TickWriter(self._loop).flush_soon
        """Lets a connection write at the end of this tick of the loop."""
        self._dials: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def acquire(self, waiter: ConnectionWaiter, *, fresh: bool = False) -> None:
        """Give a request a connection: at once if one is idle, else as soon as there is one.

        Args:
            waiter: its ``connected`` or ``failed`` is called, perhaps before this returns.
            fresh: not one that was used before.
        """
        now = self._loop.time()
        while self._idle and not fresh:
            connection = self._idle.pop()
            if now - connection.idle_since_s <= MAX_IDLE_S and connection.usable:
                waiter.connected(connection)
                return
            connection.close()
        self._waiting[waiter] = now + self._patience_s, fresh
        if self._retry is None:
            self._dial()

    def cancel(self, waiter: ConnectionWaiter) -> None:
        """Forget a request that still waits for a connection."""
        self._waiting.pop(waiter, None)

    def release(self, connection: ClientConnection, *, new: bool = False) -> None:
        """Take back a connection whose response is complete, or a new one."""
        waiter = self._next(new=new) if self._waiting else None
        if waiter is not None:
            del self._waiting[waiter]
            waiter.connected(connection)
        elif self._closed:
            connection.close()
        else:
            connection.idle_since_s = self._loop.time()
            self._idle.append(connection)
            if self.due_at == inf:
                self._deadlines.set(self, connection.idle_since_s + MAX_IDLE_S)

    @property
    def closed(self) -> bool:
        """Whether nothing is left of it: closed, and no request waits."""
        return self._closed and not self._waiting and not self._dials

    def forget(self, connection: ClientConnection) -> None:
        """Never hand out a connection that ended while idle."""
        if connection in self._idle:
            self._idle.remove(connection)

    def expire(self) -> None:
        """Close the connections that were idle for too long."""
        now = self._loop.time()
        while self._idle and now - self._idle[0].idle_since_s >= MAX_IDLE_S:
            self._idle.pop(0).close()
        if self._idle:
            self._deadlines.set(self, self._idle[0].idle_since_s + MAX_IDLE_S)

    def close(self) -> None:
        """Close idle connections, and busy ones once they are done. Requests go on."""
        self._closed = True
        self._deadlines.forget(self)
        while self._idle:
            self._idle.pop().close()

    async def aclose(self) -> None:
        """Close, fail whoever waits, and wait for the dialling to end."""
        self.close()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while self._waiting:
            self._give_up("the agent is closing")
        for task in list(self._dials):
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)

    def _next(self, *, new: bool) -> ConnectionWaiter | None:
        """Return who waits longest for such a connection."""
        for waiter, (_, fresh) in self._waiting.items():
            if new or not fresh:
                return waiter
        return None

    def _dial(self) -> None:
        """Have as many connections under way as requests wait, or one while the app refuses."""
        self._retry = None
        wanted = len(self._waiting) if self.accepted else min(len(self._waiting), 1)
        while len(self._dials) < wanted:
            task = self._loop.create_task(self._connect())
            self._dials.add(task)

    async def _connect(self) -> None:
        """Dial one connection."""
        connection: ClientConnection | None = None
        error: OSError | None = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, connection = await self._loop.create_connection(
                    lambda: ClientConnection(self), self.host, self.port
                )
        except OSError as refusal:  # a TimeoutError is one
            error = refusal
        finally:
            self._dials.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if connection is not None:
            self.accepted = True
            self.release(connection, new=True)
        elif error is not None:
            self._refused(error)
        if self._retry is None:
            self._dial()

    def _refused(self, error: OSError) -> None:
        """Try again for as long as the first request has patience, or give it up."""
        now = self._loop.time()
        why = _explain(error)
        if self.accepted:
            self._give_up(why)
            return
        while self._waiting and next(iter(self._waiting.values()))[0] <= now:
            self._give_up(f"{why} (tried for {self._patience_s:g} s)")
        if self._waiting:
            self._retry = self._loop.call_later(RETRY_EVERY_S, self._dial)

    def _give_up(self, why: str) -> None:
        """Fail the request that waited longest, if any is left."""
        for waiter in self._waiting:
            del self._waiting[waiter]
            waiter.failed(OriginError(f"cannot connect to the app at {self.name}: {why}"))
            break


def _explain(error: OSError) -> str:
    """Return what a person needs to know of a failed connection."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_TIMEOUT_S:g} s"
    if error.errno == errno.ECONNREFUSED:
        return "connection refused, nothing listens there"
    return error.strerror or str(error)
