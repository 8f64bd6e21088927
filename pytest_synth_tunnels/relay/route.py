"""What the relay knows of one lease: plain data.

Who serves a lease now, and which requests wait for somebody to, is the
:class:`~.relay.Relay`'s to know.
"""

from dataclasses import dataclass, field
from math import inf
from urllib.parse import urlsplit

from ..wire.frames import MAX_WS_MESSAGE_BYTES

__all__ = ["Limits", "Route"]


@dataclass(slots=True)
class Limits:
    """What one lease may use, as advertised with it.

    Attributes:
        max_inflight: requests in flight at the same time, those that wait for an agent included.
        max_request_bytes: the largest request body, in bytes.
        max_response_bytes: the largest response body, in bytes.
        max_websocket_streams: WebSockets open at the same time, counted apart from requests.
        max_websocket_message_bytes: the longest message on one of them.
        max_header_bytes: request line and headers together, in bytes.
        max_headers: headers in one request.
        header_timeout_s: from a request's first byte to the end of its headers, in seconds.
        idle_timeout_s: how long a connection may be kept between two requests, in seconds.
        max_unauthenticated_connections: connections, of the whole relay, on which nobody has
            shown a token. More than the requests that a lease may ask to have in flight: all its
            callers may connect in a moment in which the relay reads none of them.
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
    max_unauthenticated_connections: int = 2_048
    hold_s: float = 5.0
    max_held: int = 128


@dataclass(slots=True, eq=False)
class Route:
    """One lease's way through the relay. The backend makes it.

    Attributes:
        lease_id: the lease.
        route_token: the path segment after ``/s/`` by which callers name it; no secret. Empty
            where :attr:`prefix` is given.
        agent_token: what an agent must show to serve it.
            :meth:`.relay.Relay.rotate_agent` replaces it.
        worker_token: what a caller must show; ``None`` where knowing the URL is enough.
            :meth:`.relay.Relay.rotate_worker` replaces it.
        expires_at: when the lease ends, in unix seconds. The backend may move it.
        public_base_url: the origin under which callers reach the relay.
        limits: what the lease may use.
        require_token: false where callers pass without the worker token; one that they send all
            the same still never reaches the app.
        prefix: the path of the public URL, ``/s/{route_token}`` unless given; empty for a route
            whose callers come by other paths (:meth:`.relay.Relay.alias_prefix`).
        whole_path: the agent gets a caller's path with the prefix.
        origin_prefix: the path that requests to the lease's origins must begin with, such as
            ``/u_x``, where knowing it is what lets callers in; empty where it is not.
        closed: the lease is over. :meth:`.relay.Relay.close` sets it.
        closed_because: why, as the end of a sentence.
        inflight: how many requests are in flight; the requests count themselves.
        websockets: how many WebSockets are open or being opened; they count themselves.
        connected: an agent serves it now; the relay sets it.
        last_seen_at: when an agent was last known to be attached, in unix seconds; the relay
            sets it.
        forwarded: headers that every request of this lease gets.
        forwarded_at_root: those of a request that came to the root of an origin.
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
    origin_prefix: str = field(default="", repr=False)
    closed: bool = False
    closed_because: str = field(default="it was closed", init=False)
    inflight: int = field(default=0, init=False)
    websockets: int = field(default=0, init=False)
    connected: bool = field(default=False, init=False)
    last_seen_at: float | None = field(default=None, init=False)
    forwarded: list[tuple[str, str]] = field(init=False, repr=False)
    forwarded_at_root: list[tuple[str, str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.route_token:
            self.prefix = f"/s/{self.route_token}"
        self.forwarded = []
        if not self.whole_path:
            base = urlsplit(self.public_base_url).path.rstrip("/")
            self.forwarded.append(("x-forwarded-prefix", base + self.prefix))
        self.forwarded_at_root = [("x-synthtunnel-lease-id", self.lease_id)]
        self.forwarded += self.forwarded_at_root

    @property
    def public_url(self) -> str:
        """Where callers reach the app."""
        return f"{self.public_base_url}{self.prefix}"
