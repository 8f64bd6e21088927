"""The public side of the relay: a caller's HTTP request into frames, and the answer back."""

from math import inf
from typing import Final

from .admission import NotAdmitted, admit
from .exchange import IGNORE, Exchange, RequestHandler
from .frames import (
    WINDOW_BYTES,
    Cancel,
    Headers,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespHeaders,
    Window,
)
from .head import end_to_end, error_response
from .relay import AgentSession, Failure, Relay, offline, over
from .route import Route

__all__ = ["PREFIX", "Ingress"]

PREFIX: Final = "/s/"
"""Below it lie the tunnels: ``/s/{route_token}/path``."""

_STALL_S: Final = 10.0
"""How long one slow caller may hold up a whole link that knows no windows."""

_MAX_MESSAGE: Final = 500

_AGENT_ERRORS: Final = {
    "REQUEST_BODY_TOO_LARGE": (413, "TUNNEL_PAYLOAD_TOO_LARGE"),
    "TOO_MANY_ACTIVE_REQUESTS": (429, "TUNNEL_CAPACITY_EXCEEDED"),
    "TOO_MANY_IN_FLIGHT_REQUESTS": (429, "TUNNEL_CAPACITY_EXCEEDED"),
}
"""What an agent's error codes become; the rest is a 502."""


