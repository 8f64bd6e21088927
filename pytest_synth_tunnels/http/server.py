"""The server side of HTTP/1.1 on asyncio's transports, one request at a time.

An :class:`HttpServer` makes a :class:`ServerConnection` for each caller. A connection reads a
head, asks the router for a handler, gives it the body, and looks at the next head only when the
response is complete: pipelined requests wait as bytes. There is no task and no queue for a
request. Responses are written when a tick of the loop is over: what belongs together is one
write, and the callers that one tick answers are woken in one go, which costs the system less.
"""

import asyncio
from dataclasses import dataclass

from ..aio.deadlines import Deadlines
from .callers import ConnectionLimiter
from .connection import ServerConnection
from .exchange import Router
from .outlet import Outlet

__all__ = ["HttpLimits", "HttpServer"]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a caller may cost.

    Attributes:
        max_connections: open connections of callers whom the router has let in; further ones get
            503.
        max_unauthenticated: those beside them. The one that waits longest makes room for another
            if it has had a moment to say who it is; else the newcomer gets 503.
        max_head_bytes: request line and headers together.
        max_headers: headers in one request.
        head_timeout_s: from a head's first byte (or the connection's begin) to its last.
        idle_timeout_s: between two requests.
        body_timeout_s: between two pieces of a body that a handler is ready to take.
        close_timeout_s: for what is written last to be read.
    """

    max_connections: int = 2_048
    max_unauthenticated: int = 1_024
    max_head_bytes: int = 65_536
    max_headers: int = 128
    head_timeout_s: float = 15.0
    idle_timeout_s: float = 75.0
    body_timeout_s: float = 60.0
    close_timeout_s: float = 5.0


class HttpServer:
    """What the connections of one listening socket share. It is their protocol factory:
    ``loop.create_server(HttpServer(router, loop=loop), host, port)``.

    Args:
        router: asked with each request; returns who takes its body.
        loop: the event loop.
        limits: what a caller may cost.
        secure: whether the sockets speak TLS.
    """

    def __init__(
        self,
        router: Router,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: HttpLimits | None = None,
        secure: bool = False,
    ) -> None:
        self.router = router
        self.loop = loop
        self.limits = limits or HttpLimits()
        self.secure = secure
        self.deadlines = Deadlines(loop)
        self.callers = ConnectionLimiter(
            max_known=self.limits.max_connections,
            max_strangers=self.limits.max_unauthenticated,
        )
        self._unwritten: list[Outlet] = []

    def __call__(self) -> ServerConnection:
        return ServerConnection(self)

    def write_soon(self, connection: Outlet) -> None:
        """Write what ``connection`` has collected when this tick of the loop is over."""
        if not self._unwritten:
            self.loop.call_soon(self._write_all)
        self._unwritten.append(connection)

    def close(self) -> None:
        """End every connection: idle ones at once, and responses under way visibly."""
        for connection in list(self.callers.connections):
            connection.shut_down()
        self.deadlines.close()

    def _write_all(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        for connection in unwritten:
            connection.flush()
