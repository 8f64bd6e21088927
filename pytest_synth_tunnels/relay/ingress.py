"""The public side of the relay: a caller's HTTP request into frames, and the answer back."""

from typing import Final

from .admission import NotAdmitted, admit
from .call import Call, refuse, too_large
from .exchange import Exchange, RequestHandler
from .relay import Relay, offline, over

__all__ = ["PREFIX", "Ingress"]

PREFIX: Final = "/s/"
"""Below it lie the tunnels: ``/s/{route_token}/path``."""

_READINESS: Final = "/__synth/"
"""In paths that ask whether the tunnel is up, now."""


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
            return refuse(exchange, rid, (404, "TUNNEL_NOT_FOUND", message, message))
        if route.closed:
            return refuse(exchange, rid, over(route.closed_because))
        try:
            headers = admit(head, route)
        except NotAdmitted as error:
            failure = 401, error.code, str(error), str(error)
            return refuse(exchange, rid, failure, [("WWW-Authenticate", "Bearer")])
        headers += route.forwarded
        headers += (
            ("x-synthtunnel-request-id", rid),
            ("x-forwarded-host", head.host),
            ("x-forwarded-proto", "https" if head.secure else "http"),
            ("x-forwarded-for", head.peer_host),
        )
        path = slash + rest or "/"
        if head.upgrade:
            # Most runs have none, and never need the WebSocket library.
            from .stream import open_stream

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
        call = Call(exchange, relay, route, rid, path, headers)
        if session is not None:
            call.begin(session)
        else:
            call.hold()
        return call
