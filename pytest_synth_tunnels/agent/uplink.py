"""The agent's end of its link, as the requests and WebSockets that it carries use it.

An agent has one :class:`Uplink` for its whole life, with a link or without one. While there is no
link nothing is sent and nothing is in flight. What is in flight is listed here by ``rid``, which
is unique on a link: :meth:`Uplink.add` and :meth:`Uplink.forget` are the only ones to change the
list of requests, and with it what counts against a lease's limit.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..aio.clock import clock_of
from ..aio.deadlines import Deadlines, Expiring
from ..http.errors import error_response
from ..http.headers import Headers
from ..http.refusal_log import log_refusal
from ..traffic.recorder import Recorder
from ..wire.flow_control import Pausable
from ..wire.frames import Frame, RelayCapabilities, RespHeaders
from ..wire.link import Link
from .served_leases import ServedLease

if TYPE_CHECKING:
    from ..websocket.tunnelled import TunnelledWebSocket  # Most runs never need the library.

__all__ = ["InflightRequest", "Uplink"]


class InflightRequest(Expiring, Pausable, Protocol):
    """A request on its way to an app. Nothing here may raise or block."""

    __slots__ = ()

    rid: str
    """The request's name on the link."""

    lease: ServedLease
    """The lease against whose limit it counts."""

    started: bool
    """Whether it has asked for a connection to the app."""

    def start(self) -> None:
        """Ask for a connection with what has come of the request so far."""

    def whole(self, body: bytes) -> None:
        """Take the body and the end of the request in one."""

    def body(self, chunk: bytes) -> None:
        """Take a piece of the request's body."""

    def end(self, trailers: Headers) -> None:
        """Take the end of the request, and the trailers behind its body."""

    def caller_ended(self) -> None:
        """Take note that the caller has ended its side of the connection behind the request."""

    def window(self, credit_bytes: int) -> None:
        """Take credit for the response's body."""

    def record(self) -> object:
        """Be recorded, if anything is."""

    def cancel(self) -> None:
        """End the request without a word to the relay, where nobody waits for it."""

    def abort(self, code: str, message: str) -> None:
        """End the request, and tell the relay why."""


class Uplink:
    """Sends frames on the agent's link, and knows what is in flight on it.

    Args:
        loop: the event loop.
        deadlines: wakes up what has waited too long.
        recorder: records what passes; ``None`` to record nothing.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        recorder: Recorder | None = None,
    ) -> None:
        self.loop = loop
        """The event loop."""
        self.deadlines = deadlines
        """Wakes up what has waited too long."""
        self.recorder = recorder
        """Records what passes."""
        self.now: Callable[[], float] = clock_of(loop)
        """Returns the loop's time, in seconds."""
        self.stall_s = 10.0
        """How long one slow app may hold up a link that knows no windows, in seconds."""
        self.flow_control = False
        """Whether the relay knows windows."""
        self.exact_http = False
        """Whether the relay carries a message exactly as it was sent."""
        self.caller_connections = False
        """Whether the relay says which caller's connection a request came on."""
        self.link_paused = False
        """Whether the link takes no bodies now."""
        self.requests: dict[str, InflightRequest] = {}
        """The requests in flight, by rid."""
        self.websockets: dict[str, TunnelledWebSocket] = {}
        """The WebSockets that the link knows, by rid."""
        if recorder is not None:
            recorder.sources.add(self.record_inflight)
        self._link: Link | None = None
        self._held: list[InflightRequest] = []
        """The requests that wait until the end of this tick for more of themselves."""
        self._stalled: set[InflightRequest] = set()
        """The requests for which the link waits."""

    # --- the link

    @property
    def attached(self) -> bool:
        """Whether there is a link."""
        return self._link is not None

    def connect(self, link: Link, capabilities: RelayCapabilities) -> None:
        """Use a link, on which nothing is in flight yet.

        Args:
            link: it belongs to the agent from now on.
            capabilities: what the relay announced in ``ATTACH_ACK``.
        """
        self._link = link
        self.flow_control = capabilities.flow_control
        self.exact_http = capabilities.exact_http
        self.caller_connections = capabilities.caller_connections
        self.link_paused = False

    def disconnect(self) -> Link | None:
        """Stop using the link, and return it."""
        link, self._link = self._link, None
        self.link_paused = False
        return link

    # --- what is sent

    def send(self, frame: Frame, *, at_once: bool = False) -> None:
        """Send a frame, if there is a link (see :meth:`..wire.link.Link.send`)."""
        if self._link is not None:
            self._link.send(frame, at_once=at_once)

    def respond(
        self,
        rid: str,
        lease_id: str,
        status: int,
        headers: Headers,
        body: bytes,
        *,
        close: bool = False,
    ) -> None:
        """Send a whole response of the agent's own.

        Args:
            rid: the request.
            lease_id: the lease that the request came for.
            status: the HTTP status.
            headers: all of them.
            body: all of it.
            close: the caller's connection ends behind it.
        """
        self.send(RespHeaders(rid, status, headers, lease_id, body, end=True, close=close))

    def respond_error(
        self,
        rid: str,
        lease_id: str,
        status: int,
        code: str,
        message: str,
        *,
        head_only: bool = False,
        close: bool = False,
    ) -> None:
        """Send an error of the agent's own as a whole response.

        Args:
            rid: the request.
            lease_id: the lease that the request came for.
            status: the HTTP status.
            code: the stable code (protocol, section 1).
            message: what failed and what to do, for people.
            head_only: the request's method is HEAD, so that the response has no body.
            close: the caller's connection ends behind it.
        """
        log_refusal(status, code, rid)
        _, headers, body = error_response(status, code, message, rid)
        self.respond(rid, lease_id, status, headers, b"" if head_only else body, close=close)

    # --- the requests

    def add(self, request: InflightRequest, due_at: float) -> None:
        """List a request as in flight.

        Args:
            request: it counts against its lease's limit until :meth:`forget`.
            due_at: its deadline, in the loop's time.
        """
        self.requests[request.rid] = request
        request.lease.inflight += 1
        self.deadlines.set(request, due_at)

    def forget(self, request: InflightRequest) -> None:
        """List a request as over. Harmless if it is over already."""
        if self.requests.get(request.rid) is request:
            del self.requests[request.rid]
            request.lease.inflight -= 1
            self.deadlines.forget(request)

    def record_inflight(self) -> None:
        """Record all requests in flight, as far as they have come."""
        for request in list(self.requests.values()):
            request.record()

    def hold(self, request: InflightRequest) -> None:
        """Start a request at the end of this tick of the loop, unless it has started by then."""
        if not self._held:
            self.loop.call_soon(self._start_held)
        self._held.append(request)

    def _start_held(self) -> None:
        held, self._held = self._held, []
        for request in held:
            if not request.started and self.requests.get(request.rid) is request:
                request.start()

    def stall(self, request: InflightRequest) -> None:
        """Let the whole link wait for the slow app of one request, for :attr:`stall_s` at most."""
        if not self._stalled and self._link is not None:
            self._link.pause_reading()
        self._stalled.add(request)
        self.deadlines.set(request, self.now() + self.stall_s)

    def unstall(self, request: InflightRequest) -> None:
        """Let the link go on after :meth:`stall`, unless it waits for other requests too."""
        self._stalled.discard(request)
        if not self._stalled and self._link is not None:
            self._link.resume_reading()