class Ingress:
    """Answers what is asked below :data:`PREFIX` (a :data:`~.exchange.Router`).

    Args:
        relay: knows the routes and the agents.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def __call__(self, exchange: Exchange) -> RequestHandler:
        head = exchange.head
        token, slash, rest = head.path[len(PREFIX) :].partition("/")
        relay = self._relay
        route = relay.by_token(token)
        rid = relay.new_rid()
        if route is None:
            message = "no tunnel has this URL: check the path after /s/, or create a lease"
            return _refuse(exchange, rid, (404, "TUNNEL_NOT_FOUND", message, message))
        if route.closed:
            return _refuse(exchange, rid, over(route.closed_because))
        try:
            headers = admit(head, route)
        except NotAdmitted as error:
            failure = 401, error.code, str(error), str(error)
            return _refuse(exchange, rid, failure, [("WWW-Authenticate", "Bearer")])
        if head.upgrade:
            message = "this tunnel carries no WebSockets"
            return _refuse(exchange, rid, (501, "WEBSOCKET_UNSUPPORTED", message, message))
        limits = route.limits
        if head.content_length > limits.max_request_bytes:
            return _refuse(exchange, rid, _too_large("request", limits.max_request_bytes))
        session = route.session
        if session is None:
            return _refuse(exchange, rid, offline())
        if route.inflight >= limits.max_inflight:
            message = f"more than {limits.max_inflight} requests at a time through this tunnel"
            failure = 429, "TUNNEL_CAPACITY_EXCEEDED", message, message
            return _refuse(exchange, rid, failure, [("Retry-After", "1")])
        headers += route.forwarded
        headers += (
            ("x-synthtunnel-request-id", rid),
            ("x-forwarded-host", head.host),
            ("x-forwarded-proto", "https" if head.secure else "http"),
            ("x-forwarded-for", head.peer_host),
        )
        call = _Call(exchange, relay, route, session, rid)
        call.begin(slash + rest or "/", headers)
        return call


class _Call:
    """One request under way: takes the caller's side as a :class:`~.exchange.RequestHandler`, the
    agent's as a :class:`~.relay.Stream`, and the clock's.

    ``_credit`` is what may still be sent of the request body before the agent takes it; ``_taken``
    what came of the response body and was not yet told to the agent as taken. ``_moved`` says that
    the answer went on since the last look at the clock, which pieces of an answer do not cost.
    """

    __slots__ = (
        "_answered",
        "_credit",
        "_done",
        "_exchange",
        "_moved",
        "_relay",
        "_request_left",
        "_request_open",
        "_response_left",
        "_session",
        "_stalled",
        "_taken",
        "due_at",
        "rid",
        "route",
    )

    def __init__(
        self, exchange: Exchange, relay: Relay, route: Route, session: AgentSession, rid: str
    ) -> None:
        self.due_at = inf
        self.rid = rid
        self.route = route
        self._exchange = exchange
        self._relay = relay
        self._session = session
        self._answered = False
        self._done = False
        self._moved = False
        self._request_open = True
        self._request_left = route.limits.max_request_bytes
        self._response_left = route.limits.max_response_bytes
        self._credit: float = WINDOW_BYTES if session.flow_control else inf
        self._taken = 0
        self._stalled = False

    def begin(self, path: str, headers: Headers) -> None:
        """Send the head to the agent, which may answer before this returns."""
        relay = self._relay
        session = self._session
        head = self._exchange.head
        self.route.inflight += 1
        session.streams[self.rid] = self
        timeout_s = relay.request_timeout_s
        relay.deadlines.set(self, relay.loop.time() + timeout_s)
        session.link.send(
            ReqHeaders(
                lease_id=self.route.lease_id,
                rid=self.rid,
                method=head.method,
                path=path,
                query=head.query,
                headers=headers,
                deadline_ms=int(timeout_s * 1000),
            )
        )
        if head.has_body and not self._done:
            self._exchange.continue_()
            if session.writing_paused:
                self._exchange.pause_body()

    # The caller's side.

    def body_received(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._done:
            return
        self._request_left -= len(data)
        if self._request_left < 0:
            self.fail(_too_large("request", self.route.limits.max_request_bytes))
            return
        self._credit -= len(data)
        if self._credit <= 0:
            self._exchange.pause_body()
        self._progress()
        self._session.link.send(ReqBody(self.rid, data, self.route.lease_id))

    def body_ended(self) -> None:
        """Send the end of the body."""
        if not self._done:
            self._request_open = False
            self._session.link.send(ReqEnd(self.rid, self.route.lease_id))

    def aborted(self) -> None:
        """Let the agent drop what nobody waits for."""
        if self._finish():
            self._cancel()

    def pause_writing(self) -> None:
        """Nothing to do: what the caller does not read is not told to the agent as taken."""

    def resume_writing(self) -> None:
        """Tell the agent that the caller has read."""
        if self._done:
            return
        self._moved = True
        if self._stalled:
            self._stalled = False
            self._session.unstall(self)
        if self._taken >= WINDOW_BYTES // 2:
            self._give_credit()

    # The agent's side.

    def response_headers(self, frame: RespHeaders) -> None:
        """Pass the answer's head on."""
        if self._answered:
            return
        try:
            headers, length = end_to_end(frame.headers)
            if length is not None and length > self._response_left:
                self.fail(_too_large("response", self._response_left))
                return
            self._exchange.start_response(frame.status, headers, length)
        except ValueError as error:
            self._fail_bad(f"the app's answer cannot travel in HTTP: {error}")
            return
        self._answered = True
        self._moved = True

    def response_body(self, chunk: bytes) -> None:
        """Pass a piece of the answer on."""
        if not self._answered:
            self._fail_bad("the agent sent a body before its headers")
            return
        self._response_left -= len(chunk)
        if self._response_left < 0:
            self.fail(_too_large("response", self.route.limits.max_response_bytes))
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
        elif self._taken > WINDOW_BYTES and not self._session.flow_control and not self._stalled:
            self._stalled = True
            self._relay.deadlines.set(self, self._relay.loop.time() + _STALL_S)
            self._session.stall(self)

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
            if not self._session.writing_paused:
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
            _refuse(self._exchange, self.rid, failure)

    # The clock's side.

    def expire(self) -> None:
        """Give up waiting, unless the answer has moved since the last look at it."""
        relay = self._relay
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
        if self._session.flow_control:
            self._session.link.send(Window(self.rid, taken, self.route.lease_id))

    def _fail_bad(self, message: str) -> None:
        self.fail((502, "TUNNEL_ENDPOINT_UNREACHABLE", message, message))

    def _cancel(self) -> None:
        self._session.link.send(Cancel(self.rid, self.route.lease_id))

    def _finish(self) -> bool:
        """Leave every register; false if that has happened already."""
        if self._done:
            return False
        self._done = True
        del self._session.streams[self.rid]
        self.route.inflight -= 1
        self._relay.deadlines.forget(self)
        if self._stalled:
            self._session.unstall(self)
        return True


def _refuse(
    exchange: Exchange, rid: str, failure: Failure, headers: Headers | None = None
) -> RequestHandler:
    status, code, message, detail = failure
    exchange.respond(*error_response(status, code, message, rid, detail=detail, headers=headers))
    return IGNORE


def _too_large(what: str, limit_bytes: int) -> Failure:
    message = f"the {what} body is larger than this tunnel's {limit_bytes} bytes"
    return 413 if what == "request" else 502, "TUNNEL_PAYLOAD_TOO_LARGE", message, message
