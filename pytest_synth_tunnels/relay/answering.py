"""The way back of one request at the relay: its answer, or what is said instead of one."""

from math import inf
from typing import Final

from ..http.exchange import Exchange
from ..http.headers import end_to_end
from ..http.refusal_log import log_refusal
from ..wire.frames import WINDOW_BYTES, Cancel, Headers, RespHeaders, Window
from .agent_session import AgentSession
from .failures import Failure, refuse, reported, timed_out, too_large, unreachable
from .relay import Relay
from .route import Route
from .waiting import Waiting

__all__ = ["Answering"]

_BODILESS: Final = frozenset({204, 304})
"""Statuses whose answers have no body, whatever length they tell."""

_STALL_S: Final = 10.0
"""How long one slow caller may hold up a whole link that knows no windows."""


class Answering:
    """One half of a :class:`~.proxied_request.ProxiedRequest`: how it ends.

    Args:
        exchange: the caller's request.
        relay: where it is under way.
        route: its lease.
        rid: its name.
    """

    __slots__ = (
        "_answered",
        "_done",
        "_exchange",
        "_moved",
        "_relay",
        "_request_open",
        "_response_left",
        "_session",
        "_stalled",
        "_taken",
        "_waiting",
        "due_at",
        "rid",
        "route",
    )

    def __init__(self, exchange: Exchange, relay: Relay, route: Route, rid: str) -> None:
        self.due_at = inf
        self.rid = rid
        self.route = route
        self._exchange = exchange
        self._relay = relay
        self._session: AgentSession | None = None
        """The agent that has the request."""
        self._waiting: Waiting | None = None
        """Or its wait for one."""
        self._request_open = True
        """Its body is not complete."""
        self._answered = False
        """The answer has begun."""
        self._moved = False
        """It went on since the last look at the clock, which pieces of it do not cost."""
        self._response_left = route.limits.max_response_bytes
        self._taken = 0
        """What came of the response body and was not yet told to the agent as taken."""
        self._stalled = False
        """The link waits for this caller."""
        self._done = False

    # The agent's side.

    def response_headers(self, frame: RespHeaders) -> None:
        """Pass the answer's head on, and all the rest if it came with it."""
        if self._answered:
            return
        try:
            headers, length = end_to_end(frame.headers)
            if max(length or 0, len(frame.body)) > self._response_left and (
                frame.status not in _BODILESS and self._exchange.head.method != "HEAD"
            ):
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
        self.fail(reported(code, message), cancel=False)

    # The caller's side.

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

    # The clock's side.

    def expire(self) -> None:
        """Give up waiting, unless the answer has moved since the last look at it."""
        relay = self._relay
        if self._moved and not self._stalled:
            self._moved = False
            relay.deadlines.set(self, relay.loop.time() + relay.idle_timeout_s)
            return
        self.fail(timed_out(relay.request_timeout_s))

    # Anybody's.

    def fail(self, failure: Failure, *, cancel: bool = True) -> None:
        """End the request with an error: as the answer, or else by breaking the answer off."""
        if not self._finish():
            return
        if cancel:
            self._cancel()
        if self._exchange.started:
            log_refusal(*failure[:2], self.rid, self._exchange.head.peer_host)
            self._exchange.abort()
        else:
            refuse(self._exchange, self.rid, failure)

    def _fail_bad(self, message: str) -> None:
        self.fail(unreachable(message))

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
        if session is not None:
            del session.streams[self.rid]
            if self._stalled:
                session.unstall(self)
        elif self._waiting is not None:
            self._waiting.leave()
        return True

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
