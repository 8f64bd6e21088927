"""One caller's connection: bytes into exchanges, and responses back."""

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Final, cast

from .body import ChunkedBody
from .callers import Admission
from .errors import error_response
from .exchange import IGNORE, Exchange
from .headers import response_head
from .intake import Intake
from .refusal_log import log_refusal
from .request import BadRequest, HeadParser, RequestHead

if TYPE_CHECKING:
    from .server import HttpServer

__all__ = ["ServerConnection"]

_log = logging.getLogger(__name__)

_PIPELINE_BYTES: Final = 65_536
"""Reading pauses when this much of later requests waits."""


class ServerConnection(Intake):
    """One caller's connection. Handlers see its :class:`Exchange` only.

    Attributes:
        keep: another request may follow the response.
        write_paused: the caller reads slowly.
        made_at: when it began, in the loop's time.
    """

    def __init__(self, server: "HttpServer") -> None:
        super().__init__(server)
        self.keep = True
        self.write_paused = False
        self.made_at = 0.0
        self._stranger = True
        """The router has let nobody in here."""
        self._searched = 0
        """How much of what is held holds no end of a head; 0 before the first byte of one."""
        self._advancing = False

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
        self.made_at = self._time()
        server.deadlines.set(self, self.made_at + self._limits.head_timeout_s)
        room = server.callers.add(self)
        if room is Admission.FULL:
            self._turn_away()
        elif room is Admission.FLOODED:
            self._closing = True
            self.transport.abort()

    def drop(self) -> None:
        """Make room for others."""
        if self._held and not self._closing:
            self._turn_away()
        self._closing = True
        # Closing would wait for one that does not read, and nobody counts this one any more.
        self.transport.abort()
        self._forget()

    def _turn_away(self) -> None:
        self._refuse(503, "TUNNEL_CAPACITY_EXCEEDED", "too many connections; try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._closing = True
        self._out.clear()
        self._lose_exchange()

    def eof_received(self) -> None:
        # A caller that ends its side is taken for gone: most that do so are.
        self._lose_exchange()
        self._close(read_on=False)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._held = self._held + data if self._held else data
        self._advance()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._exchange is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._exchange is not None:
            self._handler.resume_writing()
        elif self._held:
            self._go_on()

    # Requests.

    def _advance(self) -> None:
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
                elif self._body is not None:
                    self._read_chunks(self._body)
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

    def _read_head(self) -> bool:
        """Take a head and begin its exchange; false if it is not complete yet."""
        held = self._held
        end = held.find(b"\r\n\r\n", self._searched) + 4
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
        if block[0] <= 32:
            # Empty lines before a request are allowed; others were refused by now.
            block = block.lstrip(b"\r\n")
            if not block:
                self._begin_head()
                return True
        self._searched = 0
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
                self.server.callers.let_in(self)
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
        self._begin_head()
        self._searched = max(len(held) - 3, 1)
        return False

    def _begin_head(self) -> None:
        """Let a head's time run from its first byte, be that of an empty line."""
        if not self._searched:
            self.server.deadlines.set(self, self._time() + self._limits.head_timeout_s)
        self._searched = 1

    # Responses.

    def may_be_kept(self, head: RequestHead) -> bool:
        """Whether another request can follow the one that is being answered now."""
        return (
            head.keep_alive
            and not self._body_left
            and self._body is None
            and not head.upgrade
            and not self._closing
        )

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
        self._unread_bytes = inf
        self.server.deadlines.set(self, self._time() + self._limits.idle_timeout_s)
        if self._held and not self._advancing:
            self._go_on()

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
            if not self._await_reader(self._limits.close_timeout_s):
                self._give_up()
        elif self._body_paused:
            self._look()
        elif self._exchange is not None:
            self._refuse(408, "TUNNEL_TIMEOUT", "the request body did not come in time")
        elif self._held and not self.write_paused:
            self._refuse(408, "TUNNEL_TIMEOUT", "the request did not come in time")
        elif not self._await_reader(self._limits.idle_timeout_s):
            self._give_up()

    def _forget(self) -> None:
        self.server.callers.discard(self)
        self.server.deadlines.forget(self)
