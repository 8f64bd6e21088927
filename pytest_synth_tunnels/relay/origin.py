"""The local app: pooled HTTP/1.1 connections to one host and port.

No task and no queue per request: a request takes an idle connection, or waits for the next one,
and hears everything else from the parser's callbacks. Only dialling a new connection is a task.

A connection idle for more than :data:`MAX_IDLE_S` is not used again. Servers keep idle connections
for longer than that, so a reused connection is practically never one that is being closed.
"""

import asyncio
import errno
import logging
import socket
from enum import Enum, auto
from math import inf
from typing import Final, Protocol, cast

import httptools

from .deadlines import Deadlines
from .frames import Headers
from .head import HOP_BY_HOP

__all__ = ["MAX_IDLE_S", "Origin", "OriginConnection", "OriginError", "Responder"]

MAX_IDLE_S: Final = 1.0
"""How long an idle connection may be used again, in seconds."""

RETRY_EVERY_S: Final = 0.05
"""Between attempts while an app that never accepted refuses, in seconds."""

_CONNECT_TIMEOUT_S: Final = 10.0
_MAX_HEAD_BYTES: Final = 256 * 1024
_WRITE_BUFFER_BYTES: Final = 128 * 1024
_QUICK_ACK: Final = getattr(socket, "TCP_QUICKACK", None)
_DROPPED: Final = frozenset(name.encode() for name in HOP_BY_HOP)
_NOTED: Final = _DROPPED | {b"content-length"}

_log = logging.getLogger(__name__)


class OriginError(Exception):
    """The app gave no whole answer. The message names its host and port.

    Attributes:
        unanswered: a reused connection ended before one byte of the answer: the app was most
            likely closing it while the request was on its way.
    """

    def __init__(self, message: str, *, unanswered: bool = False) -> None:
        super().__init__(message)
        self.unanswered = unanswered


class Responder(Protocol):
    """Whose request it is. Nothing here may raise or block."""

    def connected(self, connection: "OriginConnection") -> None:
        """Begin the request on this connection."""

    def response_started(self, status: int, headers: Headers) -> None:
        """Take the final status and the headers, without the hop-by-hop ones."""

    def response_body(self, data: bytes) -> None:
        """Take a piece of the body."""

    def response_ended(self) -> None:
        """Take note that the response is complete."""

    def failed(self, error: OriginError) -> None:
        """Take note that nothing more will come."""

    def pause_writing(self) -> None:
        """Stop sending body: the app is slow."""

    def resume_writing(self) -> None:
        """Go on after :meth:`pause_writing`."""


class Origin:
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
        self._idle: list[OriginConnection] = []
        """The last one used is used next, so that the others grow old and go."""
        self._waiting: dict[Responder, float] = {}
        """In order of arrival, with the time at which each gives up an app that refuses."""
        self._dials: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def submit(self, responder: Responder, *, fresh: bool = False) -> None:
        """Give a request a connection: at once if one is idle, else as soon as there is one.

        Args:
            responder: whose :meth:`Responder.connected` or :meth:`Responder.failed` is called.
            fresh: not one that was idle.
        """
        now = self._loop.time()
        while self._idle and not fresh:
            connection = self._idle.pop()
            if now - connection.idle_since_s <= MAX_IDLE_S and connection.usable:
                responder.connected(connection)
                return
            connection.close()
        self._waiting[responder] = now + self._patience_s
        if self._retry is None:
            self._dial()

    def withdraw(self, responder: Responder) -> None:
        """Forget a request that still waits for a connection."""
        self._waiting.pop(responder, None)

    def release(self, connection: "OriginConnection") -> None:
        """Take back a connection whose response is complete, or a new one."""
        if self._waiting:
            responder = next(iter(self._waiting))
            del self._waiting[responder]
            responder.connected(connection)
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

    def forget(self, connection: "OriginConnection") -> None:
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

    def _dial(self) -> None:
        """Have as many connections under way as requests wait, or one while the app refuses."""
        self._retry = None
        wanted = len(self._waiting) if self.accepted else min(len(self._waiting), 1)
        while len(self._dials) < wanted:
            task = self._loop.create_task(self._connect())
            self._dials.add(task)

    async def _connect(self) -> None:
        """Dial one connection."""
        connection: OriginConnection | None = None
        error: OSError | None = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, connection = await self._loop.create_connection(
                    lambda: OriginConnection(self), self.host, self.port
                )
        except OSError as refusal:  # a TimeoutError is one
            error = refusal
        finally:
            self._dials.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if connection is not None:
            self.accepted = True
            self.release(connection)
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
        while self._waiting and next(iter(self._waiting.values())) <= now:
            self._give_up(f"{why} (tried for {self._patience_s:g} s)")
        if self._waiting:
            self._retry = self._loop.call_later(RETRY_EVERY_S, self._dial)

    def _give_up(self, why: str) -> None:
        """Fail the request that waited longest, if any is left."""
        for responder in self._waiting:
            del self._waiting[responder]
            responder.failed(OriginError(f"cannot connect to the app at {self.name}: {why}"))
            break


