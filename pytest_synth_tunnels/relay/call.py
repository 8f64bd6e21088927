"""One request under way at the relay, between its caller, its agent and the clock."""

from math import inf
from typing import Final

import msgspec

from .exchange import Exchange
from .failures import Failure, lost, offline, refuse, too_large
from .frames import (
    MAX_WHOLE_BYTES,
    WINDOW_BYTES,
    Cancel,
    Headers,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespHeaders,
    Window,
)
from .head import end_to_end
from .relay import Relay
from .route import Route
from .session import AgentSession

__all__ = ["Call"]

_STALL_S: Final = 10.0
"""How long one slow caller may hold up a whole link that knows no windows."""

_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""What may wait, in the whole relay, of bodies that were read before there was an agent."""

_MAX_MESSAGE: Final = 500

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that may be carried out twice without harm."""

_AGENT_ERRORS: Final = {
    "REQUEST_BODY_TOO_LARGE": (413, "TUNNEL_PAYLOAD_TOO_LARGE"),
    "TOO_MANY_ACTIVE_REQUESTS": (429, "TUNNEL_CAPACITY_EXCEEDED"),
    "TOO_MANY_IN_FLIGHT_REQUESTS": (429, "TUNNEL_CAPACITY_EXCEEDED"),
}
"""What an agent's error codes become; the rest is a 502."""


