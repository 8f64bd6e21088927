"""One connection to the local app: HTTP/1.1 requests out, responses in, one at a time.

A :class:`ClientConnection` is an asyncio protocol. It belongs to a :class:`ConnectionOwner`, such
as a pool, which hands it to one :class:`ResponseHandler` after the other. Its
:class:`ResponseReader` does no I/O: it takes the app's bytes through llhttp, whose callbacks tell
the handler what comes, and it knows how far the response is.

The reader's stages
    ============  ===================================================================
    ``IDLE``      No request is in flight.
    ``HEAD``      A request is in flight, and no final response head has come.
    ``INTERIM``   Inside a 1xx response; ``HEAD`` follows.
    ``BODY``      The handler has the head; the body comes.
    ``DONE``      The response is complete.
    ``SURPLUS``   Bytes follow a complete response. Nobody asked for them.
    ``UPGRADED``  The app agreed to leave HTTP (101); what follows is not HTTP.
    ``FAILED``    No response can be made of what came; ``failure`` says why.
    ============  ===================================================================

Only the reader moves its stage: ``expect`` from ``IDLE`` to ``HEAD``, the parser's callbacks from
there on, and ``fail`` from anywhere to ``FAILED``. The connection looks at the stage when the
parser has returned, never inside a callback. What always holds:

- The handler is set exactly while a request is in flight. It hears ``response_ended``,
  ``response_upgraded`` or ``failed`` once, as the last thing, or nothing after
  :meth:`ClientConnection.abandon`. One exception: where the response is complete before the
  request is, the app may go on reading it. The handler then keeps the connection (``_answered``)
  until :meth:`ClientConnection.request_ended`, or hears ``request_refused``.
- The connection goes back to its owner only from ``DONE``, with the request written to its end
  and the app willing to keep the connection. In every other case it is closed.
- What was read from a connection without a request in flight is never taken for a response.

llhttp is strict. RFC 9112 lets a recipient be lenient in a few things, and the clients that an app
is usually asked by are. So a head that llhttp refuses is normalized, by :func:`normalize_head` of
:mod:`.head_normalization`, and read again. Heads that llhttp takes cost nothing more.
"""

import asyncio
import logging
import re
import socket
from contextlib import suppress
from enum import Enum, auto
from http import HTTPStatus
from math import inf
from time import monotonic
from typing import Final, Protocol, cast

import httptools

from ..aio.tick_writer import Flushable
from .head_normalization import normalize_head
from .headers import HOP_BY_HOP, Headers, HeaderTable, may_be_trailer
from .sockets import acknowledge_quickly, has_ended

__all__ = [
    "ClientConnection",
    "ConnectionOwner",
    "ConnectionWaiter",
    "OriginError",
    "ResponseHandler",
    "UpgradeHandler",
]

_log = logging.getLogger(__name__)

_MAX_HEAD_BYTES: Final = 256 * 1024
_MAX_INTERIMS: Final = 64
"""How many interim responses to one request are passed on; the app may send more."""
_MAX_TRAILER_BYTES: Final = 65_536
_WRITE_BUFFER_BYTES: Final = 128 * 1024
_SMALL_BYTES: Final = 65_536
_IDLE_S = 0.5
"""How long after its last request began a connection is used again without asking the system
whether the app has ended it. Apps end those that wait for seconds, and what comes sooner the event
loop tells, unless it comes in this very tick. To ask takes system calls, which a busy caller would
pay for with each request."""


class OriginError(Exception):
    """The app gave no whole response. The message names its host and port.

    Attributes:
        unanswered: the connection ended before one byte of the response, and that may be no fault
            of the app: it was reused, so that the app was most likely closing it while the request
            was on its way, or this side of it was ended.
        reset: the connection ended with a reset.
    """

    def __init__(self, message: str, *, unanswered: bool = False, reset: bool = False) -> None:
        super().__init__(message)
        self.unanswered = unanswered
        self.reset = reset


class ConnectionWaiter(Protocol):
    """What waits for a connection. Its methods may neither raise nor block."""

    __slots__ = ()

    def connected(self, connection: "ClientConnection") -> None:
        """Begin the request on this connection."""

    def failed(self, error: OriginError) -> None:
        """Take note that nothing more will come."""


