"""One caller's connection to the HTTP server: bytes into exchanges, and responses back.

A :class:`ServerConnection` is an asyncio protocol, made by the :class:`~.server.HttpServer` for
each caller. It knows what all connections of a server share by their :class:`ServerContext`. The
router and the request handlers see the :class:`~.exchange.Exchange` alone, which writes to the
connection as its :class:`~.exchange.ResponseSink`.

Where the connection is
    *Awaiting a head*: ``_exchange`` is ``None``. What came of the head waits in ``_held``. The
    head's time runs from its first byte, or from the beginning of the connection.

    *In an exchange*: ``_exchange`` is set. As long as the request's body is not complete
    (``_body_left``, or ``_chunks`` where it comes in chunks), what is read goes to the handler;
    later requests wait as bytes in ``_held``. The exchange ends with the response
    (``exchange_ended``, ``cut``), with the caller's departure or a malformed body
    (``_lose_exchange``), or by leaving HTTP (``detach``).

    *Closing*: ``_closing`` is set. Nothing that comes is looked at, and the connection ends once
    the caller has read what was written, or does not go on reading it.

What always holds:

- One request at a time: the next head is looked at when the response is complete, and written out
  as far as the caller takes it. Pipelined requests cost no more than their bytes, and reading
  pauses when those are many.
- There is at most one deadline, ``due_at``, for whatever is awaited from the caller: a head, the
  next piece of a body, that it reads, or a look at whether it is still there (a caller that is
  not read is not seen to leave). While a request is with its handler nothing is awaited, and
  the last deadline only moves on.
- A handler that the router has returned hears of the end: of the body (``body_ended``), or of the
  exchange (``aborted``), unless it has ended the exchange itself.
- A caller that ends its side (``_ended``) behind a complete request still gets its response, if
  the handler agrees, and those to the requests that it has pipelined; then the connection closes.
- Its observer hears once that no further request comes: when the connection closes, begins to
  close, or leaves HTTP.
- Whatever the caller sends, bytes after a request that was refused are never taken for another.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final, cast

from ..aio.deadlines import Deadlines
from ..aio.tick_writer import Flushable
from .errors import error_response
from .exchange import IGNORE, ConnectionObserver, Exchange, ResponseSink, Router
from .headers import response_head
from .limiter import Admission, ConnectionLimiter
from .refusal_log import log_refusal
from .request import BadRequest, ChunkedBody, HeadParser, RequestHead
from .sockets import has_unread, is_gone, peer_host, reset

__all__ = ["HttpLimits", "ServerConnection", "ServerContext"]

_log = logging.getLogger(__name__)

_PIPELINE_BYTES: Final = 65_536
"""Reading pauses when this much of later requests waits."""
_WRITE_AT_BYTES: Final = 65_536
"""Response bytes are collected up to here within a tick; larger pieces are not copied."""
_LOOK_S = 1.0
"""How often a caller whose body waits is looked at: it is not read, so its end does not come."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a caller may cost.

    Attributes:
        max_connections: open connections of callers whom the router has admitted; further ones get
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
    max_unauthenticated: int = 2_048
    max_head_bytes: int = 65_536
    max_headers: int = 128
    head_timeout_s: float = 15.0
    idle_timeout_s: float = 75.0
    body_timeout_s: float = 60.0
    close_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What the connections of one server share.

    Attributes:
        router: asked with each request; returns what takes its body.
        limits: what a caller may cost.
        limiter: counts the connections.
        deadlines: calls a connection when its ``due_at`` has come.
        time: the loop's clock, in seconds.
        write_soon: flushes a connection at the end of this tick of the loop.
        secure: whether the callers use TLS.
    """

    router: Router
    limits: HttpLimits
    limiter: ConnectionLimiter
    deadlines: Deadlines
    time: Callable[[], float]
    write_soon: Callable[[Flushable], None]
    secure: bool = False


class ServerConnection(asyncio.Protocol, ResponseSink, Flushable):
    """One caller's connection: a :class:`~.exchange.ResponseSink` for its exchanges.

    Args:
        context: what it shares with the server's other connections.

    Attributes:
        context: see above.
        transport: the connection.
        due_at: its deadline, in the loop's time.
        made_at: when it was made, in the loop's time.
        keep: another request may follow the response in flight.
        observer: told that no further request comes.
        write_paused: the caller reads slowly.
    """

    __slots__ = (
        "_advancing",
        "_body_kept",
        "_body_left",
        "_body_paused",
        "_chunks",
        "_closing",
        "_deadlines",
        "_ended",
        "_exchange",
        "_handler",
        "_head_begun",
        "_held",
        "_limiter",
        "_limits",
        "_out",
        "_out_bytes",
        "_parser",
        "_router",
        "_searched_bytes",
        "_secure",
        "_stranger",
        "_time",
        "_unread_bytes",
        "_write_soon",
        "context",
        "due_at",
        "made_at",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.due_at = inf
        self.made_at = 0.0
        self.keep = True
        self.observer: ConnectionObserver | None = None
        self.write_paused = False
        self._limiter = context.limiter
        self._limits = context.limits
        self._router = context.router
        self._deadlines = context.deadlines
        self._time = context.time
        self._write_soon = context.write_soon
        self._secure = context.secure
        self._stranger = True
        """The router has let no request in here."""
        self._closing = False
        """The last response is written; what comes is not looked at any more."""

        # What is read.
        self._held = b""
        """What was read and not looked at yet."""
        self._head_begun = False
        """The first byte of the head that is awaited has come, and its time runs."""
        self._searched_bytes = 0
        """How much of ``_held`` holds no end of a head."""
        self._advancing = False
        """``_advance`` is at work; it goes on by itself with what is held."""
        self._ended = False
        """The caller has ended its side: nothing more comes behind what is held."""

        # The request in flight.
        self._exchange: Exchange | None = None
        """The exchange; ``None`` while a head is awaited."""
        self._handler = IGNORE
        self._body_left = 0
        """Bytes of a body with a length that have not come yet."""
        self._chunks: ChunkedBody | None = None
        """A body in chunks, as long as it is not complete."""
        self._body_paused = False
        """The handler lets the caller wait with the body."""
        self._body_kept = False
        """What is read of the body already waits, too."""

        # What is written.
        self._out: list[bytes] = []
        """What is collected for one write at the end of the tick."""
        self._out_bytes = 0
        self._unread_bytes: float = inf
        """What the transport held back at the last look, since the caller had not read so far."""

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or turn the caller away where there are too many."""
        self.transport = cast("asyncio.Transport", transport)
        self._parser = HeadParser(
            peer_host(transport),
            secure=self._secure,
            max_headers=self._limits.max_headers,
        )
        self.made_at = self._time()
        self._deadlines.set(self, self.made_at + self._limits.head_timeout_s)
        room = self._limiter.add(self)
        if room is Admission.FULL:
            self._turn_away()
        elif room is Admission.FLOODED:
            self._closing = True
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler that nobody reads a response any more."""
        self._closing = True
        self._out.clear()
        self._lose_exchange()
        self._forget()

    def eof_received(self) -> bool:
        """Let a caller that has said all it wants read its response; take any other one that ends
        its side for gone.

        Returns:
            True, for the transport: this end closes the connection by itself. Under TLS, which has
            no half-closed connections, the transport does.
        """
        self._ended = True
        if self._closing:
            self.transport.close()
        elif (
            self._exchange is None
            or self._body_left
            or self._chunks is not None
            or not self.transport.can_write_eof()
            or not self._handler.half_closed()
        ):
            self._lose_exchange()
            self._close(read_on=False)
        return not self._secure

    def data_received(self, data: bytes) -> None:
        """Work through what came, as far as it goes."""
        if self._closing:
            return
        self._held = self._held + data if self._held else data
        self._advance()

    def pause_writing(self) -> None:
        """Pass the transport's wish on; no request begins until the caller has read."""
        self.write_paused = True
        if self._exchange is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass the transport's wish on."""
        self.write_paused = False
        if self._exchange is not None:
            self._handler.resume_writing()
        elif self._held:
            self._go_on()

    # What the limiter, the server and the clock call.

    def drop(self) -> None:
        """End at once, to make room for others."""
        if self._held and not self._closing:
            self._turn_away()
        self._closing = True
        # Closing would wait for one that does not read, and nobody counts this one any more.
        self.transport.abort()
        self._forget()

    def shut_down(self) -> None:
        """End because the server ends: at once, and visibly where a response is in flight."""
        if self._exchange is None and not self._closing:
            self.flush()
            self.transport.close()
        else:
            self.transport.abort()

    def expire(self) -> None:
        """Act on the deadline."""
        if self._closing:
            if not self._await_reader(self._limits.close_timeout_s):
                self._give_up()
        elif self._body_paused:
            self._look()
        elif self._exchange is not None:
            if self.body_open:
                self._refuse(408, "TUNNEL_TIMEOUT", "the request body did not come in time")
            else:
                # Nothing is awaited from the caller. To keep a deadline all the same costs less
                # than to drop it with each request, and to set another one behind it.
                self._deadlines.set(self, self._time() + self._limits.idle_timeout_s)
        elif self._held and not self.write_paused:
            self._refuse(408, "TUNNEL_TIMEOUT", "the request did not come in time")
        elif not self._await_reader(self._limits.idle_timeout_s):
            self._give_up()

    # Reading requests.

    def _advance(self) -> None:
        """Work through what was read, as far as it goes."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._held and not self._closing:
                if self._exchange is None and not self.write_paused:
                    if not self._read_head():
                        break
                elif self._body_kept:
                    break
                elif self._body_left:
                    self._read_body()
                elif self._chunks is not None:
                    self._read_chunks(self._chunks)
                else:
                    # A pipelined request waits until this one is answered, and the answers so
                    # far are read.
                    if len(self._held) >= _PIPELINE_BYTES:
                        self.transport.pause_reading()
                    break
        except BadRequest as error:
            self._refuse(error.status, error.code, str(error))
        except Exception:
            _log.exception("a request failed inside its handler")
            self._refuse(500, "TUNNEL_INTERNAL", "the tunnel failed; its log says more")
        finally:
            self._advancing = False

    def _go_on(self) -> None:
        """Work through what had to wait."""
        # Reading may have paused for it; this does nothing if it has not.
        self.transport.resume_reading()
        self._advance()
        if self._ended:
            self._close_behind_the_last()

    def _read_head(self) -> bool:
        """Take a head and begin its exchange; false if it is not complete yet."""
        held = self._held
        end = held.find(b"\r\n\r\n", self._searched_bytes) + 4
        if end < 4:
            return self._await_head(held)
        if end > self._limits.max_head_bytes:
            raise BadRequest(431, "HEADERS_TOO_LARGE", "request line and headers are too large")
        if end == len(held):
            block = held
            self._held = b""
        else:
            block = held[:end]
            self._held = held[end:]
        self._searched_bytes = 0
        if block[0] <= 32:
            # Empty lines before a request are allowed; others were refused by now.
            block = block.lstrip(b"\r\n")
            if not block:
                self._begin_head()
                return True
        self._head_begun = False
        head = self._parser.parse(block)
        exchange = self._exchange = Exchange(self, head)
        self._body_left = head.content_length
        if head.chunked:
            self._chunks = ChunkedBody()
        if head.expects_continue:
            self.due_at = inf  # it runs from the answer that tells the caller to send the body
        elif head.chunked or head.content_length > len(self._held):
            self._deadlines.set(self, self._time() + self._limits.body_timeout_s)
        handler = self._router(exchange)
        if exchange.connection is not None:
            if self._stranger:
                self._stranger = False
                self._limiter.let_in(self)
            self._handler = handler
            if self.write_paused:
                handler.pause_writing()
            if not self._body_left and self._chunks is None:
                handler.body_ended()
        return True

    def _await_head(self, held: bytes) -> bool:
        """Look at the part of a head."""
        start = held.lstrip(b"\r\n")
        if start and not 32 < start[0] < 127:
            raise BadRequest(400, "BAD_REQUEST", "this port speaks plain HTTP/1.1")
        if b"\n\n" in held:
            raise BadRequest(400, "BAD_REQUEST", "lines must end in CR LF")
        if len(held) > self._limits.max_head_bytes:
            if b"\n" in start:
                raise BadRequest(431, "HEADERS_TOO_LARGE", "the headers are too large")
            raise BadRequest(414, "HEADERS_TOO_LARGE", "the request line is too long")
        self._begin_head()
        self._searched_bytes = max(len(held) - 3, 0)
        return False

    def _begin_head(self) -> None:
        """Let a head's time run from its first byte, be that of an empty line."""
        if not self._head_begun:
            self._head_begun = True
            self._deadlines.set(self, self._time() + self._limits.head_timeout_s)

    def _read_body(self) -> None:
        """Take what came of a body with a length."""
        data, left = self._held, self._body_left
        if len(data) <= left:
            self._held = b""
        else:
            data, self._held = data[:left], data[left:]
        self._body_left = left - len(data)
        self._deliver(data, ended=len(data) == left)

    def _read_chunks(self, chunks: ChunkedBody) -> None:
        """Take what came of a body in chunks."""
        data, self._held = chunks.feed(self._held)
        if chunks.ended:
            self._chunks = None
            if chunks.trailers and self._exchange is not None:
                self._exchange.trailers = chunks.trailers
        self._deliver(data, ended=chunks.ended)

    def _deliver(self, data: bytes, *, ended: bool) -> None:
        """Bring a piece of the body to the handler."""
        exchange = self._exchange
        if ended:
            if self._body_paused:
                self._body_paused = self._body_kept = False
                self.transport.resume_reading()
        elif not self._body_paused:
            self._deadlines.set(self, self._time() + self._limits.body_timeout_s)
        if data:
            self._handler.body_received(data)
        if ended and self._exchange is exchange and exchange is not None and not exchange.done:
            self._handler.body_ended()
            if exchange.answered and exchange.lose():
                self.exchange_ended()

    def _look(self) -> None:
        """See whether a caller that is not read is still there."""
        if is_gone(self.transport):
            self._lose_exchange()
            self.transport.abort()
        else:
            self._deadlines.set(self, self._time() + _LOOK_S)

    # What the exchange calls (see ResponseSink).

    @property
    def body_open(self) -> bool:
        """More of the request's body is to come."""
        return self._body_left > 0 or self._chunks is not None

    def may_be_kept(self, head: RequestHead, *, reads_on: bool) -> bool:
        """Whether another request can follow the one that is being answered now."""
        return (
            head.keep_alive
            and (reads_on or (not self._body_left and self._chunks is None))
            and not head.upgrade
            and not self._closing
        )

    def exchange_ended(self) -> None:
        """Go on with the next request, or close."""
        if self._closing:
            return
        if not self.keep or self._body_left or self._chunks is not None:
            self.flush()
            self._close(read_on=self.body_open)
            return
        self._exchange = None
        self._handler = IGNORE
        self._unread_bytes = inf
        idle_until = self._time() + self._limits.idle_timeout_s
        if idle_until >= self.due_at:
            self.due_at = idle_until
        else:
            self._deadlines.set(self, idle_until)
        if self._held and not self._advancing:
            self._go_on()
        elif self._ended:
            self._close_behind_the_last()

    def close_if_idle(self) -> bool:
        """End the connection, unless a request is in flight or has begun to come."""
        if self._exchange is not None or self._held or has_unread(self.transport):
            return False
        if not self._closing:
            self.flush()
            self._close(read_on=False)
        return True

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Hand over the transport and what was read beyond the request."""
        self.flush()
        self._forget()
        self._closing = True
        self._exchange = None
        self._handler = IGNORE
        held, self._held = self._held, b""
        self.transport.resume_reading()
        return self.transport, held

    @property
    def unread_bytes(self) -> int:
        """See :attr:`.exchange.Exchange.unread_bytes`."""
        return self._out_bytes + self.transport.get_write_buffer_size()

    @property
    def body_at_hand(self) -> int:
        """See :attr:`.exchange.Exchange.body_at_hand`."""
        left = self._body_left
        return left if len(self._held) >= left else 0

    def await_body(self) -> None:
        """Give the caller, which was told to send the body, time for it."""
        if not self._body_paused and (self._body_left or self._chunks is not None):
            self._deadlines.set(self, self._time() + self._limits.body_timeout_s)

    def pause_body(self, *, keep: bool) -> None:
        """Stop reading for the handler's sake (see :meth:`.exchange.Exchange.pause_body`)."""
        if not self._body_paused and (self._body_left or self._chunks is not None):
            self._body_paused = True
            self._body_kept = keep
            self._deadlines.set(self, self._time() + _LOOK_S)
            self.transport.pause_reading()

    def resume_body(self) -> None:
        """Read again."""
        if self._body_paused:
            self._body_paused = self._body_kept = False
            self._deadlines.set(self, self._time() + self._limits.body_timeout_s)
            self.transport.resume_reading()
            if self._held:
                self._advance()

    def collect(self, data: bytes) -> None:
        """Write ``data``, at the end of this tick of the loop or before."""
        if len(data) >= _WRITE_AT_BYTES:
            self.write(data)
            return
        if not self._out:
            self._write_soon(self)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= _WRITE_AT_BYTES:
            self.flush()

    def write(self, data: bytes) -> None:
        """Write ``data`` now, behind what was collected."""
        if self._out:
            self.flush()
        self.transport.write(data)

    def flush(self) -> None:
        """Write what was collected."""
        out = self._out
        if out:
            self._out = []
            self._out_bytes = 0
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def cut(self, *, with_reset: bool) -> None:
        """End the connection in the middle of a response."""
        self.flush()
        if with_reset:
            self._closing = True
            reset(self.transport)
        else:
            self._close(read_on=False)

    # Ending.

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer what cannot be understood, if it can still be answered, and close."""
        exchange = self._exchange
        self._lose_exchange()
        if self._closing:
            return
        log_refusal(status, code, peer=self._parser.peer_host)
        if exchange is None or not exchange.started:
            status, headers, body = error_response(status, code, message)
            framing = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
            self.collect(response_head(status, headers, framing) + body)
            self.flush()
            self._close(read_on=True)
        else:
            self.cut(with_reset=exchange.ends_with_connection)

    def _turn_away(self) -> None:
        """Tell the caller that there are too many."""
        self._refuse(503, "TUNNEL_CAPACITY_EXCEEDED", "too many connections; try again later")

    def _lose_exchange(self) -> None:
        """End the exchange in flight, if there is one, without a response."""
        exchange, self._exchange = self._exchange, None
        handler, self._handler = self._handler, IGNORE
        if exchange is not None and exchange.lose():
            handler.aborted()

    def _close(self, *, read_on: bool) -> None:
        """Close once all is written.

        Args:
            read_on: discard what the caller still sends, for a while. Closing right away would
                make its system drop the response that it has not read.
        """
        self._held = b""
        self._closing = True
        self._tell_observer()
        self._unread_bytes = inf
        self._deadlines.set(self, self._time() + self._limits.close_timeout_s)
        if read_on and not self.transport.is_closing():
            self.transport.resume_reading()
            if not self.transport.can_write_eof():
                return  # under TLS the caller closes, or the deadline does
            try:
                self.transport.write_eof()
            except OSError:  # the caller has reset the connection
                self.transport.abort()
        else:
            self.transport.close()

    def _await_reader(self, timeout_s: float) -> bool:
        """Look whether the caller has read since the last look, and not all of it.

        Returns:
            Whether to look again: then there is a deadline for that.
        """
        left = self.transport.get_write_buffer_size()
        reads_on = 0 < left < self._unread_bytes
        self._unread_bytes = float(left)
        if reads_on:
            self._deadlines.set(self, self._time() + timeout_s)
        return reads_on

    def _give_up(self) -> None:
        """End what the caller does not read so that it sees that, or what is written by now."""
        if self.transport.get_write_buffer_size():
            self._closing = True
            reset(self.transport)
        elif self._closing:
            self.transport.abort()
        else:
            self._close(read_on=False)

    def _close_behind_the_last(self) -> None:
        """Close once every request of a caller that has ended its side is answered."""
        waits = self._held and self.write_paused  # for the answers so far to be read
        if self._exchange is None and not (self._closing or self._advancing or waits):
            self.flush()
            self._close(read_on=False)

    def _tell_observer(self) -> None:
        """Tell the observer, if there is one, that no further request comes."""
        observer, self.observer = self.observer, None
        if observer is not None:
            observer.connection_ended()

    def _forget(self) -> None:
        """Be counted no more, and have no deadline."""
        self._tell_observer()
        self._limiter.discard(self)
        self._deadlines.forget(self)
