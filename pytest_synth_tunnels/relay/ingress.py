"""The public side of the relay: a caller's HTTP request into frames, and the answer back."""

from typing import Final
from urllib.parse import urlsplit

from ..http.exchange import Exchange, RequestHandler
from ..http.request import RequestHead
from .auth import AuthError, admit
from .failures import offline, over, refuse, too_large
from .proxied_request import ProxiedRequest
from .relay import Relay
from .route import Route

__all__ = ["Ingress"]

_READINESS: Final = "/__synth/"
"""In paths that ask whether the tunnel is up, now."""


class Ingress:
    """Answers what callers ask of tunnels (a :data:`~..http.exchange.Router`).

    Args:
        relay: knows the routes and the agents.
        behind_edge: callers come through a provider's edge, on the route's public URL, and the
            edge says who they are, in ``X-Forwarded-`` headers.
    """

    def __init__(self, relay: Relay, *, behind_edge: bool = False) -> None:
        self._relay = relay
        self._behind_edge = behind_edge

    def __call__(self, exchange: Exchange) -> RequestHandler:
        path = exchange.head.path
        # A route's prefix has two segments.
        end = path.find("/", path.find("/", 1) + 1)
        route = self._relay.by_prefix(path if end < 0 else path[:end])
        if route is None:
            message = "no tunnel has this URL: check its path, or create a lease"
            failure = 404, "TUNNEL_NOT_FOUND", message, message
            return refuse(exchange, self._relay.new_rid(), failure)
        return self.forward(exchange, route, "/" if end < 0 else path[end:])

    def forward(self, exchange: Exchange, route: Route, rest: str) -> RequestHandler:
        """Bring a request to the agent of a route.

        Args:
            exchange: the request.
            route: whose it is.
            rest: its path without the route's prefix.
        """
        head = exchange.head
        relay = self._relay
        rid = relay.new_rid()
        if route.closed:
            return refuse(exchange, rid, over(route.closed_because))
        try:
            headers = admit(head, route)
        except AuthError as error:
            failure = 401, error.code, str(error), str(error)
            return refuse(exchange, rid, failure, [("WWW-Authenticate", "Bearer")])
        host, scheme = head.host, "https" if head.secure else "http"
        peer = head.peer_host
        if self._behind_edge:
            host, scheme, peer = _seen_by_edge(head, route, scheme, peer)
        headers += route.forwarded
        headers += (
            ("x-synthtunnel-request-id", rid),
            ("x-forwarded-host", host),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-for", peer),
        )
        path = head.path if route.whole_path else rest
        if head.upgrade:
            # Most runs have none, and never need the WebSocket library.
            from .proxied_websocket import open_stream

            return open_stream(exchange, relay, route, rid, path, headers)
        limits = route.limits
        if head.content_length > limits.max_request_bytes:
            return refuse(exchange, rid, too_large("request", limits.max_request_bytes))
        if route.inflight >= limits.max_inflight:
            message = f"more than {limits.max_inflight} requests at a time through this tunnel"
            failure = 429, "TUNNEL_CAPACITY_EXCEEDED", message, message
            return refuse(exchange, rid, failure, [("Retry-After", "1")])
        session = route.session
        if session is None and _READINESS in rest:
            return refuse(exchange, rid, offline())
        call = ProxiedRequest(exchange, relay, route, rid, path, headers)
        if session is not None:
            call.begin(session)
        else:
            call.hold()
        return call


def _seen_by_edge(head: RequestHead, route: Route, scheme: str, peer: str) -> tuple[str, str, str]:
    """Return the public host, the scheme and the caller's address, as far as an edge says them.

    Not the host: edges pass on what a caller claims of it, and the route knows it.
    """
    said = head.get("x-forwarded-proto")
    return (
        urlsplit(route.public_base_url).netloc,
        said if said in ("http", "https") else scheme,
        head.get("x-forwarded-for") or peer,
    )
