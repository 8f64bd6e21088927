"""The relay's end of one caller's WebSocket."""

from typing import Final

from ..http.exchange import Exchange, RequestHandler
from ..http.headers import Headers
from ..http.request import as_ascii
from ..websocket.protocols import CallerProtocol
from ..websocket.tunnelled import TunnelledWebSocket
from ..websocket.upgrade import check_request, request_headers, switching, without_framing
from ..wire.frames import Frame, WsClose, WsFrame, WsOpen, WsOpenAck, WsOpenReject
from ..wire.handshake import HandshakeError
from .agent_session import AgentSession
from .failures import (
    RelayFailure,
    bad_answer,
    bad_handshake,
    lost,
    not_opened,
    offline,
    too_many_websockets,
    unreachable,
    websockets_unsupported,
)
from .relay import Relay
from .route import Route

__all__ = ["ProxiedWebSocket", "open_websocket"]

_AGENT_LOST: Final = 1012
_FAILED: Final = 1011
_CLOSE_CODES: Final = {401: 1008, 410: 1001}
"""What a failure's HTTP status is on a WebSocket that is open, if not ``_FAILED``."""


def open_websocket(
    exchange: Exchange, relay: Relay, route: Route, rid: str, path: str, headers: Headers
) -> RequestHandler:
    """Bring a caller's upgrade to the agent, or refuse it.

    Args:
        exchange: the caller's request.
        relay: where it came.
        route: its lease.
        rid: its name.
        path: its path, as the agent sees it.
        headers: what is left of its headers for the app.

    Returns:
        The handler that takes what the caller sends as long as the answer is open.
    """
    head, limits = exchange.head, route.limits
    try:
        accept = check_request(head.method, head.headers)
    except HandshakeError as error:
        failure = bad_handshake(error.status, str(error), error.headers)
        return relay.refuse(exchange, rid, failure, route.lease_id, path)
    if route.websockets >= limits.max_websocket_streams:
        failure = too_many_websockets(limits.max_websocket_streams)
        return relay.refuse(exchange, rid, failure, route.lease_id, path)
    websocket = ProxiedWebSocket(
        exchange, relay, route, rid, accept, path, request_headers(headers)
    )
    session = relay.sessions.get(route.lease_id)
    if session is not None:
        websocket.begin(session)
    else:
        websocket.hold()
    return websocket