class ResponseHandler(ConnectionWaiter, Protocol):
    """Sends a request and takes its response. Its methods may neither raise nor block."""

    __slots__ = ()

    def response_interim(self, status: int, headers: Headers) -> None:
        """Take an interim response, after which another one comes.

        Args:
            status: 100 to 199, but not 101.
            headers: without the hop-by-hop ones.
        """

    def response_started(
        self, status: int, reason: str | None, headers: Headers, located: bool
    ) -> None:
        """Take the final status and the headers.

        Args:
            status: 200 or more.
            reason: the app's own reason phrase, which may be empty; ``None`` where it is the
                usual one of the status.
            headers: names as the app wrote them; without the hop-by-hop ones, unless the request
                asked for an upgrade: then all of them.
            located: there is one among them that names a URL, a path or a host of the app, such
                as ``Location`` or ``Set-Cookie``.
        """

    def response_body(self, data: bytes) -> None:
        """Take a piece of the body."""

    def response_paused(self) -> None:
        """Take note that the rest of a response that has begun did not come in the same read."""

    def response_ended(self, trailers: Headers) -> None:
        """Take note that the response is complete. The connection is not this handler's any
        more, unless the request is not complete yet: then it goes on, or abandons the connection.

        Args:
            trailers: the fields that came behind the body, mostly none.
        """

    def request_refused(self) -> None:
        """Take note that the app, whose response is complete, has ended the connection and reads
        nothing more of the request. The connection is not this handler's any more."""

    def pause_writing(self) -> None:
        """Stop sending body: the app is slow."""

    def resume_writing(self) -> None:
        """Go on after :meth:`pause_writing`."""


class UpgradeHandler(ResponseHandler, Protocol):
    """Sends a request that asks to leave HTTP (see :meth:`ClientConnection.begin_upgrade`)."""

    def response_upgraded(
        self, headers: Headers, transport: asyncio.Transport, received: bytes
    ) -> None:
        """Take the connection over: the app has answered 101.

        Args:
            headers: all headers of the 101 response.
            transport: the connection. It needs another protocol before control goes back to the
                event loop; this :class:`ClientConnection` has let go of it.
            received: what came behind the 101 response, in the protocol that was agreed on.
        """


class ConnectionOwner(Protocol):
    """What a connection belongs to, and goes back to."""

    name: str
    """Host and port of the app, for people."""

    def connected(self, connection: "ClientConnection") -> None:
        """Take a new connection, for a request that waits."""

    def release(self, connection: "ClientConnection") -> None:
        """Take back a connection whose response is complete, for the next request."""

    def forget(self, connection: "ClientConnection") -> None:
        """Take note that a connection has ended, or is about to. A second call for the same
        connection is harmless."""

    def flush_soon(self, connection: "ClientConnection") -> None:
        """Call :meth:`ClientConnection.flush` at the end of this tick of the event loop."""


class _Kind(Enum):
    """What a response header is to a connection."""

    LOCATION = auto()
    LENGTH = auto()
    CODING = auto()
    CONNECTION = auto()
    DROPPED = auto()


# Globals of their own, which cost less: looked up for each header that is not plain.
_LOCATION: Final = _Kind.LOCATION
_LENGTH: Final = _Kind.LENGTH
_CODING: Final = _Kind.CODING
_CONNECTION: Final = _Kind.CONNECTION
_DROPPED: Final = _Kind.DROPPED

_KINDS: Final = {
    **dict.fromkeys(HOP_BY_HOP - {"trailer"}, _DROPPED),
    "connection": _CONNECTION,
    "transfer-encoding": _CODING,
    "content-length": _LENGTH,
    "location": _LOCATION,
    "content-location": _LOCATION,
    "link": _LOCATION,
    "refresh": _LOCATION,
    "set-cookie": _LOCATION,
    "access-control-allow-origin": _LOCATION,
}


