"""One connection to the local app: HTTP/1.1 requests out, responses in, one at a time.

The parser's callbacks tell the request's owner what comes; nothing is collected here.
"""

import asyncio
import logging
import socket
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, cast

import httptools

from .frames import Headers
from .response import Kind, OriginError, Responder, names

if TYPE_CHECKING:
    from .origin import Origin

__all__ = ["OriginConnection"]

_MAX_HEAD_BYTES: Final = 256 * 1024
_WRITE_BUFFER_BYTES: Final = 128 * 1024
_QUICK_ACK: Final = getattr(socket, "TCP_QUICKACK", None)
_SMALL_BYTES: Final = 65_536

_log = logging.getLogger(__name__)


class _Stage(Enum):
    """How far the response on a connection is."""

    IDLE = auto()
    HEAD = auto()
    INTERIM = auto()  # inside a 1xx response, which is dropped
    BODY = auto()
    DONE = auto()
    SURPLUS = auto()  # behind the response, in what nobody asked for


# Plain globals: looked up once or twice per request.
_IDLE, _HEAD, _INTERIM, _BODY, _DONE, _SURPLUS = _Stage
_ENDED: Final = (_DONE, _SURPLUS)


class OriginConnection(asyncio.Protocol):
    """One connection to the app; one request at a time.

    The ``on_*`` methods are the parser's callbacks.
    """

    def __init__(self, origin: "Origin") -> None:
        self.idle_since_s = 0.0
        """The loop's time when the last response ended."""
        self.reused = False
        """It carried a request before this one."""
        self._origin = origin
        self._transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpResponseParser(self)
        self._responder: Responder | None = None
        self._unwritten = b""
        """What :meth:`flush` will write."""
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
        self._located = False
        self._options: set[str] = set()
        """What the response's ``Connection`` says."""
        self._head_bytes = 0
        self._length = b""
        """``Content-Length`` of the response."""
        self._taken = 0
        """Bytes of the body that the parser has seen."""
        self._left = 0
        """Bytes of a long body that are still to come, which the parser need not see."""
        self._read_paused = False
        self._write_paused = False

    @property
    def usable(self) -> bool:
        """Whether another request may begin."""
        return not self._transport.is_closing()

    def begin(
        self,
        responder: Responder,
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
        if self._stage in _ENDED:
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

    # --- the parser

    def on_message_begin(self) -> None:
        """Notice a response that nobody asked for."""
        if self._stage is _DONE:
            self._stage = _SURPLUS
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header. Trailers come here too, behind the body, and are dropped."""
        if self._stage is not _HEAD:
            return
        text, kind = names[name]
        if kind is not None and not self._note(kind, value):
            return
        self._headers.append((text, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Tell the responder, unless it is only an interim response, or one too many."""
        if self._stage is _SURPLUS:
            return
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self._fail(f"it answered with status {status}")
            self._stage = _INTERIM
            return
        if self._head_only:
            self._stage = _DONE
            # To the parser a response without a length ends with its connection, but not this one.
            if parser.get_http_version() == "1.0":
                self._keep = "keep-alive" in self._options
            self._keep = self._keep and "close" not in self._options
        else:
            self._stage = _BODY
            self._keep = parser.should_keep_alive()
        if self._options:
            self._drop_named()
        if self._responder is not None:
            self._responder.response_started(status, self._headers, self._located)

    def on_body(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self._stage is _BODY and self._responder is not None:
            self._taken += len(data)
            self._responder.response_body(data)
        else:
            self._keep = False  # a body where none may be

    def on_message_complete(self) -> None:
        """Remember the end until the parser has returned; or expect what follows a 1xx."""
        if self._stage is _INTERIM:
            self._expect_head()
        elif self._stage is not _SURPLUS:
            self._stage = _DONE

    # --- inside

    def _parse(self, data: bytes) -> None:
        """Feed the parser."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            _log.error("a response from %s failed", self._origin.name, exc_info=error.__context__)
            self._fail("the response could not be passed on")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if self._stage not in _ENDED:
                self._fail(f"its answer is not HTTP/1.1 ({error})")
        if self._stage is _BODY:
            if self._length:
                self._left = int(self._length) - self._taken
        elif self._stage is _HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(f"the head of its answer is over {_MAX_HEAD_BYTES >> 10} KiB")

    def _more_body(self, data: bytes) -> None:
        """Pass on the rest of a body whose length is known, without the parser's copy of it."""
        left = self._left - len(data)
        if left <= 0:
            self._stage = _DONE
            self._parser = httptools.HttpResponseParser(self)
            if left < 0:
                self._keep = False  # more than was announced
                data = data[:left]
        self._left = max(left, 0)
        if self._responder is not None:
            self._responder.response_body(data)

    def _expect_head(self) -> None:
        """Expect a response, or another one after an interim one."""
        self._stage = _HEAD
        self._headers = []
        self._head_bytes = self._taken = self._left = 0
        self._length = b""
        self._keep = True
        self._framed = self._located = False
        if self._options:
            self._options = set()

    def _note(self, kind: Kind, value: bytes) -> bool:
        """Learn from a header what concerns the connection, and tell whether it is passed on."""
        if kind is Kind.LENGTH:
            self._framed = True
            self._length = value
            return True
        if kind is Kind.LOCATION:
            self._located = True
            return True
        if kind is Kind.CODING:
            self._framed = value.lower().rstrip().endswith(b"chunked")
        elif kind is Kind.CONNECTION:
            options = value.decode("latin-1").lower().split(",")
            self._options.update(option.strip() for option in options)
        return False

    def _drop_named(self) -> None:
        """Drop the headers that ``Connection`` makes hop-by-hop."""
        named = self._options - {"keep-alive", "close"}
        if named:
            self._headers = [header for header in self._headers if header[0].lower() not in named]

    def _complete(self) -> None:
        """Give the connection back, then tell the responder, who may start the next request."""
        responder, self._responder = self._responder, None
        self._stage = _IDLE
        if self._read_paused:
            self.resume_reading()
        if self._keep and self._sent and not self._write_paused and not self._unwritten:
            self.reused = True
            if self._head_only:
                self._parser = httptools.HttpResponseParser(self)  # it waits for a body
            self._origin.release(self)
        else:
            self._unwritten = b""
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
        self._unwritten = b""
        self._transport.abort()
        if responder is not None:
            responder.failed(OriginError(f"{self._origin.name}: {why}", unanswered=unanswered))
