"""The relay's end of one agent's link: whose answer a frame is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..http.refusal_log import log_refusal
from ..wire.flow_control import FairResume, Pausable
from ..wire.frames import (
    Attach,
    AttachAck,
    Frame,
    FrameError,
    RelayCapabilities,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
    WsClose,
    WsFrame,
    WsOpenAck,
    WsOpenReject,
)
from ..wire.link import Link
from .auth import same_secret
from .failures import Failure, unreachable
from .route import Route

if TYPE_CHECKING:
    from .relay import Relay

__all__ = ["AgentSession", "Carried", "Stream", "WebSocket"]

_MAX_MESSAGE: Final = 500


class Carried(Pausable, Protocol):
    """What a session carries for a caller."""

    route: Route

    def credit(self, credit_bytes: int) -> None:
        """Take the agent's leave to send more."""

    def lost(self, reason: str, *, cancel: bool) -> None:
        """Do without the agent: wait for its return, or end.

        Args:
            reason: what became of it, for people.
            cancel: it can still be told.
        """

    def fail(self, failure: Failure, *, cancel: bool = True) -> None:
        """End with an error.

        Args:
            failure: what to tell the caller.
            cancel: tell the agent too.
        """


class Stream(Carried, Protocol):
    """One request under way."""

    def response_headers(self, frame: RespHeaders) -> None:
        """Take the beginning of the answer, or all of it."""

    def response_body(self, chunk: bytes) -> None:
        """Take a piece of the answer."""

    def response_end(self) -> None:
        """Take the end of the answer."""

    def response_error(self, code: str, message: str) -> None:
        """Take the agent's word that there is no answer, or no end of it."""


class WebSocket(Carried, Protocol):
    """One WebSocket, open or being opened."""

    def take(self, frame: WsOpenAck | WsOpenReject | WsFrame | WsClose) -> None:
        """Take what the agent says of it."""


