"""One request under way at the relay, between its caller, its agent and the clock."""

from math import inf
from typing import Final

import msgspec

from ..http.exchange import Exchange
from ..wire.frames import MAX_WHOLE_BYTES, WINDOW_BYTES, Headers, ReqBody, ReqEnd, ReqHeaders
from .agent_session import AgentSession
from .answering import Answering
from .failures import lost, offline, too_large
from .relay import Relay
from .route import Route
from .waiting import Waiting

__all__ = ["ProxiedRequest"]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that may be carried out twice without harm."""


class ProxiedRequest(Answering):
    """One request: takes the caller's side as a :class:`~..http.exchange.RequestHandler`, the
    agent's as a :class:`~.agent_session.Stream`, and the clock's.

    It is either with an agent, from :meth:`begin`, or waits for one, from :meth:`hold`, which is
    all in its :class:`~.waiting.Waiting`. ``_credit`` is what may still be sent of the request body
    before the agent takes it.

    Args:
        exchange: the caller's request.
        relay: where it is under way.
        route: its lease, among whose requests in flight it counts from now on.
        rid: its name.
        path: what the agent sees of its path.
        headers: what the agent sees of its headers.
    """

    __slots__ = ("_credit", "_frame", "_repeated", "_request_left", "_timeout_s")

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
        super().__init__(exchange, relay, route, rid)
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
        self._repeated = False
        self._request_left = route.limits.max_request_bytes
        self._credit: float = inf
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
        route = self.route
        hold_s = min(route.limits.hold_s, self._timeout_s)
        if hold_s <= 0 or len(route.held) >= route.limits.max_held:
            self.fail(offline(reason))
            return
        self._waiting = Waiting(self, self._relay, route, hold_s)
        self._exchange.pause_body()

    def begin_again(self, session: AgentSession, body: bytes, waited_s: float) -> None:
        """Go on with the agent that has come.

        Args:
            session: the agent's.
            body: what has come of it meanwhile.
            waited_s: how long that took, in seconds.
        """
        self._waiting = None
        ended = not self._request_open
        if self._repeated:
            self._timeout_s = max(self._timeout_s - waited_s, 0.0)
            self._frame = msgspec.structs.replace(
                self._frame, rid=self.rid, deadline_ms=int(self._timeout_s * 1000)
            )
        self.begin(session)
        if body:
            self.body_received(body)
        if ended:
            self.body_ended()
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
        if self._done or session is None:
            return
        head = self._exchange.head
        if self._answered or self._repeated or head.has_body or head.method not in _SAFE:
            self.fail(lost(reason), cancel=cancel)
            return
        if cancel:
            self._cancel()
        del session.streams[self.rid]
        self._relay.deadlines.forget(self)
        self._session = None
        self._repeated = True
        # The agent may still answer to the first name, even on its next link.
        self.rid += ".2"
        self._timeout_s = max(self.due_at - self._relay.loop.time(), 0.0)
        self.hold(reason)

    # The caller's side.

    def body_received(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._done:
            return
        session = self._session
        if session is None:
            if self._waiting is not None:
                self._waiting.keep(data)
            return
        self._request_left -= len(data)
        if self._request_left < 0:
            self.fail(too_large("request", self.route.limits.max_request_bytes))
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

    # The agent's side.

    def credit(self, credit_bytes: int) -> None:
        """Send as much more of the body as the agent has taken."""
        taken = min(credit_bytes, WINDOW_BYTES - self._credit)
        if taken > 0 and self._request_open:
            self._credit += taken
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

    def _progress(self) -> None:
        """Move the deadline: a piece of the request came, or went."""
        if not self._answered:
            self.due_at = self._relay.loop.time() + self._relay.request_timeout_s
        else:
            self._moved = True
