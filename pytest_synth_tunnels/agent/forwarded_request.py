"""One request on its way from the relay to the app, and the app's answer on its way back.

Theory of operation. A request moves through these states, in this order; any state may be skipped
on the way to the last one:

- *collecting*: the head has come. A request that arrives whole starts at once; one whose body is
  to come waits until the end of the loop's tick (:meth:`.uplink.Uplink.hold`), so that head and a
  short body are one write. :meth:`ForwardedRequest.start` leaves this state.
- *waiting* (``started``): the pool looks for a connection, and what comes of the body is kept.
- *exchanging* (``_connection`` is set): what comes of the body is written at once, and the app's
  answer is passed on as it comes. Request and answer end independently of each other: ``_ended``
  says that the relay has sent all, ``_responded`` that the head of the answer has come.
- *uploading* (``_answered``): the answer was complete before the request, and the app goes on
  reading that; only where the relay knows of this (``exact_http``).
- *hearing out* (``_answered``, and no ``_connection``): the answer was complete before the request,
  and the app has left. What the caller sends all the same goes into the record, for a test that
  waits for a callback wants to see all of it, however early its app answers. It lasts for a short
  body and a short time.
- *over*: the uplink has forgotten the request. The answer's end leads here
  (:meth:`ForwardedRequest.response_ended`), and so does every failure, through
  :meth:`ForwardedRequest._detach`. Nothing moves it any more.

The relay moves it forwards (``body``, ``whole``, ``end``, ``cancel``), the connection moves the
answer (``connected``, ``response_*``, ``failed``), and the clock ends it (``expire``).

What always holds: each direction keeps at most a window of body
(:data:`..wire.frames.WINDOW_BYTES`) and a little more. Towards the app, the relay gets credit only
for what the app has taken; with a relay that knows no windows the link itself waits, for at most
:attr:`.uplink.Uplink.stall_s`. Towards the relay, the app is not read while there is no credit or
while the link is full. The head of the answer waits in ``_head`` for what comes in the same read
of the connection, so that a short answer is one frame.
"""

from math import inf
from typing import Final

from ..http.client_connection import ClientConnection, OriginError, ResponseHandler
from ..http.headers import Headers, field_lines
from ..http.pool import ConnectionPool
from ..traffic.recorder import RecordedRequest
from ..wire.flow_control import ReceiveWindow, SendWindow
from ..wire.frames import (
    CONNECTION_CLOSED,
    CONNECTION_RESET,
    MAX_WHOLE_BYTES,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    RespInterim,
    Window,
)
from .served_leases import ServedLease
from .uplink import InflightRequest, Uplink
from .url_rewriter import UrlRewriter

__all__ = ["ForwardedRequest"]

_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
"""Methods that come without a body unless something says otherwise."""

_CALLER_GONE: Final = "the caller went away"
_EARLY_BYTES: Final = 65_536
"""A body that grows to this length is not collected any longer."""
_MAX_REST_BYTES: Final = 65_536
"""How much more may be to come of a request that the app has left, for it to be heard out."""
HEAR_OUT_S = 2.0
"""How long it is heard out, in seconds: a busy caller may not have got round to its body."""


