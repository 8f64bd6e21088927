"""The relay's end of one agent's link: it brings each frame to the request that it belongs to.

A session begins with the agent's ``ATTACH``: it then serves those leases that the agent's token is
for, each until a newer agent takes it over, the lease or its token ends, or the link is lost. A
frame names its request by rid; one that names none in flight is dropped, for agents go on sending
after a ``CANCEL`` (protocol, section 3).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from ..http.headers import Headers
from ..http.refusal_log import log_refusal
from ..wire.flow_control import FairResume, Pausable
from ..wire.frames import (
    Attach,
    AttachAck,
    ConnClosed,
    Frame,
    FrameError,
    RelayCapabilities,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    RespInterim,
    Window,
    WsClose,
    WsFrame,
    WsOpenAck,
    WsOpenReject,
)
from ..wire.link import Link, LinkHandler
from .auth import same_secret
from .failures import RelayFailure, unreachable, websocket_failed
from .route import Route

__all__ = [
    "AgentSession",
    "Carried",
    "CarriedRequest",
    "CarriedWebSocket",
    "RouteLookup",
    "TiedConnection",
]


class Carried(Pausable, Protocol):
    """A caller's request or WebSocket that a session carries."""

    __slots__ = ()

    route: Route

    def credit(self, credit_bytes: int) -> None:
        """Send as many more bytes to the agent, which has taken as many."""

    def lost(self, reason: str, *, cancel: bool) -> None:
        """Wait for the agent's return, or end: the agent is lost.

        Args:
            reason: what became of the agent, for people.
            cancel: the agent can still be told to drop it.
        """

    def fail(self, failure: RelayFailure, *, cancel: bool = True) -> None:
        """End with an error.

        Args:
            failure: what to tell the caller.
            cancel: tell the agent to drop it too.
        """


class CarriedRequest(Carried, Protocol):
    """One request in flight, as its session sees it."""

    __slots__ = ()

    def response_interim(self, frame: RespInterim) -> None:
        """Take an interim response, which comes before the answer."""

    def response_headers(self, frame: RespHeaders) -> None:
        """Take the beginning of the answer, or all of it."""

    def response_body(self, chunk: bytes) -> None:
        """Take a piece of the answer."""

    def response_end(self, trailers: Headers) -> None:
        """Take the end of the answer, and the trailers behind its body."""

    def response_error(self, code: str, message: str) -> None:
        """Take the agent's word that there is no answer, or no end of it."""


class CarriedWebSocket(Carried, Protocol):
    """One WebSocket, open or being opened, as its session sees it."""

    def take(self, frame: WsOpenAck | WsOpenReject | WsFrame | WsClose) -> None:
        """Take a frame of the agent's."""


class TiedConnection(Protocol):
    """A caller's connection for which the agent may hold connections to apps."""

    def app_closed(self, session: "AgentSession") -> None:
        """The agent holds nothing for it any more: the app has closed its connection."""

    def session_lost(self, session: "AgentSession") -> None:
        """The agent is lost, with all that it held."""


class RouteLookup(Protocol):
    """The register of routes and sessions, as a session sees it: the :class:`~.relay.Relay`."""

    loop: asyncio.AbstractEventLoop
    shared_connections: bool

    def by_lease(self, lease_id: str) -> Route | None:
        """Return a lease's route; one whose time is over is closed first."""

    def session_began(self, route: Route, session: "AgentSession") -> None:
        """Lead a route's requests to this session, instead of another one."""

    def session_ended(self, route: Route) -> None:
        """Lead a route's requests nowhere until another session begins."""


