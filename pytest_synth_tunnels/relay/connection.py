"""One caller's connection: bytes into exchanges, and responses back."""

import asyncio
import logging
import socket
import struct
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final, cast

from .body import ChunkedBody
from .exchange import IGNORE, Exchange
from .head import error_response, response_head
from .request import BadRequest, Head, HeadParser

if TYPE_CHECKING:
    from .http11 import HttpServer

__all__ = ["ServerConnection"]

_log = logging.getLogger(__name__)

_WRITE_AT_BYTES: Final = 65_536
"""Response bytes are collected up to here within a tick; larger pieces are not copied."""
_PIPELINE_BYTES: Final = 65_536
"""Reading pauses when this much of later requests waits."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""``SO_LINGER`` with no time to linger: the caller gets a reset instead of an end."""
_SPARE_CONNECTIONS: Final = 64
"""How many connections beyond the limit are told why they are refused."""
_GRACE_S: Final = 1.0
"""How long a new connection need not make room for another."""


class ServerConnection(asyncio.Protocol):
    """One caller's connection. Handlers see its :class:`Exchange` only.

    Attributes:
        server: what it shares with the others.
        due_at: its deadline, in the loop's time.
        keep: another request may follow the response.
        write_paused: the caller reads slowly.
        made_at: when it began, in the loop's time.
    """

    transport: asyncio.Transport

    def __init__(self, server: "HttpServer") -> None:
        self.server = server
        self.due_at = inf
        self.keep = True
        self.write_paused = False
        self.made_at = 0.0
        self._stranger = True
        """The router has let nobody in here."""
        self._limits = server.limits
        self._time = server.loop.time
        self._held = b""
        """What was read and not looked at yet."""
        self._searched = 0
        """How much of it holds no end of a head."""
        self._exchange: Exchange | None = None
        """The request under way; ``None`` while a head is awaited."""
        self._handler = IGNORE
        self._body_left = 0
        self._body: ChunkedBody | None = None
        """The request's body as long as it is not complete, like ``_body_left``."""
        self._body_paused = False
        self._body_kept = False
        """Nor is that handed on which is read already."""
        self._advancing = False
        self._closing = False
        """The last response is written; what comes is not read any more."""
        self._out: list[bytes] = []
        self._out_bytes = 0

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        server = self.server
        peer = transport.get_extra_info("peername")
        self._parser = HeadParser(
            peer[0] if isinstance(peer, tuple) else "",
            secure=server.secure,
            max_headers=self._limits.max_headers,
        )
        now = self.made_at = self._time()
        known = len(server.connections) - len(server.strangers)
        strangers = self._make_room(now)
        server.connections.add(self)
        server.strangers[self] = None
        server.deadlines.set(self, now + self._limits.head_timeout_s)
        if strangers >= self._limits.max_unauthenticated + _SPARE_CONNECTIONS:
            self._closing = True
            self.transport.abort()
        elif strangers >= self._limits.max_unauthenticated or known >= self._limits.max_connections:
            self._refuse(503, "TUNNEL_CAPACITY_EXCEEDED", "too many connections; try again later")

    def _make_room(self, now: float) -> int:
        """Drop a stranger if they are many, and return how many are left."""
        strangers = self.server.strangers
        if len(strangers) >= self._limits.max_unauthenticated:
            oldest = next(iter(strangers))
            if now - oldest.made_at >= _GRACE_S:
                oldest.drop()
        return len(strangers)

    def drop(self) -> None:
        """Make room for others."""
        if self._held and not self._closing:
            self._refuse(503, "TUNNEL_CAPACITY_EXCEEDED", "too many connections; try again later")
        self._closing = True
        self.transport.close()
        self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._closing = True
        self._out.clear()
        self._lose_exchange()

    def eof_received(self) -> None:
        # A caller that ends its side is taken for gone: most that do so are.
        self._lose_exchange()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._held = self._held + data if self._held else data
        if not self._advancing:
            self._advance()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._exchange is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._exchange is not None:
            self._handler.resume_writing()

    # Requests.

    def _advance(self) -> None:
        """Work through what was read, as far as it goes."""
        self._advancing = True
        try:
            while self._held and not self._closing:
                if self._exchange is None:
                    if not self._read_head():
                        break
                elif self._body_kept:
                    break
                elif self._body_left:
                    self._read_body()
                elif self._body is not None:
                    self._read_chunks(self._body)
                else:
                    # A pipelined request waits until this one is answered.
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

    def _read_head(self) -> bool:
        """Take a head and begin its exchange; false if it is not complete yet."""
        held = self._held
        end = held.find(b"\r\n\r\n", self._searched) + 4
        if end < 4:
            return self._await_head(held)
        self._searched = 0
        if end > self._limits.max_head_bytes:
            raise BadRequest(431, "HEADERS_TOO_LARGE", "request line and headers are too large")
        if end == len(held):
            block = held
            self._held = b""
        else:
            block = held[:end]
            self._held = held[end:]
        if block[0] <= 32:
            # Empty lines before a request are allowed; others were refused by now.
            block = block.lstrip(b"\r\n")
            if not block:
                return True
        head = self._parser.parse(block)
        exchange = self._exchange = Exchange(self, head)
        self._body_left = head.content_length
        if head.chunked:
            self._body = ChunkedBody()
        if head.content_length or head.chunked:
            self.server.deadlines.set(self, self._time() + self._limits.body_timeout_s)
        else:
            self.due_at = inf
        handler = self.server.router(exchange)
        if not exchange.done:
            if self._stranger:
                self._stranger = False
                self.server.strangers.pop(self, None)
            self._handler = handler
            if self.write_paused:
                handler.pause_writing()
            if not self._body_left and self._body is None:
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
        if not self._searched:
            self.server.deadlines.set(self, self._time() + self._limits.head_timeout_s)
        self._searched = max(len(held) - 3, 1)
        return False

    def _read_body(self) -> None:
        data, left = self._held, self._body_left
        if len(data) <= left:
            self._held = b""
        else:
            data, self._held = data[:left], data[left:]
        self._body_left = left - len(data)
        self._deliver(data, ended=len(data) == left)

    def _read_chunks(self, body: ChunkedBody) -> None:
        data, self._held = body.feed(self._held)
        if body.ended:
            self._body = None
        self._deliver(data, ended=body.ended)

    def _deliver(self, data: bytes, *, ended: bool) -> None:
        exchange = self._exchange
        self.due_at = inf
        if ended and self._body_paused:
            self._body_paused = False
            self.transport.resume_reading()
        elif not ended and not self._body_paused:
            self.server.deadlines.set(self, self._time() + self._limits.body_timeout_s)
        if data:
            self._handler.body_received(data)
        if ended and self._exchange is exchange and exchange is not None and not exchange.done:
            self._handler.body_ended()

    @property
    def body_at_hand(self) -> int:
        """See :attr:`.exchange.Exchange.body_at_hand`."""
        left = self._body_left
        return left if len(self._held) >= left else 0

    def pause_body(self, *, keep: bool) -> None:
        """Stop reading for the handler's sake (see :meth:`.exchange.Exchange.pause_body`)."""
        if not self._body_paused and (self._body_left or self._body is not None):
            self._body_paused = True
            self._body_kept = keep
            self.due_at = inf
            self.transport.pause_reading()

    def resume_body(self) -> None:
        """Read again."""
        if self._body_paused:
            self._body_paused = self._body_kept = False
            self.server.deadlines.set(self, self._time() + self._limits.body_timeout_s)
            self.transport.resume_reading()
            if self._held and not self._advancing:
                self._advance()

    # Responses.

    def may_be_kept(self, head: Head) -> bool:
        """Whether another request can follow the one that is being answered now."""
        return (
            head.keep_alive
            and not self._body_left
            and self._body is None
            and not head.upgrade
            and not self._closing
        )

    def collect(self, data: bytes) -> None:
        """Write ``data``, at the end of this tick of the loop or before."""
        if len(data) >= _WRITE_AT_BYTES:
            self.write(data)
            return
        if not self._out:
            self.server.write_soon(self)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= _WRITE_AT_BYTES:
            self.flush()

    def write(self, data: bytes) -> None:
        """Write ``data`` now, behind what was collected."""
        self.flush()
        self.transport.write(data)

    def flush(self) -> None:
        """Write what was collected."""
        out = self._out
        if out:
            self._out = []
            self._out_bytes = 0
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def exchange_ended(self) -> None:
        """The response is complete: go on with the next request, or close."""
        if self._closing:
            return
        if not self.keep:
            self.flush()
            self._close(read_on=bool(self._body_left or self._body is not None))
            return
        self._exchange = None
        self._handler = IGNORE
        self.server.deadlines.set(self, self._time() + self._limits.idle_timeout_s)
        if self._held and not self._advancing:
            # Reading may have paused for what waits now; this does nothing if it has not.
            self.transport.resume_reading()
            self._advance()

    def cut(self, *, reset: bool) -> None:
        """End the connection in the middle of a response."""
        self.flush()
        if reset:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                with suppress(OSError):  # some systems mind where the caller was faster
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._closing = True
            self.transport.abort()
        else:
            self._close(read_on=False)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer what cannot be understood, if it can still be answered, and close."""
        started = self._exchange is not None and self._exchange.started
        self._lose_exchange()
        if self._closing:
            return
        if not started:
            status, headers, body = error_response(status, code, message)
            framing = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
            self.collect(response_head(status, headers, framing) + body)
            self.flush()
            self._close(read_on=True)
        else:
            self.cut(reset=False)

    def _lose_exchange(self) -> None:
        """End the exchange under way, if there is one, without a response."""
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
        self._closing = True
        self._held = b""
        self.server.deadlines.set(self, self._time() + self._limits.close_timeout_s)
        if read_on and self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.resume_reading()
            try:
                self.transport.write_eof()
            except OSError:  # the caller has reset the connection
                self.transport.abort()
        else:
            self.transport.close()

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

    def shut_down(self) -> None:
        """End the connection because the server ends."""
        if self._exchange is None and not self._closing:
            self.flush()
            self.transport.close()
        else:
            self.transport.abort()

    def expire(self) -> None:
        """Act on the deadline."""
        if self._closing:
            self.transport.abort()
        elif self._exchange is not None:
            self._refuse(408, "TUNNEL_TIMEOUT", "the request body did not come in time")
        elif self._held:
            self._refuse(408, "TUNNEL_TIMEOUT", "the request did not come in time")
        else:
            self._close(read_on=False)

    def _forget(self) -> None:
        self.server.connections.discard(self)
        self.server.strangers.pop(self, None)
        self.server.deadlines.forget(self)