class _Stage(Enum):
    """How far the response on a connection is."""

    IDLE = auto()
    HEAD = auto()
    INTERIM = auto()  # inside a 1xx response, which is dropped
    BODY = auto()
    DONE = auto()


# Plain globals: looked up once or twice per request.
_IDLE, _HEAD, _INTERIM, _BODY, _DONE = _Stage


class OriginConnection(asyncio.Protocol):
    """One connection to the app; one request at a time.

    The ``on_*`` methods are the parser's callbacks.
    """

    def __init__(self, origin: Origin) -> None:
        self.idle_since_s = 0.0
        """The loop's time when the last response ended."""
        self.reused = False
        """It carried a request before this one."""
        self._origin = origin
        self._transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpResponseParser(self)
        self._responder: Responder | None = None
        self._stage = _IDLE
        self._headers: Headers = []
        self._head_only = False
        """The request is a HEAD: the response ends with its headers, whatever they say."""
        self._sent = False
        """The request is written to its end."""
        self._framed = False
        """The response says itself where it ends; else the end of the connection does."""
        self._keep = False
        """The connection may carry another request."""
        self._named: set[bytes] = set()
        """Headers that the response's ``Connection`` makes hop-by-hop."""
        self._head_bytes = 0
        self._read_paused = False

    @property
    def usable(self) -> bool:
        """Whether another request may begin."""
        return not self._transport.is_closing()

    def begin(self, responder: Responder, data: bytes, *, head_only: bool) -> None:
        """Begin a request.

        Args:
            responder: whose it is.
            data: the head, and as much of the body as there is.
            head_only: its method is HEAD.
        """
        self._responder, self._head_only, self._sent = responder, head_only, False
        self._reset(_HEAD)
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        """Send more of the request's body, framed already."""
        self._transport.write(data)

    def request_ended(self) -> None:
        """Take note that the request is complete, so that the connection can be used again."""
        self._sent = True

    def pause_reading(self) -> None:
        """Let the app wait."""
        self._read_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after :meth:`pause_reading`."""
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    def abandon(self) -> None:
        """End the connection in the middle of a request; the responder hears nothing more."""
        self._responder = None
        self._transport.abort()

    def close(self) -> None:
        """End an idle connection."""
        self._transport.close()

    # --- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio has set ``TCP_NODELAY``)."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Parse; the callbacks tell the responder, and the end is told after the last of them."""
        if self._responder is None:
            self._transport.abort()  # nobody asked: a server saying that it is about to close
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            _log.error("a response from %s failed", self._origin.name, exc_info=error.__context__)
            self._fail("the response could not be passed on")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if self._stage is not _DONE:
                self._fail(f"its answer is not HTTP/1.1 ({error})")
        if self._responder is None:
            return
        if self._stage is _DONE:
            self._complete()
            return
        if self._stage is _HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(f"the head of its answer is over {_MAX_HEAD_BYTES >> 10} KiB")
                return
        if _QUICK_ACK is not None:
            # A server that writes headers and body apart, with Nagle's algorithm on, sends the
            # body only once the headers are acknowledged, and that may take 40 ms.
            sock = self._transport.get_extra_info("socket")
            if sock is not None and not self._transport.is_closing():
                sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def eof_received(self) -> None:
        """End a response that ends with its connection."""
        if self._responder is not None:
            self._ended_by_peer(None)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        if self._responder is None:
            self._origin.forget(self)
            return
        if exc is not None and not self._sent:
            self._read_the_rest()
        if self._responder is not None:
            self._ended_by_peer(exc or ConnectionResetError())

    def pause_writing(self) -> None:
        """Pass the transport's wish on."""
        if self._responder is not None:
            self._responder.pause_writing()

    def resume_writing(self) -> None:
        """Pass the transport's wish on."""
        if self._responder is not None:
            self._responder.resume_writing()

    # --- the parser

    def on_message_begin(self) -> None:
        """Notice a response that nobody asked for."""
        if self._stage is _DONE:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header. Trailers come here too, behind the body, and are dropped."""
        if self._stage is not _HEAD:
            return
        lower = name.lower()
        if lower in _NOTED:
            self._note(lower, value)
            if lower in _DROPPED:
                return
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Tell the responder, unless it is only an interim response."""
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self._fail(f"it answered with status {status}")
            self._stage = _INTERIM
            return
        if self._head_only or status in (204, 304):
            self._framed = True
        if self._parser.get_http_version() == "1.0" and b"keep-alive" not in self._named:
            self._keep = False
        named = self._named - {b"keep-alive", b"close"}
        if named:
            dropped = {name.decode("latin-1") for name in named}
            self._headers = [h for h in self._headers if h[0].lower() not in dropped]
        self._stage = _DONE if self._head_only else _BODY
        if self._responder is not None:
            self._responder.response_started(status, self._headers)

    def on_body(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self._stage is _BODY and self._responder is not None:
            self._responder.response_body(data)
        else:
            self._keep = False  # a body where none may be

    def on_message_complete(self) -> None:
        """Remember the end until the parser has returned; or expect what follows a 1xx."""
        if self._stage is _INTERIM:
            self._reset(_HEAD)
        else:
            self._stage = _DONE

    # --- inside

    def _reset(self, stage: _Stage) -> None:
        """Expect a response."""
        self._stage = stage
        self._headers = []
        self._head_bytes = 0
        self._framed = False
        self._keep = True
        if self._named:
            self._named = set()

    def _note(self, name: bytes, value: bytes) -> None:
        """Learn from a header how the response is framed."""
        if name == b"content-length":
            self._framed = True
        elif name == b"transfer-encoding":
            self._framed = value.lower().rstrip().endswith(b"chunked")
        elif name == b"connection":
            tokens = {token.strip() for token in value.lower().split(b",")}
            self._named |= tokens
            if b"close" in tokens:
                self._keep = False

    def _complete(self) -> None:
        """Give the connection back, then tell the responder, who may start the next request."""
        responder, self._responder = self._responder, None
        self._stage = _IDLE
        self.resume_reading()
        if self._keep and self._framed and self._sent:
            self.reused = True
            if self._head_only:
                self._parser = httptools.HttpResponseParser(self)  # it waits for a body
            self._origin.release(self)
        else:
            self._transport.abort()
        if responder is not None:
            responder.response_ended()

    def _ended_by_peer(self, exc: Exception | None) -> None:
        """Tell a response that ends with its connection from one that was cut off."""
        if self._stage is _BODY and not self._framed and exc is None:
            self._complete()
        elif self._stage is _BODY:
            self._fail("it closed the connection in the middle of its answer")
        else:
            silent = self._stage is _HEAD and not self._head_bytes
            self._fail(
                "it closed the connection without an answer", unanswered=silent and self.reused
            )

    def _read_the_rest(self) -> None:
        """Read what an app sent before it closed the door on a long upload.

        Its answer waits in the kernel, but asyncio gives the connection up as soon as a write
        fails.
        """
        sock = self._transport.get_extra_info("socket")
        try:
            with sock.dup() as raw:
                while self._responder is not None and (data := raw.recv(65536)):
                    self.data_received(data)
        except (OSError, TypeError):  # nothing there, or a loop without sockets to duplicate
            return
        if self._responder is not None:
            self._ended_by_peer(None)

    def _fail(self, why: str, *, unanswered: bool = False) -> None:
        """Give the connection up, and tell the responder once."""
        responder, self._responder = self._responder, None
        self._transport.abort()
        if responder is not None:
            responder.failed(OriginError(f"{self._origin.name}: {why}", unanswered=unanswered))


def _explain(error: OSError) -> str:
    """Return what a person needs to know of a failed connection."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_TIMEOUT_S:g} s"
    if error.errno == errno.ECONNREFUSED:
        return "connection refused, nothing listens there"
    return error.strerror or str(error)
