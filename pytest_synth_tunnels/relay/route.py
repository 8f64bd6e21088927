"""What the relay knows of one lease."""

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from ..wire.frames import MAX_WS_MESSAGE_BYTES

if TYPE_CHECKING:
    from .agent_session import AgentSession
    from .failures import Failure

__all__ = ["Held", "Limits", "Route"]


class Held(Protocol):
    """What waits for an agent to come."""

    def release(self, session: "AgentSession") -> None:
        """Go on with the agent that has come. It leaves ``held`` by that."""

    def fail(self, failure: "Failure") -> None:
        """End with an error."""


@dataclass(slots=True)
class Limits:
    """What one lease may use, as advertised with it.

    Attributes:
        max_inflight: requests under way at the same time, those that wait for the agent included.
        max_request_bytes: the largest request body, in bytes.
        max_response_bytes: the largest response body, in bytes.
        max_websocket_streams: WebSockets open at the same time, counted apart from requests.
        max_websocket_message_bytes: the longest message on one of them.
        max_header_bytes: request line and headers together, in bytes.
        max_headers: headers in one request.
        header_timeout_s: from a request's first byte to the end of its headers, in seconds.
        idle_timeout_s: how long a connection may be kept between two requests, in seconds.
        max_unauthenticated_connections: connections, of the whole relay, on which nobody has
            shown a token.
        hold_s: how long requests wait for an agent that is away, in seconds; 0 for not at all.
        max_held: how many may wait so.
    """

    max_inflight: int = 128
    max_request_bytes: int = 1 << 36
    max_response_bytes: int = 1 << 36
    max_websocket_streams: int = 64
    max_websocket_message_bytes: int = MAX_WS_MESSAGE_BYTES
    max_header_bytes: int = 65_536
    max_headers: int = 128
    header_timeout_s: float = 15.0
    idle_timeout_s: float = 75.0
    max_unauthenticated_connections: int = 1_024
    hold_s: float = 5.0
    max_held: int = 128


@dataclass(slots=True, eq=False)
class Route:
    """One lease's way through the relay. The backend makes it and may change its first part.

    Attributes:
        lease_id: the lease.
        route_token: the path segment after ``/s/`` by which callers name it; no secret. Empty
            where :attr:`prefix` is given.
        agent_token: what an agent must show to serve it.
        worker_token: what a caller must show; ``None`` where knowing the URL is enough.
            :meth:`.relay.Relay.rotate_worker` replaces it.
        expires_at: when the lease ends, in unix seconds.
        public_base_url: the origin under which callers reach the relay.
        limits: what the lease may use.
        require_token: false where callers pass without the worker token; one that they send all
            the same still never reaches the app.
        prefix: the path of the public URL, ``/s/{route_token}`` unless given; empty for a route
            whose callers come by other paths (:meth:`.relay.Relay.lead`).
        whole_path: the agent gets a caller's path with the prefix.
        closed: the lease is over. Set by :meth:`.relay.Relay.close`.
        closed_because: why, as the end of a sentence.
        session: the agent that serves it now, or ``None``. The relay's own.
        inflight: requests under way. The relay's own.
        websockets: WebSockets open, or being opened. The relay's own.
        held: those of both that wait for an agent, oldest first. The relay's own.
        last_seen_at: when an agent was last known to be attached, in unix seconds.
    """

    lease_id: str
    route_token: str
    agent_token: str = field(repr=False)
    worker_token: str | None = field(default=None, repr=False)
    expires_at: float = inf
    public_base_url: str = ""
    limits: Limits = field(default_factory=Limits)
    require_token: bool = True
    prefix: str = ""
    whole_path: bool = False
    closed: bool = False
    closed_because: str = field(default="it was closed", init=False)
    session: "AgentSession | None" = field(default=None, init=False, repr=False)
    inflight: int = field(default=0, init=False)
    websockets: int = field(default=0, init=False)
    held: dict[Held, None] = field(default_factory=dict, init=False, repr=False)
    last_seen_at: float | None = field(default=None, init=False)
    forwarded: list[tuple[str, str]] = field(init=False, repr=False)
    """Headers that every request of this lease gets."""

    def __post_init__(self) -> None:
        if self.route_token:
            self.prefix = f"/s/{self.route_token}"
        self.forwarded = []
        if not self.whole_path:
            base = urlsplit(self.public_base_url).path.rstrip("/")
            self.forwarded.append(("x-forwarded-prefix", base + self.prefix))
        self.forwarded.append(("x-synthtunnel-lease-id", self.lease_id))

    @property
    def connected(self) -> bool:
        """Whether an agent is attached."""
        return self.session is not None

    @property
    def public_url(self) -> str:
        """Where callers reach the app."""
        return f"{self.public_base_url}{self.prefix}"
