"""One request on its way from the relay to the app; :mod:`.app_answer` is the way back.

The head waits for what comes with it: a request whose body arrives in the same tick of the loop is
one write. Each direction holds at most a window of body (:data:`..wire.frames.WINDOW_BYTES`); with
a relay that knows no windows the link itself waits, and only for so long.
"""

from math import inf
from typing import TYPE_CHECKING, Final

from ..http.client_connection import ClientConnection
from ..http.pool import ConnectionPool
from ..http.response import OriginError
from ..wire.frames import WINDOW_BYTES, ReqHeaders, RespEnd, RespError, Window
from .app_answer import AppAnswer, answer
from .target import UrlRewriter

if TYPE_CHECKING:
    from .agent import Agent

__all__ = ["ForwardedRequest"]

STALL_S: Final = 10.0
"""How long one slow app may hold up a link that knows no windows."""

_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
"""Methods that come without a body unless something says otherwise."""

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "PUT"})
_EARLY_BYTES: Final = 65_536
"""A body that grows to this is not waited for."""


class ForwardedRequest(AppAnswer):
    """A request (a :class:`~..http.pool.ResponseHandler` and a :class:`~..aio.deadlines.Expiring`).

    Args:
        agent: whose link it came by.
        frame: the request.
        mount: where it goes.
        path: as the app sees it.
        timeout_s: from the last sign of the caller to the beginning of the answer, in seconds.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_ended",
        "_length",
        "_lines",
        "_origin",
        "_received",
        "_retried",
        "_sink_paused",
        "_stalled",
        "_timeout_s",
        "_untaken",
        "started",
    )

    def __init__(
        self,
        agent: "Agent",
        frame: ReqHeaders,
        mount: UrlRewriter,
        origin: ConnectionPool,
        path: str,
        timeout_s: float,
    ) -> None:
        super().__init__(agent, frame, mount)
        self.started = False
        """It has asked for a connection."""
        self._origin = origin
        self._lines, self._length = mount.request_head(frame, path)
        self._timeout_s = timeout_s
        self._body: list[bytes] = []
        """What waits for the connection."""
        self._received = 0
        """Bytes of the body so far."""
        self._untaken = 0
        """Those among them for which the relay got no credit yet."""
        self._ended = False
        """The request is complete."""
        self._chunked = False
        """How the body is framed towards the app."""
        self._sink_paused = False
        """The app reads slowly."""
        self._stalled = False
        """The link waits for this request."""
        self._retried = False

    @property
    def waits_for_body(self) -> bool:
        """Whether a body is to come for certain, so that the head need not wait for it long."""
        length = self._length
        return length > 0 if length is not None else self._method not in _BODILESS

    # --- from the relay

    def body(self, chunk: bytes) -> None:
        """Take a piece of the request's body."""
        if self._ended or not chunk:
            return
        self._received += len(chunk)
        self._untaken += len(chunk)
        length = self._length
        if length is not None and self._received > length:
            self._fail_request(f"the body is longer than its Content-Length of {length}")
            return
        connection = self._connection
        if connection is None:
            self._body.append(chunk)
            if self.started:
                self._hold_back()
            elif self._received >= _EARLY_BYTES:
                self.start()
            else:
                self._agent.hold(self)
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
        length = self._length
        if length is not None and self._received != length:
            self._fail_request(f"the body has {self._received} bytes, not the {length} announced")
            return
        self._ended = True
        self.start()

    def end(self) -> None:
        """Take note that the request is complete."""
        if self._ended:
            return
        length = self._length
        if length is not None and self._received < length:
            self._fail_request(f"the body ended after {self._received} of {length} bytes")
            return
        self._ended = True
        if not self.started:
            self.start()
        elif self._connection is not None:
            if self._chunked:
                self._connection.write(b"0\r\n\r\n")
            self._connection.request_ended()
        if self._received:
            self._touch()

    def start(self) -> None:
        """Ask for a connection with what is there of the request."""
        self.started = True
        if self._length is None:
            if not self._ended:
                self._chunked = True
            elif self._received or self._method not in _BODILESS:
                self._length = self._received
        self._origin.submit(self)

    def cancel(self) -> None:
        """Forget the request: nobody waits for it."""
        self._detach()

    # --- from the agent

    def expire(self) -> None:
        """Act on the deadline."""
        where = self._mount.target.name
        self._detach()
        if self._stalled:
            message = f"the app at {where} took nothing of the request for {STALL_S:g} s"
        else:
            message = f"the app at {where} did not answer within {self._timeout_s:g} s"
        self._give_up(504, "TUNNEL_TIMEOUT", message)

    def abort(self, code: str, message: str) -> None:
        """Tell the relay that the request failed for a reason that is not the app's."""
        self._detach()
        self._agent.send(RespError(self.rid, code, message, lease_id=self.lease_id))

    # --- from the app

    def connected(self, connection: ClientConnection) -> None:
        """Send what is there of the request, in one write."""
        self._connection = connection
        if self._chunked:
            head = f"{self._lines}Transfer-Encoding: chunked\r\n\r\n"
        elif self._length is not None:
            head = f"{self._lines}Content-Length: {self._length}\r\n\r\n"
        else:
            head = f"{self._lines}\r\n"
        data = head.encode("latin-1")
        if self._body:
            pieces = map(_chunk, self._body) if self._chunked else self._body
            data = b"".join((data, *pieces))
            self._body = []
        ended = self._ended
        if ended and self._chunked:
            data += b"0\r\n\r\n"
        connection.begin(
            self,
            data,
            head_only=self._method == "HEAD",
            complete=ended,
            at_once=self._agent.inflight == 1,
        )
        if not ended and not self._sink_paused:
            self._grant()
        if self._agent.link_paused:
            connection.pause_reading()

    def response_ended(self) -> None:
        """Pass the end on. What is still to come of the request's body is dropped."""
        self._connection = None
        self._ended = True
        agent = self._agent
        agent.forget(self)
        if self._stalled:
            agent.unstall(self)
        head = self._head
        if head is not None:
            head.end = True
            agent.send(head, at_once=not agent.inflight)
        else:
            agent.send(RespEnd(self.rid, self.lease_id))

    def failed(self, error: OriginError) -> None:
        """Try again where nothing can happen twice, else tell the caller."""
        self._connection = None
        if (
            error.unanswered
            and not self._retried
            and not self._received
            and self._ended
            and self._method in _IDEMPOTENT
        ):
            self._retried = True
            self._origin.submit(self, fresh=True)
            return
        self._detach()
        self._give_up(502, "TUNNEL_ENDPOINT_UNREACHABLE", str(error))

    def pause_writing(self) -> None:
        """Give the relay no more credit: the app is slow."""
        self._sink_paused = True

    def resume_writing(self) -> None:
        """Go on after :meth:`pause_writing`."""
        self._sink_paused = False
        self._grant()

    # --- inside

    def _grant(self) -> None:
        """Tell the relay that the app has taken what came so far."""
        if self._stalled:
            self._stalled = False
            self._agent.unstall(self)
            due_at = inf if self._responded else self._agent.now() + self._timeout_s
            self._agent.deadlines.set(self, due_at)
        if not self._agent.flow_control:
            self._untaken = 0
        elif self._untaken >= WINDOW_BYTES // 2 and not self._ended:
            credit, self._untaken = self._untaken, 0
            self._agent.send(Window(self.rid, credit, self.lease_id))
        if self._received:
            self._touch()

    def _hold_back(self) -> None:
        """Bound what waits for a slow app."""
        if self._agent.flow_control:
            if self._untaken > 4 * WINDOW_BYTES:
                self._fail_request("the relay sends more than its window")
        elif self._untaken > WINDOW_BYTES and not self._stalled:
            self._stalled = True
            self._agent.stall(self)

    def _touch(self) -> None:
        """Begin to wait for the answer again: the caller or the app is still busy with the body."""
        if not self._responded and not self._stalled:
            self.due_at = self._agent.now() + self._timeout_s

    def _fail_request(self, message: str) -> None:
        """Refuse the request for what the relay sent."""
        if self._responded:
            self.abort("INVALID_REQUEST_BODY", message)
        else:
            self._detach()
            answer(self._agent, self.rid, self.lease_id, 400, "INVALID_REQUEST_BODY", message)

    def _detach(self) -> None:
        """Leave the agent, the link and the app alone from now on."""
        self._agent.forget(self)
        if self._stalled:
            self._agent.unstall(self)
        self._ended = True
        self._body = []
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        else:
            self._origin.withdraw(self)


def _chunk(data: bytes) -> bytes:
    """Return ``data`` as a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
