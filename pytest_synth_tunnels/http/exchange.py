"""One HTTP request and its response, as a request handler sees them.

An :class:`Exchange` frames the response: it decides how its length is told and whether the
connection is kept. It writes to a :class:`ResponseSink`, the caller's connection.

An exchange is open until the response is complete (``end``, ``complete``), cut off (``abort``),
the connection leaves HTTP (``upgrade``), or the connection ends it (``lose``). From then on its
``_sink`` is ``None`` and every method does nothing.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from .headers import Headers, field_lines, response_head
from .request import RequestHead

__all__ = [
    "IGNORE",
    "ConnectionObserver",
    "Exchange",
    "RequestHandler",
    "ResponseSink",
    "Router",
]

_log = logging.getLogger(__name__)

_NO_TRAILERS: Final[Headers] = []
"""Shared by all exchanges, and never changed."""


class RequestHandler(Protocol):
    """What takes a request's body, and hears of the connection. Nothing here may block."""

    __slots__ = ()

    def body_received(self, data: bytes) -> None:
        """Take a piece of the body, never empty."""

    def body_ended(self) -> None:
        """Take the end of the body; told at once, after the router, where there is none."""

    def aborted(self) -> None:
        """The caller is gone, or what it sends is no HTTP: nobody reads a response any more."""

    def pause_writing(self) -> None:
        """The caller reads slowly: write no more for now (what is written is kept)."""

    def resume_writing(self) -> None:
        """Go on after :meth:`pause_writing`."""

    def half_closed(self) -> bool:
        """The caller has ended its side of the connection behind a complete request, and may still
        read.

        Returns:
            Whether the response still comes. Else the caller is taken for gone, and
            :meth:`aborted` follows.
        """


class ConnectionObserver(Protocol):
    """What lives and dies with a caller's connection."""

    __slots__ = ()

    def connection_ended(self) -> None:
        """No further request comes on the connection. Told once."""


