"""The server side of HTTP/1.1 on asyncio's transports, one request at a time.

An :class:`HttpServer` makes a :class:`~.connection.ServerConnection` for each caller. There is no
task and no queue for a request. Responses are written when a tick of the loop is over: what
belongs together is one write, and the callers that one tick answers are woken in one go, which
costs the system less.
"""

import asyncio
from dataclasses import replace

from ..aio.clock import clock_of
from ..aio.deadlines import Deadlines
from ..aio.tick_writer import TickWriter
from .connection import HttpLimits, ServerConnection, ServerContext
from .exchange import Router
from .limiter import ConnectionLimiter

__all__ = ["HttpListener", "HttpServer"]


class HttpServer:
    """What the connections of one listening socket share. It is their protocol factory:
    ``loop.create_server(HttpServer(router, loop=loop), host, port)``.

    Args:
        router: asked with each request; returns what takes its body.
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
        limits = limits or HttpLimits()
        self.deadlines = Deadlines(loop)
        self.limiter = ConnectionLimiter(
            max_known=limits.max_connections, max_strangers=limits.max_unauthenticated
        )
        self._context = ServerContext(
            router=router,
            limits=limits,
            limiter=self.limiter,
            deadlines=self.deadlines,
            time=clock_of(loop),
            write_soon=TickWriter(loop).flush_soon,
            secure=secure,
        )

    def __call__(self) -> ServerConnection:
        return ServerConnection(self._context)

    def listener(self, router: Router, *, secure: bool = False) -> "HttpListener":
        """Return the protocol factory of a further listening socket.

        Its connections count with those of this server, and end with it at the latest.

        Args:
            router: asked with each request that comes there.
            secure: whether the socket speaks TLS.
        """
        return HttpListener(replace(self._context, router=router, secure=secure))

    def close(self) -> None:
        """End every connection: idle ones at once, and responses in flight visibly."""
        for connection in list(self.limiter.connections):
            connection.shut_down()
        self.deadlines.close()


class HttpListener:
    """The protocol factory of one more listening socket of an :class:`HttpServer`.

    Args:
        context: the server's, with a router of its own.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def __call__(self) -> ServerConnection:
        return ServerConnection(self._context)

    def close(self) -> None:
        """End the connections that came by this socket, as :meth:`HttpServer.close` does."""
        for connection in list(self._context.limiter.connections):
            if isinstance(connection, ServerConnection) and connection.context is self._context:
                connection.shut_down()
