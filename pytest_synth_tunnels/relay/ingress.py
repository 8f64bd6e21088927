"""The public side of the relay: a caller's HTTP request into frames, and the answer back."""

from urllib.parse import urlsplit

from ..http.exchange import Exchange, RequestHandler, Router
from ..http.headers import Headers
from ..http.request import RequestHead
from .auth import AuthError, admit, same_secret
from .failures import (
    not_admitted,
    offline,
    over,
    too_large,
    too_many_requests,
    unknown,
    upgrade_unsupported,
)
from .proxied_request import ProxiedRequest
from .relay import OWN_PATH, Relay
from .route import Route

__all__ = ["Ingress"]


class Ingress:
    """Answers what callers ask of tunnels (a :data:`~..http.exchange.Router`).

    Args:
        relay: knows the routes and the agents.
        elsewhere: answers what names no route; by default that is refused.
        behind_edge: callers come through a provider's edge, on the route's public URL, and the
            edge says who they are, in ``X-Forwarded-`` headers.
    """

    def __init__(
        self, relay: Relay, elsewhere: Router | None = None, *, behind_edge: bool = False
    ) -> None:
        self._relay = relay
        self._elsewhere = elsewhere or self.refuse_unknown
        self._behind_edge = behind_edge

    def __call__(self, exchange: Exchange) -> RequestHandler:
        path = exchange.head.path
        # A route's prefix has two segments.
        end = path.find("/", path.find("/", 1) + 1)
        route = self._relay.by_prefix(path if end < 0 else path[:end])
        if route is None:
            return self._elsewhere(exchange)
        return self.forward(exchange, route, "/" if end < 0 else path[end:])

    def at_origin(self, exchange: Exchange, route: Route, address: str) -> RequestHandler:
        """Bring a request that came to the root of an origin of its own to the agent of a route.

        Args:
            exchange: the request.
            route: the route that the origin belongs to.
            address: the address of the lease that the origin stands for; empty for the lease
                itself. The agent finds it at the beginning of the path.
        """
        path = exchange.head.path
        route = self._relay.by_lease(route.lease_id) or route
        if route.origin_prefix:
            end = path.find("/", 1)
            shown, path = (path, "/") if end < 0 else (path[:end], path[end:])
            if not same_secret(shown, route.origin_prefix):
                return self.refuse_unknown(exchange)
        return self.forward(exchange, route, f"/~{address}{path}" if address else path, root=True)

    def refuse_unknown(self, exchange: Exchange) -> RequestHandler:
        """Answer a request that names no route with 404."""
        return self._relay.refuse(exchange, self._relay.new_rid(), unknown())

    def refuse_over(self, exchange: Exchange, reason: str) -> RequestHandler:
        """Answer a request with 410.

        Args:
            exchange: the request.
            reason: why there is nothing any more, as the end of a sentence.
        """
        return self._relay.refuse(exchange, self._relay.new_rid(), over(reason))

    def forward(
        self, exchange: Exchange, route: Route, rest: str, *, root: bool = False
    ) -> RequestHandler:
        """Bring a request to the agent of a route.

        Args:
            exchange: the request.
            route: the route that it belongs to.
            rest: its path without the route's prefix.
            root: the caller used the root of an origin, so that there is no prefix.
        """
        head = exchange.head
        relay = self._relay
        rid = relay.new_rid()
        if route.closed:
            return relay.refuse(exchange, rid, over(route.closed_because), route.lease_id, rest)
        try:
            headers, chains = admit(head, route.worker_token, require_token=route.require_token)
        except AuthError as error:
            failure = not_admitted(error.code, str(error))
            return relay.refuse(exchange, rid, failure, route.lease_id, rest)
        host, scheme = head.host, "https" if head.secure else "http"
        peer = head.peer_host
        if self._behind_edge:
            host, scheme = _public_as_seen_by_edge(head, route, scheme)
        headers += route.forwarded_at_root if root else route.forwarded
        headers += (
            ("x-synthtunnel-request-id", rid),
            ("x-forwarded-host", host),
            ("x-forwarded-proto", scheme),
            ("x-forwarded-for", peer),
        )
        if chains:
            element = _forwarded_element(peer, host, scheme)
            # An edge has added its own element, and what is behind it is this machine.
            headers[-1:] = _chains(chains, peer, element, extend=not self._behind_edge)
        path = head.path if route.whole_path else rest
        if head.upgrade:
            if head.upgrade != "websocket":
                failure = upgrade_unsupported(head.upgrade)
                return relay.refuse(exchange, rid, failure, route.lease_id, rest)
            # Most runs have no WebSockets, and never need the library for them.
            from .proxied_websocket import open_websocket

            return open_websocket(exchange, relay, route, rid, path, headers)
        limits = route.limits
        if head.content_length > limits.max_request_bytes:
            failure = too_large("request", limits.max_request_bytes)
            return relay.refuse(exchange, rid, failure, route.lease_id, rest)
        if route.inflight >= limits.max_inflight:
            failure = too_many_requests(limits.max_inflight)
            return relay.refuse(exchange, rid, failure, route.lease_id, rest)
        session = relay.sessions.get(route.lease_id)
        if session is None and OWN_PATH in rest:
            return relay.refuse(exchange, rid, offline(), route.lease_id, rest)
        request = ProxiedRequest(exchange, relay, route, rid, path, headers)
        if session is not None:
            request.begin(session)
        else:
            request.hold()
        return request


def _public_as_seen_by_edge(head: RequestHead, route: Route, scheme: str) -> tuple[str, str]:
    """Return the public host and the scheme as a provider's edge tells them.

    The host is the route's own: an edge passes on what a caller claims of it.
    """
    said = head.get("x-forwarded-proto")
    return (
        urlsplit(route.public_base_url).netloc,
        said if said in ("http", "https") else scheme,
    )


def _chains(told: Headers, peer: str, element: str, *, extend: bool) -> Headers:
    """Return the chain of proxies on the way to the app, as ``X-Forwarded-For`` and ``Forwarded``.

    Args:
        told: what the caller says of it.
        peer: the address that the request came from.
        element: the same as an element of ``Forwarded`` (RFC 7239).
        extend: the caller's chains do not name the peer yet.
    """
    chains: Headers = []
    names_peer = False
    for name, value in told:
        is_list = name.lower() == "x-forwarded-for"
        names_peer = names_peer or is_list
        if extend:
            added = peer if is_list else element
            value = f"{value}, {added}" if value else added
        chains.append((name, value))
    if not names_peer:
        chains.append(("x-forwarded-for", peer))
    return chains


def _forwarded_element(peer: str, host: str, scheme: str) -> str:
    node = f'"[{peer}]"' if ":" in peer else peer
    quoted = host.replace("\\", "\\\\").replace('"', '\\"')
    return f'for={node};host="{quoted}";proto={scheme}'
