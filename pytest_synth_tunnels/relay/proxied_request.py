"""One request at the relay, between its caller, its agent and the clock.

The request is in one phase at a time:

====================  ============================================================================
``HELD``              no agent has it; it waits for one among the relay's ``held``
``FORWARDED``         an agent has it; the answer has not begun
``ANSWERING``         the answer's head is written to the caller
``UPLOADING``         the answer is complete, and the app goes on reading the request
``DONE``              it is over, and in no register any more
====================  ============================================================================

Who moves it:

- the ingress, once, after it is made: :meth:`~ProxiedRequest.begin` to ``FORWARDED`` or
  :meth:`~ProxiedRequest.hold` to ``HELD``;
- an agent that comes: ``HELD`` to ``FORWARDED``; an agent that is lost: ``FORWARDED`` back to
  ``HELD``, once, and only where the app may get the request twice without harm;
- the agent's frames: to ``ANSWERING``, and to ``DONE`` with the answer's end or its error;
- the caller that leaves, the deadline, a limit, the lease's end: to ``DONE``.

What always holds: it counts in its route's ``inflight`` until it is ``DONE``; it is in its
session's ``requests`` in the phases ``FORWARDED`` and ``ANSWERING``, and only then has a session;
it has one deadline, which is that of the phase. How much of the request has come
(``_request_open``) is independent of the phase, for an app may answer before it has read all.

What is kept of bodies is bounded: of the request's, a window is on its way to the agent, and the
caller is not read beyond that; of the answer's, a window waits for the caller, and the agent gets
no credit beyond that. An agent that knows no windows sends on: what it sends to a caller that reads
slowly is kept, within the bounds of the relay's :class:`~.slow_readers.SlowReaders`.
"""

from enum import Enum, auto
from math import inf
from typing import Final

import msgspec

from ..aio.deadlines import Expiring
from ..http.exchange import Exchange, RequestHandler
from ..http.headers import Headers, end_to_end
from ..http.refusal_log import log_refusal
from ..http.request import as_ascii
from ..wire.flow_control import ReceiveWindow, SendWindow
from ..wire.frames import (
    CONNECTION_ENDS,
    CONNECTION_RESET,
    MAX_WHOLE_BYTES,
    CallerEof,
    Cancel,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespHeaders,
    RespInterim,
    Window,
)
from .agent_session import AgentSession, CarriedRequest
from .caller_connection import CallerConnection
from .failures import (
    RelayFailure,
    asterisk_unsupported,
    bad_answer,
    lost,
    offline,
    reported,
    timed_out,
    too_large,
    too_slow,
    unreachable,
)
from .relay import Relay
from .route import Route
from .slow_readers import SlowReader