class ProxiedWebSocket(TunnelledWebSocket):
    """One caller's WebSocket: takes the caller's side as a
    :class:`~..http.exchange.RequestHandler` and then as a protocol, the agent's as a
    :class:`~.agent_session.CarriedWebSocket`.

    Args:
        exchange: the caller's request.
        relay: the relay that the caller has asked.
        route: its lease, among whose WebSockets it counts from now on.
        rid: its name.
        accept: completes the caller's handshake.
        path: what the agent sees of its path.
        headers: what the agent sees of its headers.
    """

    peer_gone = "the caller is gone"

    def __init__(
        self,
        exchange: Exchange,
        relay: Relay,
        route: Route,
        rid: str,
        accept: str,
        path: str,
        headers: Headers,
    ) -> None:
        max_bytes = route.limits.max_websocket_message_bytes
        super().__init__(
            rid,
            route.lease_id,
            CallerProtocol(max_bytes),
            loop=relay.loop,
            deadlines=relay.deadlines,
            ends=relay.ends,
            max_message_bytes=max_bytes,
        )
        self.route = route
        self._exchange = exchange
        self._relay = relay
        self._accept = accept
        self._session: AgentSession | None = None
        self._frame = WsOpen(
            rid=rid,
            path=path,
            query=exchange.head.query,
            headers=headers,
            deadline_ms=int(relay.request_timeout_s * 1000),
            lease_id=route.lease_id,
        )
        route.websockets += 1

    def begin(self, session: AgentSession) -> None:
        """Ask the agent, which may answer before this returns."""
        frame = self._frame
        if not session.exact_http:
            frame.path, frame.query = as_ascii(frame.path), as_ascii(frame.query)
        if not session.websocket:
            self.fail(websockets_unsupported())
            return
        relay = self._relay
        self._session = session
        self._use(flow_control=session.flow_control, link_paused=session.writing_paused)
        session.websockets[self.rid] = self
        relay.deadlines.set(self, relay.time() + relay.request_timeout_s)
        if session.exact_http and self._exchange.head.bare_query:
            self._frame.path = f"{self._frame.path.removesuffix('?')}?"
        session.link.send(self._frame)

    # Without an agent (as :class:`~.held_requests.Held`).

    def hold(self) -> None:
        """Wait for an agent, if the lease allows that."""
        route, relay = self.route, self._relay
        hold_s = min(route.limits.hold_s, relay.request_timeout_s)
        if hold_s <= 0 or relay.held.count(route.lease_id) >= route.limits.max_held:
            self.fail(offline())
            return
        relay.held.add(route.lease_id, self)
        relay.deadlines.set(self, relay.time() + hold_s)

    def release(self, session: AgentSession) -> None:
        """Go on with the agent that has come."""
        self._relay.held.discard(self.route.lease_id, self)
        self.begin(session)

    # The caller's side, until it is open.

    def body_received(self, data: bytes) -> None:
        """Nothing to do: a handshake has no body."""

    def body_ended(self) -> None:
        """Nothing to do."""

    def half_closed(self) -> bool:
        """Take a caller that ends its side for gone: it cannot speak on a WebSocket any more."""
        return False

    def aborted(self) -> None:
        """Let the agent drop what nobody waits for."""
        self.end(_FAILED, self.peer_gone)

    # The agent's side.

    def take(self, frame: WsOpenAck | WsOpenReject | WsFrame | WsClose) -> None:
        """Act on a frame. What comes out of turn is dropped."""
        if isinstance(frame, WsFrame):
            self.message(frame)
        elif isinstance(frame, WsClose):
            if self.opened:
                self.end(frame.code, frame.reason, tell=False)
            else:
                self.fail(unreachable("the agent closed it before it was open"), cancel=False)
        elif self.opened:
            return
        elif isinstance(frame, WsOpenAck):
            self._open(frame.headers)
        else:
            self._reject(frame)

    def lost(self, reason: str, *, cancel: bool) -> None:
        """End it: what was said on the way is lost with the agent."""
        if self.opened:
            self.end(_AGENT_LOST, f"the tunnel's agent was lost: {reason}", tell=cancel)
        else:
            self.fail(lost(reason), cancel=cancel)

    def fail(self, failure: RelayFailure, *, cancel: bool = True) -> None:
        """End it with an error: as the answer, or with a close code."""
        if self.over:
            return
        self.end(_CLOSE_CODES.get(failure.status, _FAILED), failure.message, tell=cancel)
        if not self.opened:
            self._refuse(failure)

    # The clock's side.

    def expire(self) -> None:
        """Give up waiting for the app."""
        if self.opened:
            super().expire()
            return
        if self._session is None:
            self.fail(offline("waited for one in vain"))
            return
        self.fail(not_opened(self._relay.request_timeout_s))

    # Inside.

    def _refuse(self, failure: RelayFailure) -> None:
        """Answer the caller with a failure."""
        relay, path = self._relay, self._frame.path
        relay.refuse(self._exchange, self.rid, failure, self.route.lease_id, path)

    def _open(self, headers: Headers) -> None:
        """Complete the caller's handshake."""
        try:
            head = switching(self._accept, headers)
        except ValueError as error:
            self.fail(bad_answer(error))
            return
        self._relay.deadlines.forget(self)
        self.opened = True
        transport, received = self._exchange.upgrade()
        transport.write(head)
        self.adopt(transport, received)

    def _reject(self, frame: WsOpenReject) -> None:
        """Pass the app's refusal on."""
        if self._leave():
            try:
                headers = without_framing(frame.headers)
                self._exchange.respond(frame.status, headers, frame.body, frame.reason)
            except ValueError as error:
                self._refuse(bad_answer(error))

    def _send(self, frame: Frame) -> None:
        if self._session is not None:
            self._session.link.send(frame)

    def _forget(self) -> None:
        self.route.websockets -= 1
        if self._session is not None:
            del self._session.websockets[self.rid]
        else:
            self._relay.held.discard(self.route.lease_id, self)