class Call:
    """One request: takes the caller's side as a :class:`~.exchange.RequestHandler`, the agent's as
    a :class:`~.session.Stream`, and the clock's.

    It is either with an agent, from :meth:`begin`, or waits for one, from :meth:`hold`.

    ``_credit`` is what may still be sent of the request body before the agent takes it; ``_taken``
    what came of the response body and was not yet told to the agent as taken. ``_moved`` says that
    the answer went on since the last look at the clock, which pieces of an answer do not cost.
    ``_kept`` is what came of the body before there was an agent.

    Args:
        exchange: the caller's request.
        relay: where it is under way.
        route: its lease, among whose requests in flight it counts from now on.
        rid: its name.
        path: what the agent sees of its path.
        headers: what the agent sees of its headers.
    """

    __slots__ = (
        "_answered",
        "_credit",
        "_done",
        "_exchange",
        "_frame",
        "_kept",
        "_moved",
        "_relay",
        "_repeated",
        "_request_left",
        "_request_open",
        "_response_left",
        "_session",
        "_stalled",
        "_taken",
        "_timeout_s",
        "due_at",
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
        head = exchange.head
        timeout_s = relay.request_timeout_s
        self.due_at = inf
        self.rid = rid
        self.route = route
        self._exchange = exchange
        self._relay = relay
        self._session: AgentSession | None = None
        self._frame = ReqHeaders(
            lease_id=route.lease_id,
            rid=rid,
            method=head.method,
            path=path,
            query=head.query,
            headers=headers,
            deadline_ms=int(timeout_s * 1000),
        )
        self._timeout_s = timeout_s
        self._kept = b""
        self._repeated = False
        self._answered = False
        self._done = False
        self._moved = False
        self._request_open = True
        self._request_left = route.limits.max_request_bytes
        self._response_left = route.limits.max_response_bytes
        self._credit: float = inf
        self._taken = 0
        self._stalled = False
        route.inflight += 1

    def begin(self, session: AgentSession) -> None:
        """Send the head to the agent, which may answer before this returns."""
        relay = self._relay
        self._session = session
        if session.flow_control:
            self._credit = WINDOW_BYTES
        session.streams[self.rid] = self
        relay.deadlines.set(self, relay.loop.time() + self._timeout_s)
        exchange, frame = self._exchange, self._frame
        if not exchange.head.has_body:
            frame.end = session.whole_messages
            session.link.send(frame, at_once=frame.end and len(session.streams) == 1)
            return
        if session.whole_messages and 0 < exchange.body_at_hand <= MAX_WHOLE_BYTES:
            frame.end = True  # its body comes next, in this same read
        else:
            session.link.send(frame)
        if not self._done:
            exchange.continue_()
            if session.writing_paused:
                exchange.pause_body(keep=not frame.end)

    # Without an agent.

    def hold(self, reason: str = "") -> None:
        """Wait for an agent, if the lease allows that. The body stays with the caller.

        Args:
            reason: why there is none.
        """
        route, relay = self.route, self._relay
        hold_s = min(route.limits.hold_s, self._timeout_s)
        if hold_s <= 0 or len(route.held) >= route.limits.max_held:
            self.fail(offline(reason))
            return
        route.held[self] = None
        relay.deadlines.set(self, relay.loop.time() + hold_s)
        self._exchange.pause_body()

    def release(self, session: AgentSession) -> None:
        """Go on with the agent that has come."""
        self.route.held.pop(self)
        kept = self._take_kept()
        ended = not self._request_open
        self.begin(session)
        if kept:
            self._request_left += len(kept)
            self.body_received(kept)
        if ended:
            self.body_ended()
        elif self._session is session and not session.writing_paused:
            self.resume()

    def lost(self, reason: str, *, cancel: bool) -> None:
        """Wait for the agent to return, once, if what it has got of this request can do no harm
        if it comes again; else end the request.

        Args:
            reason: what became of the agent, for people.
            cancel: it can still be told to drop the request.
        """
        session = self._session
        if self._done or session is None:
            return
        head = self._exchange.head
        if self._answered or self._repeated or head.has_body or head.method not in _SAFE:
            self.fail(lost(reason), cancel=cancel)
            return
        if cancel:
            self._cancel()
        del session.streams[self.rid]
        self._session = None
        self._repeated = True
        # The agent may still answer to the first name, even on its next link.
        self.rid += ".2"
        self._timeout_s = max(self.due_at - self._relay.loop.time(), 0.0)
        self._frame = msgspec.structs.replace(
            self._frame, rid=self.rid, deadline_ms=int(self._timeout_s * 1000)
        )
        self.hold(reason)

    def _keep(self, data: bytes) -> None:
        """Keep what was read of the body before the caller could be stopped."""
        self._relay.held_bytes += len(data)
        self._kept += data
        if self._relay.held_bytes > _MAX_HELD_BYTES:
            self.fail(offline("and too much waits for one already"))

    def _take_kept(self) -> bytes:
        kept, self._kept = self._kept, b""
        self._relay.held_bytes -= len(kept)
        return kept

    # The caller's side.

    def body_received(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._done:
            return
        self._request_left -= len(data)
        if self._request_left < 0:
            self.fail(too_large("request", self.route.limits.max_request_bytes))
            return
        session = self._session
        if session is None:
            self._keep(data)
            return
        self._credit -= len(data)
        if self._credit <= 0:
            self._exchange.pause_body()
        self._progress()
        frame = self._frame
        if frame.end:
            frame.body = data
            session.link.send(frame, at_once=len(session.streams) == 1)
        else:
            session.link.send(ReqBody(self.rid, data, self.route.lease_id))

    def body_ended(self) -> None:
        """Send the end of the body."""
        if not self._done:
            self._request_open = False
            if self._session is not None and not self._frame.end:
                self._session.link.send(ReqEnd(self.rid, self.route.lease_id))

    def aborted(self) -> None:
        """Let the agent drop what nobody waits for."""
        if self._finish():
            self._cancel()

    def pause_writing(self) -> None:
        """Nothing to do: what the caller does not read is not told to the agent as taken."""

    def resume_writing(self) -> None:
        """Tell the agent that the caller has read."""
        session = self._session
        if self._done or session is None:
            return
        self._moved = True
        if self._stalled:
            self._stalled = False
            session.unstall(self)
        if self._taken >= WINDOW_BYTES // 2:
            self._give_credit()

    # The agent's side.

    def response_headers(self, frame: RespHeaders) -> None:
        """Pass the answer's head on, and all the rest if it came with it."""
        if self._answered:
            return
        try:
            headers, length = end_to_end(frame.headers)
            if max(length or 0, len(frame.body)) > self._response_left:
                self.fail(too_large("response", self._response_left))
            elif frame.end:
                self._pass_on(frame, headers, length)
            else:
                self._exchange.start_response(frame.status, headers, length)
                self._answered = True
                self._moved = True
        except ValueError as error:
            self._fail_bad(f"the app's answer cannot travel in HTTP: {error}")

    def _pass_on(self, frame: RespHeaders, headers: Headers, length: int | None) -> None:
        """Answer with all that the agent has sent in one frame."""
        # The head first: nothing of it may be wrong once this call is over.
        answer = self._exchange.prepare(frame.status, headers, length)
        session = self._session
        if self._finish():
            if self._request_open:
                # The rest of the body has no reader any more.
                self._cancel()
            alone = session is not None and not session.streams
            self._exchange.complete(answer, frame.body, at_once=alone)

    def response_body(self, chunk: bytes) -> None:
        """Pass a piece of the answer on."""
        if not self._answered:
            self._fail_bad("the agent sent a body before its headers")
            return
        self._response_left -= len(chunk)
        if self._response_left < 0:
            self.fail(too_large("response", self.route.limits.max_response_bytes))
            return
        self._taken += len(chunk)
        self._exchange.write(chunk)
        if self._done:
            return
        if self._exchange.done:
            # It was longer than announced, and so cut off.
            if self._finish():
                self._cancel()
        elif self._exchange.writable:
            self._moved = True
            if self._taken >= WINDOW_BYTES // 2:
                self._give_credit()
        elif self._taken > WINDOW_BYTES:
            self._hold_back()

    def response_end(self) -> None:
        """End the answer."""
        if not self._answered:
            self._fail_bad("the agent ended an answer that it had not begun")
        elif self._finish():
            if self._request_open:
                # The rest of the body has no reader any more.
                self._cancel()
            self._exchange.end()

    def response_error(self, code: str, message: str) -> None:
        """Tell the caller that the app cannot be reached, or has broken off."""
        status, public_code = _AGENT_ERRORS.get(code, (502, "TUNNEL_ENDPOINT_UNREACHABLE"))
        text = message[:_MAX_MESSAGE] or "the app could not be reached"
        self.fail((status, public_code, text, f"{code[:64]}: {text}"), cancel=False)

    def credit(self, credit_bytes: int) -> None:
        """Send as much more of the body."""
        if credit_bytes > 0:
            self._credit += credit_bytes
            self._progress()
            if self._session is not None and not self._session.writing_paused:
                self.resume()

    def pause(self) -> None:
        """Let the caller wait with the body."""
        self._exchange.pause_body()

    def resume(self) -> None:
        """Let the caller go on with the body."""
        if self._credit > 0:
            self._exchange.resume_body()

    def fail(self, failure: Failure, *, cancel: bool = True) -> None:
        """End the request with an error: as the answer, or else by breaking the answer off."""
        if not self._finish():
            return
        if cancel:
            self._cancel()
        if self._exchange.started:
            self._exchange.abort()
        else:
            refuse(self._exchange, self.rid, failure)

    # The clock's side.

    def expire(self) -> None:
        """Give up waiting, unless the answer has moved since the last look at it."""
        relay = self._relay
        if self._session is None:
            self.fail(offline("waited for one in vain"))
            return
        if self._moved and not self._stalled:
            self._moved = False
            relay.deadlines.set(self, relay.loop.time() + relay.idle_timeout_s)
            return
        seconds = f"{relay.request_timeout_s:g} s"
        message = f"the app did not answer within {seconds} (synth_tunnels_request_timeout_s)"
        self.fail((504, "TUNNEL_TIMEOUT", message, f"timed out: {message}"))

    def _progress(self) -> None:
        """Move the deadline: a piece of the request came, or went."""
        if not self._answered:
            self.due_at = self._relay.loop.time() + self._relay.request_timeout_s
        else:
            self._moved = True

    def _give_credit(self) -> None:
        taken, self._taken = self._taken, 0
        session = self._session
        if session is not None and session.flow_control:
            session.link.send(Window(self.rid, taken, self.route.lease_id))

    def _hold_back(self) -> None:
        """Bound what waits for a caller that does not read."""
        session = self._session
        if session is None:
            return
        if session.flow_control:
            if self._taken > 4 * WINDOW_BYTES:
                self._fail_bad("the agent sends more than its window")
        elif not self._stalled:
            self._stalled = True
            self._relay.deadlines.set(self, self._relay.loop.time() + _STALL_S)
            session.stall(self)

    def _fail_bad(self, message: str) -> None:
        self.fail((502, "TUNNEL_ENDPOINT_UNREACHABLE", message, message))

    def _cancel(self) -> None:
        if self._session is not None:
            self._session.link.send(Cancel(self.rid, self.route.lease_id))

    def _finish(self) -> bool:
        """Leave every register; false if that has happened already."""
        if self._done:
            return False
        self._done = True
        self.route.inflight -= 1
        self._relay.deadlines.forget(self)
        session = self._session
        if session is None:
            self.route.held.pop(self, None)
            self._take_kept()
        else:
            del session.streams[self.rid]
            if self._stalled:
                session.unstall(self)
        return True