__all__ = ["Phase", "ProxiedRequest"]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that may be carried out twice without harm."""

_BODILESS: Final = frozenset({204, 304})
"""Statuses whose answers have no body, whatever length they tell."""

_MAX_HELD_BYTES = 8 * 1024 * 1024
"""How much of bodies may wait for agents, in the whole relay."""


class Phase(Enum):
    """How far a request is (see the top of this module)."""

    HELD = auto()
    FORWARDED = auto()
    ANSWERING = auto()
    UPLOADING = auto()
    DONE = auto()


# Globals of their own, which cost less: they are looked up several times for each request.
HELD: Final = Phase.HELD
FORWARDED: Final = Phase.FORWARDED
ANSWERING: Final = Phase.ANSWERING
UPLOADING: Final = Phase.UPLOADING
DONE: Final = Phase.DONE


class ProxiedRequest(RequestHandler, CarriedRequest, Expiring, SlowReader):
    """One request: takes the caller's side as a :class:`~..http.exchange.RequestHandler`, the
    agent's as a :class:`~.agent_session.CarriedRequest`, and the clock's as an
    :class:`~..aio.deadlines.Expiring`.

    Args:
        exchange: the caller's request.
        relay: where it is in flight.
        route: its lease, among whose requests in flight it counts from now on.
        rid: its name.
        path: its path, as the agent sees it.
        headers: its headers, as the agent sees them.

    Attributes:
        due_at: the deadline of its phase, in the loop's time.
        rid: its name on the link.
        route: its lease.
    """

    __slots__ = (
        "_caller_ended",
        "_exchange",
        "_frame",
        "_held_body",
        "_held_since",
        "_moved",
        "_phase",
        "_receive_window",
        "_relay",
        "_repeated",
        "_request_left",
        "_request_open",
        "_response_left",
        "_send_window",
        "_session",
        "_timeout_s",
        "rid",
        "route",
    )

    def __init__(
        self,
        exchange: Exchange,
        relay: Relay,
        route: Route,
        rid: str,
        path: str,
        headers: Headers,
    ) -> None:
        head, limits = exchange.head, route.limits
        timeout_s = relay.request_timeout_s
        self.due_at = inf
        self.rid = rid
        self.route = route
        self._exchange = exchange
        self._relay = relay
        self._frame = ReqHeaders(
            lease_id=route.lease_id,
            rid=rid,
            method=head.method,
            path=path,
            query=head.query,
            headers=headers,
            deadline_ms=int(timeout_s * 1000),
        )
        self._phase = HELD
        self._session: AgentSession | None = None
        """The session of the agent that has the request."""
        self._timeout_s = timeout_s
        """How long the agent has, in seconds; less for an agent that gets it again."""
        self._repeated = False
        """An agent that had it was lost; it is not sent a third time."""
        self._request_open = True
        """More of its body is to come, or its end."""
        self._request_left = limits.max_request_bytes
        """How much more of its body the lease allows, in bytes."""
        self._response_left = limits.max_response_bytes
        """How much more of the answer's body the lease allows, in bytes."""
        self._send_window: SendWindow | None = None
        """Of the request's body, if it has one, towards an agent that knows windows."""
        self._receive_window: ReceiveWindow | None = None
        """Of the answer's body, once an answer has begun that does not come whole."""
        self._caller_ended = False
        """The caller has ended its side, and waits for the answer."""
        self._moved = False
        """The answer went on since the last look at the clock. To note this costs less than to
        move the deadline with each piece."""
        self._held_body = b""
        """What came of the body while no agent has it."""
        self._held_since = 0.0
        """When it began to wait for an agent, in the loop's time."""
        route.inflight += 1

    # --- finding an agent

    def begin(self, session: AgentSession) -> None:
        """Send the head to the agent, which may answer before this returns."""
        relay = self._relay
        exchange, frame = self._exchange, self._frame
        head = exchange.head
        if head.path == "*" and not session.exact_http:
            self.fail(asterisk_unsupported())
            return
        self._phase = FORWARDED
        self._session = session
        session.requests[self.rid] = self
        relay.deadlines.set(self, relay.time() + self._timeout_s)
        if session.caller_connections:
            self._tie(session)
        if session.exact_http:
            if head.negotiated:
                frame.negotiated = head.negotiated
            if head.bare_query:
                frame.path = f"{frame.path.removesuffix('?')}?"
        elif not (frame.path.isascii() and frame.query.isascii()):
            frame.path, frame.query = as_ascii(frame.path), as_ascii(frame.query)
        if not head.has_body:
            frame.end = True
            session.link.send(frame, at_once=len(session.requests) == 1)
            return
        if session.exact_http:
            frame.chunked = head.chunked
            exchange.reads_on = True
        if 0 < exchange.body_at_hand <= MAX_WHOLE_BYTES:
            frame.end = True  # its body comes next, in this same read
        else:
            if session.flow_control:
                self._send_window = SendWindow()
            session.link.send(frame)
        if self._phase is not DONE:
            if not session.exact_http:
                exchange.continue_()  # else the app decides whether the body is to come
            if session.writing_paused:
                exchange.pause_body(keep=not frame.end)

    def hold(self, reason: str = "") -> None:
        """Wait for an agent, if the lease allows that. The body stays with the caller.

        Args:
            reason: why there is none.
        """
        relay, route = self._relay, self.route
        hold_s = min(route.limits.hold_s, self._timeout_s)
        if hold_s <= 0 or relay.held.count(route.lease_id) >= route.limits.max_held:
            self.fail(offline(reason))
            return
        self._held_since = relay.time()
        relay.held.add(route.lease_id, self)
        relay.deadlines.set(self, self._held_since + hold_s)
        self._exchange.pause_body()

    def release(self, session: AgentSession) -> None:
        """Go on with the agent that has come (see :class:`~.held_requests.Held`)."""
        body, ended = self._held_body, not self._request_open
        self._leave_held()
        if self._repeated:
            waited_s = self._relay.time() - self._held_since
            self._timeout_s = max(self._timeout_s - waited_s, 0.0)
            self._frame = msgspec.structs.replace(
                self._frame, rid=self.rid, deadline_ms=int(self._timeout_s * 1000)
            )
        self.begin(session)
        if body:
            self.body_received(body)
        if ended:
            self.body_ended()
            if self._caller_ended:
                self.half_closed()
        elif not session.writing_paused:
            self.resume()

    def lost(self, reason: str, *, cancel: bool) -> None:
        """Wait for the agent to return, once, if what it has got of this request can do no harm
        if it comes again; else end the request.

        Args:
            reason: what became of the agent, for people.
            cancel: it can still be told to drop the request.
        """
        session = self._session
        if session is None or self._phase is DONE:
            return
        head = self._exchange.head
        if self._phase is ANSWERING or self._repeated or head.has_body or head.method not in _SAFE:
            self.fail(lost(reason), cancel=cancel)
            return
        if cancel:
            self._cancel()
        del session.requests[self.rid]
        self._session = None
        self._phase = HELD
        self._repeated = True
        # The agent may still answer to the first name, even on its next link.
        self.rid += ".2"
        self._timeout_s = max(self.due_at - self._relay.time(), 0.0)
        self._relay.deadlines.forget(self)
        self.hold(reason)

    # --- the caller's side

    def body_received(self, data: bytes) -> None:
        """Send a piece of the body, or keep it for the agent that comes."""
        if self._phase is DONE:
            return
        session = self._session
        if session is None:
            self._keep(data)
            return
        self._request_left -= len(data)
        if self._request_left < 0:
            self.fail(too_large("request", self.route.limits.max_request_bytes))
            return
        frame = self._frame
        if frame.end:
            frame.body = data
            session.link.send(frame, at_once=len(session.requests) == 1)
            return
        window = self._send_window
        if window is not None and not window.spend(len(data)):
            self._exchange.pause_body()
        self._progress()
        session.link.send(ReqBody(self.rid, data, self.route.lease_id))

    def body_ended(self) -> None:
        """Send the end of the body."""
        if self._phase is not DONE:
            self._request_open = False
            if self._session is not None and not self._frame.end:
                trailers = self._exchange.trailers if self._session.exact_http else []
                self._session.link.send(ReqEnd(self.rid, self.route.lease_id, trailers or None))
            if self._phase is UPLOADING:
                self._finish()

    def half_closed(self) -> bool:
        """Pass the end of the caller's side on to the app, where the agent can do that.

        Returns:
            False to an agent that cannot: most callers that end their side are gone, and the
            agent should drop the request.
        """
        session = self._session
        if session is None:
            self._caller_ended = True  # told to the agent that comes
        elif session.caller_connections:
            self._caller_ended = True
            session.link.send(CallerEof(self.rid, self.route.lease_id))
        return self._caller_ended

    def aborted(self) -> None:
        """Let the agent drop the request: its caller is gone."""
        if self._finish():
            self._cancel()

    def pause_writing(self) -> None:
        """Do nothing: what the caller does not read is not told to the agent as taken."""

    def resume_writing(self) -> None:
        """Tell the agent that the caller has read."""
        session = self._session
        if session is None or self._phase is not ANSWERING:
            return
        self._moved = True
        self._relay.slow_readers.discard(self)
        self._give_credit(session)

    # --- the agent's side: the request

    def credit(self, credit_bytes: int) -> None:
        """Send as much more of the body as the agent has taken."""
        window = self._send_window
        if window is not None and self._request_open and window.grant(credit_bytes):
            self._progress()
            if self._session is not None and not self._session.writing_paused:
                self.resume()

    def pause(self) -> None:
        """Let the caller wait with the body: the link is full."""
        self._exchange.pause_body()

    def resume(self) -> None:
        """Let the caller go on with the body, if there is credit for it."""
        window = self._send_window
        if window is None or window.open:
            self._exchange.resume_body()

    # --- the agent's side: the answer

    def response_interim(self, frame: RespInterim) -> None:
        """Pass an interim response on. It is a sign of life, so the time begins anew."""
        if self._phase is not FORWARDED:
            return
        self._progress()
        try:
            self._exchange.send_interim(frame.status, end_to_end(frame.headers)[0])
        except ValueError as error:
            self.fail(bad_answer(error))

    def response_headers(self, frame: RespHeaders) -> None:
        """Pass the answer's head on, and all the rest if it came with it."""
        if self._phase is not FORWARDED:
            return
        if frame.close:
            self._exchange.close_afterwards()
        try:
            keep_trailer = self._exchange.head.takes_trailers
            headers, length = end_to_end(frame.headers, keep_trailer=keep_trailer)
            left = self._response_left
            if (len(frame.body) > left or (length is not None and length > left)) and (
                frame.status not in _BODILESS and self._exchange.head.method != "HEAD"
            ):
                self.fail(too_large("response", left))
            elif frame.end:
                self._pass_on(frame, headers, length)
            else:
                self._exchange.start_response(frame.status, headers, length, frame.reason)
                self._phase = ANSWERING
                self._receive_window = ReceiveWindow()
                self._moved = True
        except ValueError as error:
            self.fail(bad_answer(error))

    def response_body(self, chunk: bytes) -> None:
        """Pass a piece of the answer on."""
        window, session = self._receive_window, self._session
        if window is None or session is None or self._phase is UPLOADING:
            self.fail(unreachable("the agent sent a body before its headers, or behind its end"))
            return
        self._response_left -= len(chunk)
        if self._response_left < 0:
            self.fail(too_large("response", self.route.limits.max_response_bytes))
            return
        window.take(len(chunk))
        exchange = self._exchange
        exchange.write(chunk)
        if self._phase is DONE:
            return
        if exchange.done:
            # It was longer than announced, and so cut off.
            if self._finish():
                self._cancel()
        elif exchange.writable:
            self._moved = True
            self._give_credit(session)
        elif window.full:
            self._hold_back(session, window)

    def response_end(self, trailers: Headers) -> None:
        """End the answer."""
        if self._phase is not ANSWERING:
            self.fail(unreachable("the agent ended an answer that it had not begun"))
            return
        if self._request_open and self._exchange.reads_on:
            self._exchange.end(trailers)
            if not self._exchange.done:
                self._phase = UPLOADING
                return
        if self._finish():
            if self._request_open:
                # The rest of the request's body has no reader any more.
                self._cancel()
            self._exchange.end(trailers)

    def response_error(self, code: str, message: str) -> None:
        """Tell the caller that the app cannot be reached, or has broken off; or, where the app has
        ended the connection instead of answering, do the same."""
        if self._phase is UPLOADING:
            self._finish()
            self._exchange.abort()
            return
        failure = reported(code, message)
        if code in CONNECTION_ENDS and self._phase is FORWARDED:
            self._finish()
            log_refusal(failure.status, failure.code, self.rid, self._exchange.head.peer_host)
            self._exchange.hang_up(with_reset=code == CONNECTION_RESET)
        else:
            self.fail(failure, cancel=False)

    # --- the clock's side

    def expire(self) -> None:
        """Act on the deadline: give up, unless the answer has moved since the last look at it."""
        relay = self._relay
        if self._phase is HELD:
            self.fail(offline("waited for one in vain"))
        elif self._moved:
            self._moved = False
            relay.deadlines.set(self, relay.time() + relay.idle_timeout_s)
        else:
            self.fail(timed_out(relay.request_timeout_s))

    # --- the end

    def fail(self, failure: RelayFailure, *, cancel: bool = True) -> None:
        """End the request with an error: as the answer, or else by breaking the answer off."""
        if not self._finish():
            return
        if cancel:
            self._cancel()
        self._exchange.reads_on = False
        if self._exchange.started:
            log_refusal(failure.status, failure.code, self.rid, self._exchange.head.peer_host)
            self._exchange.abort()
        else:
            self._relay.refuse(
                self._exchange, self.rid, failure, self.route.lease_id, self._frame.path
            )

    @property
    def unread_bytes(self) -> int:
        """How much of the answer waits for the caller, in bytes (see
        :class:`~.slow_readers.SlowReader`)."""
        return self._exchange.unread_bytes

    def cut_off(self) -> None:
        """End the answer, and forget what waits of it: its caller reads too slowly."""
        if self._finish():
            self._cancel()
            failure = too_slow()
            log_refusal(failure.status, failure.code, self.rid, self._exchange.head.peer_host)
            self._exchange.hang_up(with_reset=True)

    def _finish(self) -> bool:
        """Leave every register; false if that has happened already."""
        if self._phase is DONE:
            return False
        self._phase = DONE
        self.route.inflight -= 1
        session = self._session
        if session is not None:
            self._relay.deadlines.forget(self)
            del session.requests[self.rid]
            if self._receive_window is not None:
                self._relay.slow_readers.discard(self)
        else:
            self._leave_held()
        return True

    # --- inside

    def _tie(self, session: AgentSession) -> None:
        """Say which caller's connection the request came on, unless it is the only one there."""
        exchange, frame = self._exchange, self._frame
        connection = exchange.connection
        if connection is None:
            return
        tied = connection.observer
        if not isinstance(tied, CallerConnection):
            if not exchange.head.keep_alive:
                return
            tied = connection.observer = CallerConnection(self._relay.new_conn(), connection)
        conn = frame.conn = tied.conn
        if conn not in session.tied:
            tied.use(session)
        if not exchange.head.keep_alive:
            frame.close = True

    def _pass_on(self, frame: RespHeaders, headers: Headers, length: int | None) -> None:
        """Answer with all that the agent has sent in one frame."""
        # The head first: nothing of it may be wrong once this call is over.
        if self._request_open:
            self._exchange.reads_on = False  # the agent takes no more of it
        answer = self._exchange.prepare(frame.status, headers, length, frame.reason)
        session = self._session
        if self._finish():
            if self._request_open:
                # The rest of the request's body has no reader any more.
                self._cancel()
            alone = session is not None and not session.requests
            self._exchange.complete(answer, frame.body, at_once=alone)

    def _keep(self, data: bytes) -> None:
        """Keep a piece of the body until an agent comes: it was read before the caller could be
        stopped."""
        held = self._relay.held
        held.body_bytes += len(data)
        self._held_body += data
        limit_bytes = self.route.limits.max_request_bytes
        if len(self._held_body) > limit_bytes:
            self.fail(too_large("request", limit_bytes))
        elif held.body_bytes > _MAX_HELD_BYTES:
            self.fail(offline("and too much waits for one already"))

    def _leave_held(self) -> None:
        """Wait for no agent any more."""
        relay = self._relay
        relay.held.discard(self.route.lease_id, self)
        relay.held.body_bytes -= len(self._held_body)
        self._held_body = b""
        relay.deadlines.forget(self)

    def _progress(self) -> None:
        """Move the deadline: a piece of the request came, or went."""
        if self._phase is FORWARDED:
            self.due_at = self._relay.time() + self._relay.request_timeout_s
        else:
            self._moved = True

    def _cancel(self) -> None:
        """Tell the agent to drop the request, if one has it."""
        if self._session is not None:
            self._session.link.send(Cancel(self.rid, self.route.lease_id))

    def _give_credit(self, session: AgentSession) -> None:
        """Tell the agent what the caller has taken, once that is worth a frame."""
        window = self._receive_window
        if window is not None and window.due:
            credit_bytes = window.credit()
            if session.flow_control:
                session.link.send(Window(self.rid, credit_bytes, self.route.lease_id))

    def _hold_back(self, session: AgentSession, window: ReceiveWindow) -> None:
        """Bound what waits for a caller that does not read."""
        if session.flow_control:
            if window.overrun:
                self.fail(unreachable("the agent sends more than its window"))
        else:
            self._relay.slow_readers.add(self)