class ForwardedRequest(InflightRequest, ResponseHandler):
    """A request: an :class:`.uplink.InflightRequest` and a
    :class:`~..http.client_connection.ResponseHandler`.

    Args:
        uplink: the link that the request came by.
        frame: the request.
        lease: the lease that it came for.
        rewriter: the target that it goes to.
        pool: the connections to that target.
        path: the path as the app sees it.
        timeout_s: from the last sign of the caller to the beginning of the answer, in seconds.
    """

    __slots__ = (
        "_answered",
        "_arrived_s",
        "_body",
        "_caller",
        "_caller_ended",
        "_chunked",
        "_connection",
        "_ended",
        "_head",
        "_length",
        "_lines",
        "_method",
        "_parting",
        "_path",
        "_pool",
        "_reached",
        "_receive_window",
        "_received",
        "_recorded",
        "_recorder",
        "_responded",
        "_rewriter",
        "_send_window",
        "_sink_paused",
        "_stalled",
        "_timeout_s",
        "_trailers",
        "_uplink",
        "_whole_body",
        "lease",
        "lease_id",
        "rid",
        "started",
    )

    def __init__(
        self,
        uplink: Uplink,
        frame: ReqHeaders,
        lease: ServedLease,
        rewriter: UrlRewriter,
        pool: ConnectionPool,
        path: str,
        timeout_s: float,
    ) -> None:
        self.rid = frame.rid
        self.lease_id = frame.lease_id
        self.lease = lease
        self.due_at = inf
        self.started = False
        """Whether it has asked for a connection."""
        self._uplink = uplink
        self._method = frame.method
        self._path = path
        self._rewriter = rewriter
        self._pool = pool
        self._timeout_s = timeout_s
        self._connection: ClientConnection | None = None
        tied = uplink.caller_connections
        self._caller = frame.conn if tied else ""
        """The name of the caller's connection; empty where the request has a connection to the app
        of its own."""
        self._caller_ended = False
        """Whether the caller has ended its side of the connection."""

        # The request.
        lines, self._length = rewriter.request_head(frame, path)
        if frame.negotiated:
            lines += _negotiated_lines(frame.negotiated)
        if frame.close or not self._caller:  # no other request comes on the same connection
            lines += "Connection: close\r\n"
        self._lines = lines
        self._body: list[bytes] = []
        """The pieces of the body that wait for the connection."""
        self._received = 0
        """How much of the body has come, in bytes."""
        self._receive_window: ReceiveWindow | None = None
        """Of a body that comes in pieces."""
        self._ended = False
        """Whether the request is complete."""
        self._chunked = frame.chunked and self._length is None
        """Whether the body goes to the app in chunks; else it has a known length, or none."""
        self._trailers = b""
        """What goes behind the last chunk."""
        self._sink_paused = False
        """Whether the app reads slowly."""
        self._stalled = False
        """Whether the link waits for this request."""

        # The answer.
        self._answered = False
        """Whether all of the answer is sent, and the app goes on reading the request."""
        self._responded = False
        """Whether the head of the answer is sent, or waits in ``_head``."""
        self._head: RespHeaders | None = None
        """The beginning of the answer, as long as the rest may come in the same read."""
        self._parting = not self._caller
        """Whether the caller's connection ends behind the answer, as the relay knows."""
        self._send_window: SendWindow | None = None
        """Of the answer's body, once there is some, towards a relay that knows windows."""

        # The record.
        self._recorder = recorder = uplink.recorder
        self._recorded: RecordedRequest | None = None
        """The request's record; ``None`` while the request is only to be logged at its end."""
        self._reached = False
        """Whether it has had a connection."""
        self._whole_body = b""
        """The body, if it came in one piece."""
        if recorder is not None:
            self._arrived_s = recorder.now()
            if recorder.log.watched:
                self.record()

    def record(self) -> RecordedRequest | None:
        """Return the record of this request, as far as it has come; ``None`` if nothing is
        recorded."""
        recorded, recorder = self._recorded, self._recorder
        if recorded is None and recorder is not None:
            recorded = recorder.begin(self._rewriter.recorded_app, self._lines, self._arrived_s)
            self._recorded = recorded
            if self._whole_body:
                recorded.take_body(self._whole_body)
            recorded.ended, recorded.reached = self._ended, self._reached
            if self._head is not None:
                head = self._head
                recorded.response_started(head.status, head.headers, head.reason)
        return recorded

    @property
    def waits_for_body(self) -> bool:
        """Whether a body is to come for certain, so that the head may wait for it a little."""
        length = self._length
        return length > 0 if length is not None else self._chunked or self._method not in _BODILESS

    # --- the request, from the relay

    def body(self, chunk: bytes) -> None:
        """Take a piece of the request's body."""
        if self._ended or not chunk:
            return
        self._received += len(chunk)
        if self._receive_window is None:
            self._receive_window = ReceiveWindow()
        self._receive_window.take(len(chunk))
        if self._recorder is not None and (recorded := self.record()) is not None:
            recorded.take_body(chunk)
        length = self._length
        if length is not None and self._received > length:
            self._fail_request(f"the body is longer than its Content-Length of {length}")
            return
        connection = self._connection
        if connection is None:
            if self._answered:
                if self._receive_window.untold_bytes > _MAX_REST_BYTES:
                    self._refuse_rest()
                return
            self._body.append(chunk)
            if self.started:
                self._hold_back()
            elif self._received >= _EARLY_BYTES:
                self.start()
            else:
                self._uplink.hold(self)
            return
        connection.write(_chunk(chunk) if self._chunked else chunk)
        if self._sink_paused:
            self._hold_back()
        else:
            self._grant()

    def whole(self, body: bytes) -> None:
        """Take the body and the end of the request in one."""
        if body:
            self._received = len(body)
            self._body.append(body)
            self._whole_body = body
            if self._recorded is not None:
                self._recorded.take_body(body)
        length = self._length
        if length is not None and self._received != length:
            self._fail_request(f"the body has {self._received} bytes, not the {length} announced")
            return
        self._ended = True
        if self._recorded is not None:
            self._recorded.end()
        self.start()

    def end(self, trailers: Headers) -> None:
        """Take the end of the request, and the trailers behind its body."""
        if self._ended:
            return
        if trailers and self._chunked:
            self._trailers = field_lines(trailers)
        length = self._length
        if length is not None and self._received < length:
            self._fail_request(f"the body ended after {self._received} of {length} bytes")
            return
        self._ended = True
        if self._recorded is not None:
            self._recorded.end()
        if not self.started:
            self.start()
        elif self._connection is not None:
            if self._chunked:
                self._connection.write(b"0\r\n%b\r\n" % self._trailers)
            self._connection.request_ended()
        if self._answered:
            self._connection = None
            self._leave()
            return
        if self._received:
            self._touch()

    def start(self) -> None:
        """Ask for a connection with what has come of the request so far."""
        self.started = True
        if self._length is None and not self._chunked:
            if not self._ended:
                self._chunked = True
            elif self._received or (self._method not in _BODILESS and not self._uplink.exact_http):
                self._length = self._received
                self._lines += f"Content-Length: {self._length}\r\n"
        if self._chunked:
            self._lines += "Transfer-Encoding: chunked\r\n"
        self._pool.acquire(self, caller=self._caller)

    def caller_ended(self) -> None:
        """End this side of the connection to the app, behind the request, as the caller has ended
        its own."""
        self._caller_ended = True
        if self._connection is not None and self._ended:
            self._connection.half_close()

    def cancel(self) -> None:
        """End the request without a word to the relay, where nobody waits for it."""
        if (recorded := self.record()) is not None:
            if self._answered:
                self._record_end(recorded)
            else:
                recorded.broken_off(_CALLER_GONE)
        self._detach()

    # --- the answer, from the relay's side

    def window(self, credit_bytes: int) -> None:
        """Take credit for the answer's body."""
        if self._send_window is not None and self._send_window.grant(credit_bytes):
            self.resume()

    def pause(self) -> None:
        """Let the app wait, because the link is full."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Read the app's answer again, if both the link and this answer's window have room."""
        window = self._send_window
        if (
            self._connection is not None
            and not self._uplink.link_paused
            and (window is None or window.open)
        ):
            self._connection.resume_reading()

    # --- the agent and the clock

    def expire(self) -> None:
        """Give up waiting for the app, or for the rest of a request that it has left."""
        if self._answered:
            self._refuse_rest()
            return
        where = self._rewriter.target.name
        self._detach()
        if self._stalled:
            stall_s = self._uplink.stall_s
            message = f"the app at {where} took nothing of the request for {stall_s:g} s"
        else:
            message = f"the app at {where} did not answer within {self._timeout_s:g} s"
        self._give_up(504, "TUNNEL_TIMEOUT", message)

    def abort(self, code: str, message: str) -> None:
        """End the request for a reason that is not the app's, and tell the relay why."""
        self._record_failure(502, code, message)
        self._detach()
        self._uplink.send(RespError(self.rid, code, message, lease_id=self.lease_id))

    # --- the connection

    def connected(self, connection: ClientConnection) -> None:
        """Send what has come of the request, in one write."""
        self._connection = connection
        self._reached = True
        if self._recorded is not None:
            self._recorded.reach()
        data = f"{self._lines}\r\n".encode("latin-1")
        if self._body:
            pieces = map(_chunk, self._body) if self._chunked else self._body
            data = b"".join((data, *pieces))
            self._body = []
        ended = self._ended
        if ended and self._chunked:
            data += b"0\r\n%b\r\n" % self._trailers
        connection.begin(
            self,
            data,
            head_only=self._method == "HEAD",
            complete=ended,
            at_once=len(self._uplink.requests) == 1,
        )
        if self._caller_ended and ended:
            connection.half_close()
        if not ended and not self._sink_paused:
            self._grant()
        if self._uplink.link_paused:
            connection.pause_reading()

    def failed(self, error: OriginError) -> None:
        """Tell the relay that there is no answer, or no end of it."""
        self._connection = None
        self._detach()
        if error.unanswered and self._uplink.caller_connections:
            code = CONNECTION_RESET if error.reset else CONNECTION_CLOSED
            recorded = self.record()
            if recorded is not None:
                recorded.broken_off(_CALLER_GONE if self._caller_ended else str(error))
            self._uplink.send(RespError(self.rid, code, str(error), self.lease_id))
            return
        self._give_up(502, "TUNNEL_ENDPOINT_UNREACHABLE", str(error))

    def pause_writing(self) -> None:
        """Give the relay no more credit, because the app reads slowly."""
        self._sink_paused = True

    def resume_writing(self) -> None:
        """Give the relay credit again, because the app has read."""
        self._sink_paused = False
        self._grant()

    # --- the answer, from the connection

    def response_interim(self, status: int, headers: Headers) -> None:
        """Pass an interim response on, where the relay takes it. The app is at work, so that the
        wait for its answer begins anew."""
        self._touch()
        if self._uplink.exact_http:
            self._uplink.send(RespInterim(self.rid, status, headers, self.lease_id))

    def response_started(
        self, status: int, reason: str | None, headers: Headers, located: bool
    ) -> None:
        """Pass the head on, with what it says of the app's own URLs made public."""
        self._responded = True
        self.due_at = inf
        if located:
            headers = self._rewriter.response_headers(headers, self._path)
        head = self._head = RespHeaders(self.rid, status, headers, self.lease_id)
        if reason is not None and self._uplink.exact_http:
            head.reason = reason
        if self._recorded is not None:
            self._recorded.response_started(status, headers, reason)
        if self._caller and self._connection is not None and self._connection.last:
            head.close = self._parting = True

    def response_body(self, data: bytes) -> None:
        """Pass a piece of the body on, and stop the app where the relay takes no more."""
        head = self._head
        if head is not None:
            if len(head.body) + len(data) <= MAX_WHOLE_BYTES:
                head.body += data
                return
            self.response_paused()
        self._send_body(data)

    def response_paused(self) -> None:
        """Pass on what waits for more, because the rest did not come in the same read."""
        head, self._head = self._head, None
        if head is not None:
            data, head.body = head.body, b""
            if self._recorded is None and (recorded := self.record()) is not None:
                recorded.response_started(head.status, head.headers, head.reason)
            self._uplink.send(head)
            if self._uplink.flow_control:
                self._send_window = SendWindow()
            if data:
                self._send_body(data)

    def response_ended(self, trailers: Headers) -> None:
        """Pass the end on. What is still to come of the request's body goes on to an app that
        still reads it. Where the app has ended the connection, it is heard out if it is short, and
        else dropped, as it is where the relay sends no more of it. The caller must hear of the
        connection's end together with the answer, or it would send its next request on a
        connection that is about to end."""
        connection, uplink, refused = self._connection, self._uplink, not self._ended
        if refused and connection is not None:
            goes_on = connection.goes_on
            if goes_on and not uplink.exact_http:
                connection.abandon()
            elif goes_on or self._hears_out():
                self._answered = True
                self.response_paused()
                uplink.send(RespEnd(self.rid, self.lease_id, trailers or None))
                return
        self._connection = None
        self._ended = True
        if not uplink.exact_http:
            trailers = []
        elif trailers:
            self.response_paused()
        uplink.forget(self)
        if self._stalled:
            uplink.unstall(self)
        head, recorder = self._head, self._recorder
        if self._recorded is not None:
            self._record_end(self._recorded)
        elif recorder is not None and head is not None:
            recorder.finished(
                self._rewriter.recorded_app,
                self._lines,
                self._arrived_s,
                self._whole_body,
                head.status,
                head.headers,
                head.body,
                head.reason,
            )
        if head is not None:
            head.end = True
            uplink.send(head, at_once=not uplink.requests)
        else:
            uplink.send(RespEnd(self.rid, self.lease_id, trailers or None))
            if refused and uplink.exact_http:
                self._refuse()

    def request_refused(self) -> None:
        """Go on without the app, which reads nothing more of the request."""
        if not self._hears_out():
            self._refuse_rest()

    # --- inside

    def _hears_out(self) -> bool:
        """Let go of an app that has answered and left, and say whether to wait for the rest of the
        request: for one that is short, where somebody records it, and where the caller sends no
        other request behind it."""
        self._connection = None
        uplink, head, length = self._uplink, self._head, self._length
        if self._recorder is None or not uplink.exact_http or self._stalled:
            return False
        if length is not None and length - self._received > _MAX_REST_BYTES:
            return False
        if head is not None and self._caller:
            head.close = self._parting = True
        if self._parting:
            self._receive_window = ReceiveWindow()  # it counts the rest, and gives no credit
            uplink.deadlines.set(self, uplink.now() + HEAR_OUT_S)
        return self._parting

    def _refuse_rest(self) -> None:
        """End a request of which the app reads nothing more, behind its answer."""
        self._connection = None
        self._leave()
        self._refuse()

    def _refuse(self) -> None:
        """Tell the relay that the app reads nothing more of the request."""
        message = f"the app at {self._rewriter.target.name} reads no more of the request"
        self._uplink.send(RespError(self.rid, "LOCAL_REQUEST_FAILED", message, self.lease_id))

    def _leave(self) -> None:
        """Be over, behind an answer that was complete before the request."""
        self._ended = True
        self._uplink.forget(self)
        if self._stalled:
            self._uplink.unstall(self)
        if self._recorded is not None:
            self._record_end(self._recorded)

    def _send_body(self, data: bytes) -> None:
        """Send a piece of the answer's body, and read the app no further once the window is
        used up."""
        window = self._send_window
        if self._recorded is not None:
            self._recorded.response_body(data)
        if window is not None:
            window.spend(
                len(data)
            )  # before it is sent: in memory the credit for it comes meanwhile
        self._uplink.send(RespBody(self.rid, data, lease_id=self.lease_id))
        if window is not None and not window.open and self._connection is not None:
            self._connection.pause_reading()

    def _grant(self) -> None:
        """Tell the relay that the app has taken what came so far."""
        uplink = self._uplink
        if self._stalled:
            self._stalled = False
            uplink.unstall(self)
            due_at = inf if self._responded else uplink.now() + self._timeout_s
            uplink.deadlines.set(self, due_at)
        window = self._receive_window
        if window is not None and window.due and not self._ended:
            credit_bytes = window.credit()
            if uplink.flow_control:
                uplink.send(Window(self.rid, credit_bytes, self.lease_id))
        if self._received:
            self._touch()

    def _hold_back(self) -> None:
        """Bound what waits for a slow app."""
        window = self._receive_window
        if window is None:
            return
        if self._uplink.flow_control:
            if window.overrun:
                self._fail_request("the relay sends more than its window")
        elif window.full and not self._stalled:
            self._stalled = True
            self._uplink.stall(self)

    def _touch(self) -> None:
        """Begin to wait for the answer anew, because caller or app is still busy with the body."""
        if not self._responded and not self._stalled:
            self.due_at = self._uplink.now() + self._timeout_s

    def _fail_request(self, message: str) -> None:
        """Refuse the request for what the relay sent."""
        if self._responded:
            self.abort("INVALID_REQUEST_BODY", message)
        else:
            self._record_failure(400, "INVALID_REQUEST_BODY", message)
            self._detach()
            self._respond_error(400, "INVALID_REQUEST_BODY", message)

    def _give_up(self, status: int, code: str, message: str) -> None:
        """Answer instead of the app, or cut its answer off where it has begun."""
        self._record_failure(status, code, message)
        if self._responded:
            error = RespError(self.rid, "LOCAL_BAD_RESPONSE", message, self.lease_id)
            self._uplink.send(error)
        else:
            self._respond_error(status, code, message)

    def _respond_error(self, status: int, code: str, message: str) -> None:
        self._uplink.respond_error(
            self.rid,
            self.lease_id,
            status,
            code,
            message,
            head_only=self._method == "HEAD",
            close=self._reached and bool(self._caller),
        )

    def _record_end(self, recorded: RecordedRequest) -> None:
        """Record that the answer is complete."""
        if self._head is not None and self._head.body:
            recorded.response_body(self._head.body)
        recorded.response_ended()

    def _record_failure(self, status: int, code: str, message: str) -> None:
        """Record that the tunnel answers, or that it breaks the app's answer off."""
        recorded = self.record()
        if recorded is None:
            return
        if self._responded:
            recorded.broken_off(message)
        else:
            recorded.refused(status, code, message)

    def _detach(self) -> None:
        """Leave the uplink and the app alone from now on."""
        self._uplink.forget(self)
        if self._stalled:
            self._uplink.unstall(self)
        self._ended = True
        self._body = []
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        else:
            self._pool.cancel(self)


def _negotiated_lines(headers: Headers) -> str:
    """Return what the caller agrees on with the app for this message alone, as lines of the
    request's head."""
    lines = ""
    for name, value in headers:
        kind = name.lower()
        if kind in ("expect", "trailer"):
            lines += f"{name}: {value}\r\n"
        elif kind == "te" and value == "trailers":
            lines += "TE: trailers\r\nConnection: TE\r\n"
    return lines


def _chunk(data: bytes) -> bytes:
    """Return ``data`` as a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