def _note(name: bytes) -> tuple[str, _Kind | None]:
    """Return a header's name as text, and its kind unless it is plain."""
    text = name.decode("latin-1")
    return text, _KINDS.get(text.lower())


_names: Final = HeaderTable(_note)

_USUAL_REASONS: Final = {
    status.value: status.phrase.encode()
    for status in HTTPStatus
    if status.value not in (413, 414, 416, 422)  # Python's versions differ here
}
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_BODILESS: Final = frozenset({204, 304})


class _Stage(Enum):
    """How far the response on a connection is (see the top of this module)."""

    IDLE = auto()
    HEAD = auto()
    INTERIM = auto()
    BODY = auto()
    DONE = auto()
    SURPLUS = auto()
    UPGRADED = auto()
    FAILED = auto()


# Globals of their own, which cost less: looked up several times for each response.
_IDLE: Final = _Stage.IDLE
_HEAD: Final = _Stage.HEAD
_INTERIM: Final = _Stage.INTERIM
_BODY: Final = _Stage.BODY
_DONE: Final = _Stage.DONE
_SURPLUS: Final = _Stage.SURPLUS
_UPGRADED: Final = _Stage.UPGRADED
_FAILED: Final = _Stage.FAILED


class ResponseReader:
    """Reads the responses of one connection, one after the other. No I/O.

    The ``on_*`` methods are the parser's callbacks.

    Args:
        name: of the app, for people.

    Attributes:
        handler: takes the response; ``None`` while no request is in flight.
        stage: how far the response is.
        failure: why there is no response, in ``FAILED``.
        framed: the response says itself where it ends; else the end of the connection does.
        keep: the app lets the connection carry another request.
        head_bytes: what earlier reads brought of the head, interim responses included.
        headers: those of the response in flight.
        trailers: the fields that came behind its body.
        rest: what came behind a 101 response.
    """

    def __init__(self, name: str) -> None:
        self.handler: ResponseHandler | None = None
        self.stage = _IDLE
        self.failure = ""
        self.framed = False
        self.keep = False
        self.head_bytes = 0
        self.headers: Headers = []
        self.trailers: Headers = []
        self.rest = b""
        self._name = name
        self._parser = httptools.HttpResponseParser(self)

        # The request.
        self._head_only = False
        """The method is HEAD: the response ends with its headers, whatever they say."""
        self._upgrade = False
        """The request asks to leave HTTP: 101 is a final status, and no header is dropped."""

        # The head.
        self._head: list[bytes] = []
        """What earlier reads brought of the head, interim responses included, in case llhttp
        refuses it later."""
        self._normalizing = False
        """llhttp has refused the head, which is normalized as soon as it is complete."""
        self._ambiguous = False
        """The head said two things of the body's length, so that the connection is not kept."""
        self._interims = 0
        """How many interim responses were read."""
        self._interims_told = 0
        """How many interim responses were given to the handler, or left out as too many."""
        self._reason = b""
        self._located = False
        self._options: set[str] = set()
        """What ``Connection`` says."""
        self._coding = b""
        """``Transfer-Encoding``."""
        self._length = b""
        """``Content-Length``."""

        # The body.
        self._taken = 0
        """How much of the body the parser has seen, in bytes."""
        self._left = 0
        """How much of a long body is still to come, which the parser need not see, in bytes."""
        self._trailer_bytes = 0

    def expect(self, handler: ResponseHandler, *, head_only: bool, upgrade: bool = False) -> None:
        """Expect the response to a request.

        Args:
            handler: takes it.
            head_only: the request's method is HEAD.
            upgrade: the request asks to leave HTTP.
        """
        self.handler = handler
        self._head_only = head_only
        self._upgrade = upgrade
        self._taken = self._left = 0
        if self._head:
            self._head = []
            self.head_bytes = 0
        if self._interims:
            self._interims = self._interims_told = 0
        if self.trailers:
            self.trailers = []
            self._trailer_bytes = 0
        self._expect_head()

    def feed(self, data: bytes) -> None:
        """Read on, and tell the handler what came."""
        if self._left:
            self._feed_long_body(data)
            return
        if self._normalizing:
            self._feed_normalized(data)
        else:
            try:
                self._parser.feed_data(data)
            except Exception as error:
                self._stopped(error, data)
        stage = self.stage
        if stage is _BODY:
            if self._length:
                self._left = int(self._length) - self._taken
        elif stage is _HEAD:
            self._head.append(data)
            self.head_bytes += len(data)
            if self.head_bytes > _MAX_HEAD_BYTES:
                self.fail(f"the head of its answer is over {_MAX_HEAD_BYTES >> 10} KiB")

    def fail(self, why: str) -> None:
        """Give the response up."""
        if self.stage is not _FAILED:
            self.stage = _FAILED
            self.failure = why

    def end(self) -> None:
        """Be ready for the next request, once a response is complete."""
        self.stage = _IDLE
        if self._head_only:
            # The parser still waits for the body that the answer to a HEAD has announced.
            self._parser = httptools.HttpResponseParser(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Notice a response that nobody asked for."""
        if self.stage is _DONE:
            self.stage = _SURPLUS
            self.keep = False

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase, or a piece of it."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header. Trailers come here too, behind the body."""
        if self.stage is not _HEAD:
            if self.stage is _BODY:
                self._keep_trailer(name, value)
            return
        text, kind = _names[name]
        if kind is not None and not self._take_note(kind, value) and not self._upgrade:
            return
        self.headers.append((text, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Tell the handler, unless it is one response too many."""
        if self.stage is not _HEAD:
            return
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            self._interim(status)
            return
        if self._head_only:
            self.stage = _DONE
            # To the parser a response without a length ends with its connection, but not this one.
            if parser.get_http_version() == "1.0":
                self.keep = "keep-alive" in self._options
            self.keep = self.keep and "close" not in self._options
        else:
            if self._coding and self._coding != b"chunked" and status not in _BODILESS:
                shown = self._coding[:40].decode("latin-1")
                self.fail(f"it sent its answer with Transfer-Encoding {shown!r}, not 'chunked'")
                return
            self.stage = _BODY
            self.keep = parser.should_keep_alive() and not self._ambiguous
        if self._options and not self._upgrade:
            self._drop_named()
        reason = self._reason
        phrase = None if reason == _USUAL_REASONS.get(status) else reason.decode("latin-1")
        if self.handler is not None:
            self.handler.response_started(status, phrase, self.headers, self._located)

    def on_body(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self.stage is _BODY and self.handler is not None:
            self._taken += len(data)
            self.handler.response_body(data)
        else:
            self.keep = False  # a body where none may be

    def on_message_complete(self) -> None:
        """Note the end of a response, or expect what follows an interim one."""
        if self.stage is _INTERIM:
            self._expect_head()
        elif self.stage is _BODY:
            self.stage = _DONE

    # Inside.

    def _expect_head(self) -> None:
        """Expect a response's head: the first one, or the one that follows an interim one."""
        self.stage = _HEAD
        self.headers = []
        self._reason = self._length = b""
        self.keep = True
        self.framed = self._located = False
        if self._options:
            self._options = set()
        if self._coding:
            self._coding = b""

    def _interim(self, status: int) -> None:
        """Tell the handler of an interim response; or begin to leave HTTP."""
        if status == 101 and self._upgrade:
            self.stage = _UPGRADED
        elif status < 100 or status == 101:
            self.fail(f"it answered with status {status}")
        else:
            self.stage = _INTERIM
            self._interims += 1
            if self._interims > self._interims_told:
                self._interims_told += 1
                if self._interims <= _MAX_INTERIMS and self.handler is not None:
                    self._drop_named()
                    self.handler.response_interim(status, self.headers)

    def _parse(self, data: bytes) -> None:
        """Let llhttp read on."""
        try:
            self._parser.feed_data(data)
        except Exception as error:
            self._stopped(error, data)

    def _stopped(self, error: Exception, data: bytes) -> None:
        """Act on what made llhttp stop within ``data``."""
        if isinstance(error, httptools.HttpParserUpgrade):
            if self.stage is _UPGRADED:
                self.rest = data[error.args[0] :]
        elif isinstance(error, httptools.HttpParserCallbackError):
            _log.error("a response from %s failed", self._name, exc_info=error.__context__)
            self.fail("the response could not be passed on")
        elif isinstance(error, httptools.HttpParserError):
            self.keep = False
            if self.stage is _HEAD and not self._normalizing and self._looks_like_http(data):
                self._feed_normalized(data)
            # A 101 that names no protocol is an error to the parser, and the handler's to judge.
            elif self.stage not in (_DONE, _SURPLUS, _UPGRADED):
                self.fail(f"its answer is not HTTP/1.1 ({error})")
        else:
            raise error

    def _looks_like_http(self, data: bytes) -> bool:
        """Tell whether what was read begins like a response at all."""
        return b"".join([*self._head, data]).lstrip(b"\r\n").startswith(b"HTTP/1.")

    def _feed_normalized(self, data: bytes) -> None:
        """Read the head that was refused once more, normalized, as soon as it is complete.

        Args:
            data: what came last of it.
        """
        data = b"".join([*self._head, data])
        self._normalizing = True
        self._interims = 0  # They are read again, too, but not told again.
        self._expect_head()
        while self.stage is _HEAD and (end := _HEAD_END.search(data)) is not None:
            head, self._ambiguous = normalize_head(data[: end.end()])
            data = data[end.end() :]
            self._parser = httptools.HttpResponseParser(self)
            # Chunks and trailers may end their lines as the head does.
            self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
            self._parse(head)
        if self.stage is not _HEAD:
            self._normalizing = False
            if data and self.stage is not _FAILED:
                self._parse(data)

    def _feed_long_body(self, data: bytes) -> None:
        """Pass on the rest of a body whose length is known, without the parser's copy of it."""
        left = self._left - len(data)
        if left <= 0:
            self.stage = _DONE
            self._parser = httptools.HttpResponseParser(self)
            if left < 0:
                self.keep = False  # more than was announced
                data = data[:left]
        self._left = max(left, 0)
        if self.handler is not None:
            self.handler.response_body(data)

    def _keep_trailer(self, name: bytes, value: bytes) -> None:
        """Keep a field that came behind the body, if it may be passed on."""
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > _MAX_TRAILER_BYTES:
            self.fail(f"the trailers of its answer are over {_MAX_TRAILER_BYTES >> 10} KiB")
            return
        text = name.decode("latin-1")
        if may_be_trailer(text):
            self.trailers.append((text, value.decode("latin-1")))

    def _take_note(self, kind: _Kind, value: bytes) -> bool:
        """Learn from a header what concerns the connection, and tell whether it is passed on."""
        if kind is _LENGTH:
            self.framed = True
            self._length = value
            return True
        if kind is _LOCATION:
            self._located = True
            return True
        if kind is _CODING:
            coding = value.lower().strip()
            self._coding = self._coding + b", " + coding if self._coding else coding
            self.framed = coding.endswith(b"chunked")
        elif kind is _CONNECTION:
            options = value.decode("latin-1").lower().split(",")
            self._options.update(option.strip() for option in options)
        return False

    def _drop_named(self) -> None:
        """Drop the headers that ``Connection`` makes hop-by-hop."""
        named = self._options - {"keep-alive", "close"}
        if named:
            self.headers = [header for header in self.headers if header[0].lower() not in named]


class ClientConnection(asyncio.Protocol, Flushable):
    """One connection to an app.

    Args:
        owner: gets it back after each response.

    Attributes:
        caller: the name of the caller's connection that it is tied to; the owner's.
        reused: it has carried a request before the one in flight.
    """

    def __init__(self, owner: ConnectionOwner) -> None:
        self.caller = ""
        self.reused = False
        self._owner = owner
        self._reader = ResponseReader(owner.name)
        self._transport = cast("asyncio.Transport", None)
        self._unwritten = b""
        """What :meth:`flush` will write."""
        self._sent = False
        """The request is written to its end."""
        self._read_paused = False
        self._write_paused = False
        self._used_at_s = 0.0
        """When it was made, or given to a request, on the monotonic clock."""
        self._answered = False
        """The response is complete, and the app goes on reading the request."""
        self._half_closed = False
        """This side of the connection is ended."""
        self._socket: socket.socket | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._reader.handler is not None

    def use(self) -> bool:
        """Return whether another request may begin: none is in flight, and the app has not ended
        the connection, as far as is known."""
        if self._reader.handler is not None or self._transport.is_closing():
            return False
        used_at_s, self._used_at_s = self._used_at_s, monotonic()
        return self._used_at_s - used_at_s < _IDLE_S or not has_ended(self._transport)

    @property
    def last(self) -> bool:
        """Whether the app closes the connection behind the response whose head has come."""
        return not self._reader.keep

    @property
    def goes_on(self) -> bool:
        """Whether the response is complete, and the app goes on reading the request."""
        return self._answered

    # For the handler.

    def begin(
        self,
        handler: ResponseHandler,
        data: bytes,
        *,
        head_only: bool,
        complete: bool,
        at_once: bool = False,
    ) -> None:
        """Begin a request.

        Args:
            handler: takes the response.
            data: the head, and as much of the body as there is.
            head_only: the method is HEAD.
            complete: ``data`` is the whole request; else :meth:`request_ended` tells the end.
            at_once: no other request is to be expected in this tick of the loop. Those of one
                tick are written at its end: the app then wakes up once for all of them.
        """
        self._sent = complete
        self._reader.expect(handler, head_only=head_only)
        if at_once:
            self._transport.write(data)
        else:
            self._unwritten = data
            self._owner.flush_soon(self)

    def begin_upgrade(self, handler: UpgradeHandler, data: bytes) -> None:
        """Begin a request that asks to leave HTTP, such as a WebSocket's handshake.

        If the app answers 101, ``handler.response_upgraded`` gets the connection. Any other
        answer comes as it does to every request, but with all its headers: ``Upgrade`` and
        ``Connection`` of a refusal may say what to do instead.

        Args:
            handler: takes the response.
            data: the whole request.
        """
        self._sent = True
        self._reader.expect(handler, head_only=False, upgrade=True)
        self._transport.write(data)

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
        if self._answered:
            self._answered = False
            self._reader.handler = None
            self._used_at_s = -inf  # apps that answer early often close: look before the next use
            self._let_go()

    def half_close(self) -> None:
        """End this side of the connection, behind a request that is complete. The response still
        comes, and the connection is not used again."""
        self._half_closed = True
        self.flush()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            with suppress(OSError):  # the app has reset the connection
                self._transport.write_eof()

    def pause_reading(self) -> None:
        """Let the app wait."""
        self._read_paused = True
        self._transport.pause_reading()

    def pause_again(self) -> None:
        """Have the transport paused if it should be, where it may not have listened."""
        if self._read_paused:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after :meth:`pause_reading`."""
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    def abandon(self) -> None:
        """End the connection in the middle of a request; the handler hears nothing more."""
        self._answered = False
        self._reader.handler = None
        self._unwritten = b""
        self._transport.abort()

    # For the owner.

    def close(self) -> None:
        """End an idle connection."""
        self._transport.close()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio has set ``TCP_NODELAY``)."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._socket = transport.get_extra_info("socket")
        self._used_at_s = monotonic()
        self._owner.connected(self)

    def data_received(self, data: bytes) -> None:
        """Read on; the reader's callbacks tell the handler, and the end is told after them."""
        reader = self._reader
        asked = reader.handler
        if asked is None:
            self._transport.abort()  # nobody asked: a server saying that it is about to close
            return
        if self._answered:
            self._refuse_request()
            return
        reader.feed(data)
        handler = reader.handler
        if handler is not asked:  # it has abandoned its request meanwhile
            return
        stage = reader.stage
        if stage is _DONE or stage is _SURPLUS:
            self._complete()
        elif stage is _FAILED:
            self._fail(reader.failure)
        elif stage is _UPGRADED:
            reader.handler = None
            upgraded = cast("UpgradeHandler", handler)
            upgraded.response_upgraded(reader.headers, self._transport, reader.rest)
        else:
            handler.response_paused()
            sock = self._socket
            if sock is not None and len(data) < _SMALL_BYTES and not self._transport.is_closing():
                # A server that writes headers and body apart, with Nagle's algorithm on, sends the
                # body only once the headers are acknowledged, and that may take 40 ms.
                acknowledge_quickly(sock)

    def eof_received(self) -> None:
        """End a response that ends with its connection."""
        if self._answered:
            self._refuse_request()
        elif self._reader.handler is not None:
            self._ended_by_peer(None)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is in flight."""
        if self._answered:
            self._refuse_request()
        if self._reader.handler is None:
            self._owner.forget(self)
            return
        if exc is not None and not self._sent:
            self._read_the_rest()
        if self._reader.handler is not None:
            self._ended_by_peer(exc or ConnectionResetError())

    def pause_writing(self) -> None:
        """Pass the transport's wish on."""
        self._write_paused = True
        if self._reader.handler is not None:
            self._reader.handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass the transport's wish on."""
        self._write_paused = False
        if self._reader.handler is not None:
            self._reader.handler.resume_writing()

    # Inside.

    def _complete(self) -> None:
        """Give the connection back, then tell the handler, which may start the next request."""
        reader = self._reader
        handler = reader.handler
        trailers = reader.trailers
        goes_on = not self._sent and reader.stage is _DONE and not has_ended(self._transport)
        reader.end()
        if self._read_paused:
            self.resume_reading()
        if handler is not None and goes_on:
            self._answered = True
            handler.response_ended(trailers)
            return
        reader.handler = None
        kept = self._give_back()
        if handler is not None:
            handler.response_ended(trailers)
        if not kept:
            self._owner.forget(self)

    def _give_back(self) -> bool:
        """Give the connection back to its owner, or close it; return whether it was kept."""
        if (
            self._reader.keep
            and self._sent
            and not (self._half_closed or self._write_paused or self._unwritten)
        ):
            self.reused = True
            self._owner.release(self)
            return True
        self._unwritten = b""
        self._transport.abort()
        return False

    def _let_go(self) -> None:
        """End a request that went on behind its response."""
        if self._write_paused or self._unwritten or not self._reader.keep:
            self.flush()
            self._transport.close()  # once the rest of the request is written
            self._owner.forget(self)
        elif not self._give_back():
            self._owner.forget(self)

    def _refuse_request(self) -> None:
        """Tell the handler that the app reads nothing more of the request."""
        self._answered = False
        handler, self._reader.handler = self._reader.handler, None
        self._unwritten = b""
        self._transport.abort()
        if handler is not None:
            handler.request_refused()
        self._owner.forget(self)

    def _ended_by_peer(self, exc: Exception | None) -> None:
        """Tell a response that ends with its connection from one that was cut off."""
        reader = self._reader
        if reader.stage is _BODY:
            if reader.framed or exc is not None:
                self._fail("it closed the connection in the middle of its answer")
            else:
                self._complete()
        else:
            silent = reader.stage is _HEAD and not reader.head_bytes
            self._fail(
                "it closed the connection without an answer",
                unanswered=silent and (self.reused or self._half_closed),
                reset=exc is not None,
            )

    def _read_the_rest(self) -> None:
        """Read what an app sent before it closed the door on a long upload.

        Its answer waits in the kernel, but asyncio gives the connection up as soon as a write
        fails.
        """
        sock = self._transport.get_extra_info("socket")
        try:
            with sock.dup() as raw:
                while self._reader.handler is not None and (data := raw.recv(65536)):
                    self.data_received(data)
        except (OSError, TypeError):  # nothing there, or a loop without sockets to duplicate
            return
        if self._reader.handler is not None:
            self._ended_by_peer(None)

    def _fail(self, why: str, *, unanswered: bool = False, reset: bool = False) -> None:
        """Give the connection up, and tell the handler once."""
        handler, self._reader.handler = self._reader.handler, None
        self._unwritten = b""
        self._transport.abort()
        if handler is not None:
            message = f"{self._owner.name}: {why}"
            handler.failed(OriginError(message, unanswered=unanswered, reset=reset))
        self._owner.forget(self)
