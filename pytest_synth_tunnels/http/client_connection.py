"""One connection to the local app: HTTP/1.1 requests out, responses in, one at a time."""

import asyncio
import socket
from typing import TYPE_CHECKING, Final, cast

from .response import OriginError, ResponseHandler
from .response_reader import BODY, ENDED, HEAD, IDLE, ResponseReader

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = ["ClientConnection"]

_WRITE_BUFFER_BYTES: Final = 128 * 1024
_QUICK_ACK: Final = getattr(socket, "TCP_QUICKACK", None)
_SMALL_BYTES: Final = 65_536


class ClientConnection(ResponseReader, asyncio.Protocol):
    """One connection to the app; one request at a time."""

    def __init__(self, origin: "ConnectionPool") -> None:
        super().__init__(origin.name)
        self.idle_since_s = 0.0
        """The loop's time when the last response ended."""
        self.reused = False
        """It carried a request before this one."""
        self._origin = origin
        self._transport = cast("asyncio.Transport", None)
        self._unwritten = b""
        """What :meth:`flush` will write."""
        self._sent = False
        """The request is written to its end."""
        self._read_paused = False
        self._write_paused = False

    @property
    def usable(self) -> bool:
        """Whether another request may begin."""
        return not self._transport.is_closing()

    def begin(
        self,
        responder: ResponseHandler,
        data: bytes,
        *,
        head_only: bool,
        complete: bool,
        at_once: bool = False,
    ) -> None:
        """Begin a request.

        Args:
            responder: whose it is.
            data: the head, and as much of the body as there is.
            head_only: its method is HEAD.
            complete: ``data`` is the whole request; else :meth:`request_ended` tells the end.
            at_once: no other request is to be expected in this tick of the loop. Those of one
                tick are written at its end: the app then wakes up once for all of them.
        """
        self._responder, self._head_only, self._sent = responder, head_only, complete
        self._expect_head()
        if at_once:
            self._transport.write(data)
        else:
            self._unwritten = data
            self._origin.flush_soon(self)

    def write(self, data: bytes) -> None:
        """Send more of the request's body, framed already."""
        if self._unwritten:
            self._unwritten += data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write what was not written at once."""
        data, self._unwritten = self._unwritten, b""
        if data:
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
        self._unwritten = b""
        self._transport.abort()

    def close(self) -> None:
        """End an idle connection."""
        self._transport.close()

    def detach(self) -> asyncio.Transport:
        """Leave HTTP instead of beginning a request: the transport needs another protocol."""
        return self._transport

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
        if self._left:
            self._more_body(data)
        else:
            self._parse(data)
        if self._responder is None:
            return
        if self._stage in ENDED:
            self._complete()
            return
        self._responder.response_paused()
        if _QUICK_ACK is not None and len(data) < _SMALL_BYTES:
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
        self._write_paused = True
        if self._responder is not None:
            self._responder.pause_writing()

    def resume_writing(self) -> None:
        """Pass the transport's wish on."""
        self._write_paused = False
        if self._responder is not None:
            self._responder.resume_writing()

    # --- inside

    def _complete(self) -> None:
        """Give the connection back, then tell the responder, who may start the next request."""
        responder, self._responder = self._responder, None
        self._stage = IDLE
        if self._read_paused:
            self.resume_reading()
        if self._keep and self._sent and not self._write_paused and not self._unwritten:
            self.reused = True
            self._forget_head()
            self._origin.release(self)
        else:
            self._unwritten = b""
            self._transport.abort()
        if responder is not None:
            responder.response_ended()

    def _ended_by_peer(self, exc: Exception | None) -> None:
        """Tell a response that ends with its connection from one that was cut off."""
        if self._stage is BODY and not self._framed and exc is None:
            self._complete()
        elif self._stage is BODY:
            self._fail("it closed the connection in the middle of its answer")
        else:
            silent = self._stage is HEAD and not self._head_bytes
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
        self._unwritten = b""
        self._transport.abort()
        if responder is not None:
            responder.failed(OriginError(f"{self._origin.name}: {why}", unanswered=unanswered))