class ResponseSink(Protocol):
    """What an exchange writes to: the caller's connection."""

    __slots__ = ("keep", "observer", "write_paused")

    keep: bool
    """Another request may follow; the exchange decides when it frames the response."""

    observer: ConnectionObserver | None
    """Told of the connection's end; ``None`` until a handler sets it."""

    def close_if_idle(self) -> bool:
        """End the connection, unless a request is in flight or has begun to come.

        Returns:
            Whether it is ended.
        """

    write_paused: bool
    """The caller reads slowly."""

    @property
    def unread_bytes(self) -> int:
        """How much of what was written the caller has not read, in bytes."""

    @property
    def body_at_hand(self) -> int:
        """See :attr:`Exchange.body_at_hand`."""

    @property
    def body_open(self) -> bool:
        """More of the request's body is to come."""

    def may_be_kept(self, head: RequestHead, *, reads_on: bool) -> bool:
        """Whether another request can follow the one with this head.

        Args:
            reads_on: all of its body is read, even behind the response.
        """

    def collect(self, data: bytes) -> None:
        """Write ``data``, at the end of this tick of the loop or before."""

    def write(self, data: bytes) -> None:
        """Write ``data`` now, behind what was collected."""

    def exchange_ended(self) -> None:
        """Take note that the response is complete."""

    def cut(self, *, with_reset: bool) -> None:
        """End the connection in the middle of a response.

        Args:
            with_reset: as a reset, since an end would pass for the response's.
        """

    def await_body(self) -> None:
        """Give the caller, which was told to send the body, time for it."""

    def pause_body(self, *, keep: bool) -> None:
        """See :meth:`Exchange.pause_body`."""

    def resume_body(self) -> None:
        """See :meth:`Exchange.resume_body`."""

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Let go of the transport, and of what was read behind the request."""


class _Ignore:
    """Takes the rest of a request that is answered already."""

    def body_received(self, data: bytes) -> None: ...
    def body_ended(self) -> None: ...
    def aborted(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def half_closed(self) -> bool:
        return True


IGNORE: Final[RequestHandler] = _Ignore()
"""For a router that has answered from the head alone."""


class Exchange:
    """One request and its response. After :meth:`end`, :meth:`abort` or the caller's departure
    every method does nothing.

    Attributes:
        head: the request's.
        connection: the caller's; ``None`` once the exchange is over.
        started: the response's head is written.
        reads_on: the handler takes all of the request's body, even behind the response.
        answered: the response is complete, and more of the request is to come.
        trailers: the fields that came behind the request's body, once that has ended.
    """

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_last",
        "_left",
        "answered",
        "connection",
        "head",
        "reads_on",
        "started",
        "trailers",
    )

    def __init__(self, sink: ResponseSink, head: RequestHead) -> None:
        self.head = head
        self.started = False
        self.reads_on = False
        self.answered = False
        self.trailers = _NO_TRAILERS
        self.connection: ResponseSink | None = sink
        self._left: int | None = None
        """Response bytes still due; ``None`` where the length was not told."""
        self._chunked = False
        self._bodiless = False
        self._last = False
        """No request may follow, whatever the caller wants."""

    @property
    def done(self) -> bool:
        """Whether the exchange is over, one way or another."""
        return self.connection is None

    @property
    def writable(self) -> bool:
        """False from ``pause_writing`` to ``resume_writing``."""
        sink = self.connection
        return sink is not None and not sink.write_paused

    @property
    def unread_bytes(self) -> int:
        """How much of what was written waits for the caller to read, in bytes."""
        sink = self.connection
        return 0 if sink is None else sink.unread_bytes

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the connection's end tells the caller where the response ends."""
        return not self._bodiless and self._left is None and not self._chunked

    @property
    def body_at_hand(self) -> int:
        """The length of the request's body if the handler gets all of it in one piece before
        control goes back to the loop, in bytes; else, or if there is none, 0."""
        sink = self.connection
        return 0 if sink is None else sink.body_at_hand

    def respond(
        self, status: int, headers: Headers, body: bytes, reason: str | None = None
    ) -> None:
        """Send a whole response.

        Args:
            status: the HTTP status.
            headers: all but the hop-by-hop ones and ``Content-Length``.
            body: left out where the request or the status allows none.
            reason: the reason phrase; the usual one of the status unless given.

        Raises:
            ValueError: a header cannot travel in HTTP; nothing was sent.
        """
        self.complete(self.prepare(status, headers, len(body), reason), body)

    def send_interim(self, status: int, headers: Headers) -> None:
        """Send an interim response, before the final one. A caller that speaks HTTP/1.0 would take
        it for the final one, and gets none.

        Args:
            status: 100 to 199, but not 101. 100 lets a caller that waits for it send the body.
            headers: all but the hop-by-hop ones.

        Raises:
            ValueError: a header cannot travel in HTTP; nothing was sent.
        """
        sink = self.connection
        if sink is None or self.started or self.head.http_version == "1.0":
            return
        sink.collect(response_head(status, headers, "", interim=True))
        if status == 100 and self.head.expects_continue:
            self.head.expects_continue = False
            sink.await_body()

    def start_response(
        self,
        status: int,
        headers: Headers,
        content_length: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Send a response's head, together with what follows in this tick of the loop.

        Args:
            status: the HTTP status.
            headers: as in :meth:`respond`; :func:`end_to_end` prepares an app's.
            content_length: of the body, in bytes; ``None`` if only its end will tell.
            reason: the reason phrase; the usual one of the status unless given.

        Raises:
            ValueError: a header cannot travel in HTTP; nothing was sent.
        """
        data = self.prepare(status, headers, content_length, reason)
        if self.connection is not None:
            self.started = True
            self.connection.collect(data)

    def prepare(
        self,
        status: int,
        headers: Headers,
        content_length: int | None,
        reason: str | None = None,
    ) -> bytes:
        """Decide how the response is framed.

        Args:
            status: as in :meth:`start_response`, like the others.

        Returns:
            Its head, for :meth:`complete`.

        Raises:
            ValueError: a header cannot travel in HTTP.
        """
        sink = self.connection
        if sink is None:
            return b""
        head = self.head
        bodiless = status in (204, 304) or head.method == "HEAD"
        chunked = False
        framing = ""
        if content_length is not None:
            if status != 204:
                framing = f"Content-Length: {content_length}\r\n"
        elif not bodiless and head.http_version == "1.1":
            chunked = True
            framing = "Transfer-Encoding: chunked\r\n"
        reads_on = self.reads_on and not head.expects_continue
        keep = not self._last and sink.may_be_kept(head, reads_on=reads_on)
        if content_length is None and not bodiless and not chunked:
            keep = False
        if not keep:
            framing += "Connection: close\r\n"
        elif head.http_version == "1.0":
            framing += "Connection: keep-alive\r\n"
        data = response_head(status, headers, framing, reason)
        self._bodiless = bodiless
        self._chunked = chunked
        self._left = content_length
        sink.keep = keep
        return data

    def complete(self, head: bytes, body: bytes, *, at_once: bool = False) -> None:
        """Send a whole response.

        Args:
            head: what :meth:`prepare` returned.
            body: all of it. Where another length was announced, the response is cut off.
            at_once: nobody else is to be answered in this tick of the loop.
        """
        sink = self.connection
        if sink is None:
            return
        self.started = True
        if self._left == len(body) and not self._bodiless:
            self.connection = None
            if at_once:
                sink.write(head + body)
            else:
                sink.collect(head + body)
            sink.exchange_ended()
            return
        sink.collect(head)
        self.write(body)
        self.end()

    def write(self, data: bytes) -> None:
        """Send a piece of the body, together with what follows in this tick of the loop."""
        sink = self.connection
        if sink is None or self._bodiless or not data:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                _log.warning("a response longer than its Content-Length was cut off")
                self.abort()
            else:
                sink.collect(data)
        elif self._chunked:
            sink.collect(b"%x\r\n" % len(data))
            sink.collect(data)
            sink.collect(b"\r\n")
        else:
            sink.collect(data)

    def end(self, trailers: Headers | None = None) -> None:
        """End the body. One that is shorter than announced is aborted instead.

        Args:
            trailers: fields to send behind it, if the caller takes them.
        """
        sink = self.connection
        if sink is None:
            return
        if not self._bodiless:
            if self._left:
                self.abort()
                return
            if self._chunked:
                sink.collect(b"0\r\n%b\r\n" % self._trailer_lines(trailers))
        if sink.body_open and self._may_read_on():
            self.answered = True
            return
        self.connection = None
        sink.exchange_ended()

    def _trailer_lines(self, trailers: Headers | None) -> bytes:
        """Return what comes between the last chunk and the end."""
        if not trailers or not self.head.takes_trailers:
            return b""
        try:
            return field_lines(trailers)
        except ValueError:
            _log.warning("trailers that cannot travel in HTTP were left out of a response")
            return b""

    def _may_read_on(self) -> bool:
        """Tell whether the rest of the request is read behind the response: not where the caller
        needs the connection's end to see that of the response, and not where it was never told to
        send the body."""
        return self.reads_on and not self.head.expects_continue and not self.ends_with_connection

    def abort(self) -> None:
        """Cut the response off so that the caller sees it: without a clean end. Where the response
        is complete, and the request is not, end the connection behind it."""
        sink = self.connection
        if sink is None:
            return
        self.connection = None
        if self.answered:
            sink.keep = False
            sink.exchange_ended()
            return
        sink.cut(with_reset=self.ends_with_connection)

    def close_afterwards(self) -> None:
        """Let the response, which is not framed yet, be the connection's last."""
        self._last = True

    def hang_up(self, *, with_reset: bool) -> None:
        """End the connection instead of a response.

        Args:
            with_reset: as a reset, and not with a clean end.
        """
        sink, self.connection = self.connection, None
        if sink is not None:
            sink.cut(with_reset=with_reset)

    def pause_body(self, *, keep: bool = False) -> None:
        """Let the caller wait with the body.

        Args:
            keep: what is read already waits too; else it still comes.
        """
        if self.connection is not None:
            self.connection.pause_body(keep=keep)

    def resume_body(self) -> None:
        """Go on after :meth:`pause_body`."""
        if self.connection is not None:
            self.connection.resume_body()

    def continue_(self) -> None:
        """Tell a caller that waits for it to send the body."""
        if self.head.expects_continue:
            self.send_interim(100, [])

    def upgrade(self) -> tuple[asyncio.Transport, bytes]:
        """Leave HTTP: hand over the connection, before any response.

        Returns:
            The transport, which needs another protocol before control goes back to the loop,
            and the bytes that came after the request.

        Raises:
            ConnectionError: the exchange is over.
        """
        sink = self.connection
        if sink is None:
            raise ConnectionResetError("the caller is gone")
        self.connection = None
        return sink.detach()

    def lose(self) -> bool:
        """End the exchange without a word, for the connection's sake.

        Returns:
            False if it was over already.
        """
        sink, self.connection = self.connection, None
        return sink is not None


Router = Callable[[Exchange], RequestHandler]
"""Looks at ``exchange.head`` and returns who takes the body; it may answer at once."""