class AgentSession(LinkHandler):
    """One agent's link, the relay's end of it (a :class:`~..wire.link.LinkHandler`).

    Args:
        routes: knows the routes, and which session serves which.
        link: what the session sends on.
        agent_token: what the agent showed when it connected.

    Attributes:
        link: what the session sends on.
        requests: the requests in flight, by rid.
        websockets: the WebSockets open or being opened, by rid.
        tied: the callers' connections that the agent may hold something for, by name.
        websocket: the agent carries WebSockets.
        flow_control: the agent knows windows.
        caller_connections: the agent ties its connections to those of the callers.
        exact_http: the agent carries a message exactly as it was sent.
        writing_paused: the link takes no bodies now.
    """

    def __init__(self, routes: RouteLookup, link: Link, agent_token: str) -> None:
        self.link = link
        self.requests: dict[str, CarriedRequest] = {}
        self.websockets: dict[str, CarriedWebSocket] = {}
        self.tied: dict[str, TiedConnection] = {}
        self.websocket = False
        self.flow_control = False
        self.caller_connections = False
        self.exact_http = False
        self.writing_paused = False
        self._lookup = routes
        self._agent_token = agent_token
        self._routes: list[Route] = []
        """What this agent serves."""
        self._resumer = FairResume(
            routes.loop, self.requests, self.websockets, lambda: self.writing_paused
        )
        self._takes: dict[type[Any], Callable[[Any], None]] = {
            RespInterim: self._response_interim,
            RespHeaders: self._response_headers,
            RespBody: self._response_body,
            RespEnd: self._response_end,
            RespError: self._response_error,
            Window: self._window,
            WsFrame: self._websocket,
            WsClose: self._websocket,
            WsOpenAck: self._websocket,
            WsOpenReject: self._websocket,
            ConnClosed: self._connection_closed,
            Attach: self._attach,
        }

    @property
    def attached(self) -> bool:
        """Whether the agent serves any lease."""
        return bool(self._routes)

    def attach(self, frame: Attach) -> AttachAck:
        """Let the agent serve those of the leases it names that its token is for.

        An agent that served one of them before is cut off from it: the newer one is the one
        that reconnected.

        Returns:
            What to answer; ``accepted_leases`` is empty if the agent may serve nothing.
        """
        self.flow_control = frame.capabilities.flow_control
        self.exact_http = frame.capabilities.exact_http
        self.websocket = frame.capabilities.websocket
        self.caller_connections = (
            frame.capabilities.caller_connections and not self._lookup.shared_connections
        )
        accepted = []
        for lease in frame.leases:
            route = self._lookup.by_lease(lease.lease_id)
            if (
                route is None
                or route.closed
                or not same_secret(self._agent_token, route.agent_token)
            ):
                continue
            accepted.append(route.lease_id)
            if route not in self._routes:
                self._lookup.session_began(route, self)
                self._routes.append(route)
        return AttachAck(
            agent_id=frame.agent_id or "agent",
            accepted_leases=accepted,
            capabilities=RelayCapabilities(
                flow_control=self.flow_control,
                whole_messages=frame.capabilities.whole_messages,
                caller_connections=self.caller_connections,
                exact_http=self.exact_http,
            ),
        )

    def detach(self, route: Route, failure: RelayFailure | None, reason: str) -> None:
        """Take a route away from this agent.

        Args:
            route: one that it serves.
            failure: how the route's requests in flight end; ``None`` if another agent may go on
                with them.
            reason: why; told to the agent if that was its last route, whose link then closes.
        """
        self._routes.remove(route)
        self._lookup.session_ended(route)
        for carried in self._carried():
            if carried.route is not route:
                continue
            if failure is None:
                carried.lost(reason, cancel=True)
            else:
                carried.fail(failure)
        if not self._routes:
            self._untie()
            self.link.close(1001, reason)

    def fail_websockets(self, route: Route, failure: RelayFailure) -> None:
        """End a route's WebSockets, and leave its requests alone."""
        for websocket in list(self.websockets.values()):
            if websocket.route is route:
                websocket.fail(failure)

    def frame_received(self, frame: Frame) -> None:
        """Take one frame; one for a request that is over is dropped."""
        take = self._takes.get(type(frame))
        if take is not None:
            take(frame)

    def _response_interim(self, frame: RespInterim) -> None:
        request = self.requests.get(frame.rid)
        if request is not None:
            request.response_interim(frame)

    def _response_headers(self, frame: RespHeaders) -> None:
        request = self.requests.get(frame.rid)
        if request is not None:
            request.response_headers(frame)

    def _response_body(self, frame: RespBody) -> None:
        request = self.requests.get(frame.rid)
        if request is not None:
            request.response_body(frame.chunk)

    def _response_end(self, frame: RespEnd) -> None:
        request = self.requests.get(frame.rid)
        if request is not None:
            request.response_end(frame.trailers or [])

    def _response_error(self, frame: RespError) -> None:
        request = self.requests.get(frame.rid)
        if request is not None:
            request.response_error(frame.code, frame.message)
        else:
            self._websocket_failed(frame.rid, frame.message)

    def _window(self, frame: Window) -> None:
        carried = self.requests.get(frame.rid) or self.websockets.get(frame.rid)
        if carried is not None:
            carried.credit(frame.credit_bytes)

    def _websocket(self, frame: WsOpenAck | WsOpenReject | WsFrame | WsClose) -> None:
        websocket = self.websockets.get(frame.rid)
        if websocket is not None:
            websocket.take(frame)

    def _connection_closed(self, frame: ConnClosed) -> None:
        tied = self.tied.get(frame.conn)
        if tied is not None:
            tied.app_closed(self)

    def _attach(self, frame: Attach) -> None:
        self.link.send(self.attach(frame))
        if not self._routes:
            log_refusal(1008, "NO_SUCH_LEASE", "an agent")
            self.link.close(1008, "no such lease for this token")

    def frame_failed(self, error: FrameError) -> None:
        """Fail the one request that a malformed frame names. The agent may still be at it."""
        log_refusal(502, "BAD_FRAME", "a frame of an agent")
        if error.rid is None:
            return
        message = f"the agent sent a bad frame: {error}"
        request = self.requests.get(error.rid)
        if request is not None:
            request.fail(unreachable(message, f"LOCAL_BAD_RESPONSE: {message}"))
        else:
            self._websocket_failed(error.rid, message)

    def link_lost(self, reason: str) -> None:
        """Leave the routes without an agent, and end what was in flight."""
        routes, self._routes = self._routes, []
        for route in routes:
            self._lookup.session_ended(route)
        for carried in self._carried():
            carried.lost("its connection was lost", cancel=False)
        self._untie()

    def pause_writing(self) -> None:
        """Let all bodies wait."""
        self.writing_paused = True
        self._resumer.pause()

    def resume_writing(self) -> None:
        """Let them go on."""
        self.writing_paused = False
        self._resumer.resume()

    def _carried(self) -> list[Carried]:
        """Return everything in flight."""
        return [*self.requests.values(), *self.websockets.values()]

    def _untie(self) -> None:
        """Leave the callers' connections without what the agent held for them."""
        tied = list(self.tied.values())
        self.tied.clear()
        for connection in tied:
            connection.session_lost(self)

    def _websocket_failed(self, rid: str, message: str) -> None:
        """End the WebSocket of that name, if there is one."""
        websocket = self.websockets.get(rid)
        if websocket is not None:
            websocket.fail(websocket_failed(message))