class AgentSession:
    """One agent's link, the relay's end of it (a :class:`~..wire.link.LinkHandler`).

    Attributes:
        link: what it sends on.
        streams: the requests under way, by rid.
        websockets: the WebSockets under way, by rid.
        websocket: the agent carries WebSockets.
        flow_control: the agent knows windows.
        whole_messages: the agent takes a whole request in one frame.
        writing_paused: the link takes no bodies now.
    """

    def __init__(self, relay: "Relay", link: Link, agent_token: str) -> None:
        self.link = link
        self.streams: dict[str, Stream] = {}
        self.websockets: dict[str, WebSocket] = {}
        self.websocket = False
        self.flow_control = False
        self.whole_messages = False
        self.writing_paused = False
        self._relay = relay
        self._agent_token = agent_token
        self._routes: list[Route] = []
        self._stalled: set[object] = set()
        """Requests whose callers read too slowly, where only the whole link can be paused."""
        self._turns = FairResume(
            relay.loop, self.streams, self.websockets, lambda: self.writing_paused
        )
        self._takes: dict[type[Any], Callable[[Any], None]] = {
            RespHeaders: self._response_headers,
            RespBody: self._response_body,
            RespEnd: self._response_end,
            RespError: self._response_error,
            Window: self._window,
            WsFrame: self._websocket,
            WsClose: self._websocket,
            WsOpenAck: self._websocket,
            WsOpenReject: self._websocket,
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
        relay = self._relay
        self.flow_control = frame.capabilities.flow_control
        self.whole_messages = frame.capabilities.whole_messages
        self.websocket = frame.capabilities.websocket
        accepted = []
        for lease in frame.leases:
            route = relay.by_lease(lease.lease_id)
            if (
                route is None
                or route.closed
                or not same_secret(self._agent_token, route.agent_token)
            ):
                continue
            accepted.append(route.lease_id)
            previous = route.session
            if previous is self:
                continue
            if previous is not None:
                previous.detach(route, None, "another agent took over")
            route.session = self
            route.last_seen_at = relay.now()
            self._routes.append(route)
            if route.held:
                # Behind the acknowledgement, which comes first on the link.
                relay.loop.call_soon(self._release, route)
        return AttachAck(
            agent_id=frame.agent_id or "agent",
            accepted_leases=accepted,
            capabilities=RelayCapabilities(self.flow_control, self.whole_messages),
        )

    def detach(self, route: Route, failure: Failure | None, reason: str) -> None:
        """Take a route away from this agent.

        Args:
            route: one that it serves.
            failure: how the route's requests under way end; ``None`` if another agent may go on
                with them.
            reason: why; told to the agent if that was its last route, whose link then closes.
        """
        self._routes.remove(route)
        route.session = None
        route.last_seen_at = self._relay.now()
        for stream in self._carried():
            if stream.route is not route:
                continue
            if failure is None:
                stream.lost(reason, cancel=True)
            else:
                stream.fail(failure)
        if not self._routes:
            self.link.close(1001, reason)

    def fail_websockets(self, route: Route, failure: Failure) -> None:
        """End a route's WebSockets, and leave its requests alone."""
        for websocket in list(self.websockets.values()):
            if websocket.route is route:
                websocket.fail(failure)

    def _release(self, route: Route) -> None:
        """Take what has waited for an agent of this route."""
        while route.held and route.session is self:
            next(iter(route.held)).release(self)

    def frame_received(self, frame: Frame) -> None:
        """Take one frame; one for a request that is over is dropped."""
        take = self._takes.get(type(frame))
        if take is not None:
            take(frame)

    def _response_headers(self, frame: RespHeaders) -> None:
        stream = self.streams.get(frame.rid)
        if stream is not None:
            stream.response_headers(frame)

    def _response_body(self, frame: RespBody) -> None:
        stream = self.streams.get(frame.rid)
        if stream is not None:
            stream.response_body(frame.chunk)

    def _response_end(self, frame: RespEnd) -> None:
        stream = self.streams.get(frame.rid)
        if stream is not None:
            stream.response_end()

    def _response_error(self, frame: RespError) -> None:
        stream = self.streams.get(frame.rid)
        if stream is not None:
            stream.response_error(frame.code, frame.message)
        else:
            self._websocket_failed(frame.rid, frame.message)

    def _window(self, frame: Window) -> None:
        carried = self.streams.get(frame.rid) or self.websockets.get(frame.rid)
        if carried is not None:
            carried.credit(frame.credit_bytes)

    def _websocket(self, frame: WsOpenAck | WsOpenReject | WsFrame | WsClose) -> None:
        websocket = self.websockets.get(frame.rid)
        if websocket is not None:
            websocket.take(frame)

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
        stream = self.streams.get(error.rid)
        if stream is not None:
            stream.fail(unreachable(message, f"LOCAL_BAD_RESPONSE: {message}"))
        else:
            self._websocket_failed(error.rid, message)

    def link_lost(self, reason: str) -> None:
        """Leave the routes without an agent, and end what was under way."""
        routes, self._routes = self._routes, []
        for route in routes:
            route.session = None
            route.last_seen_at = self._relay.now()
        for stream in self._carried():
            stream.lost("its connection was lost", cancel=False)

    def pause_writing(self) -> None:
        """Let all bodies wait."""
        self.writing_paused = True
        self._turns.pause()

    def resume_writing(self) -> None:
        """Let them go on."""
        self.writing_paused = False
        self._turns.resume()

    def _carried(self) -> list[Carried]:
        """Return all that is under way."""
        return [*self.streams.values(), *self.websockets.values()]

    def _websocket_failed(self, rid: str, message: str) -> None:
        """End the WebSocket of that name, if there is one."""
        websocket = self.websockets.get(rid)
        if websocket is not None:
            message = message[:_MAX_MESSAGE] or "the app could not be reached"
            websocket.fail((502, "TUNNEL_ENDPOINT_UNREACHABLE", message, message))

    def stall(self, stream: object) -> None:
        """Pause the whole link for one slow caller, as long as its agent knows no windows."""
        if not self._stalled:
            self.link.pause_reading()
        self._stalled.add(stream)

    def unstall(self, stream: object) -> None:
        """Go on when the last slow caller has read, or is gone."""
        if stream in self._stalled:
            self._stalled.discard(stream)
            if not self._stalled:
                self.link.resume_reading()
