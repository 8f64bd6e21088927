"""How requests fail at the relay, and how a caller is told."""

from typing import Final

from ..http.errors import error_response
from ..http.exchange import IGNORE, Exchange, RequestHandler
from ..http.headers import Headers
from ..http.refusal_log import log_refusal

__all__ = [
    "Failure",
    "lost",
    "offline",
    "over",
    "refuse",
    "reported",
    "rotated",
    "timed_out",
    "too_large",
    "unreachable",
]

_AGENT_OFFLINE: Final = "no agent serves this tunnel now: is the process that opened it alive?"

_UNREACHABLE: Final = "TUNNEL_ENDPOINT_UNREACHABLE"

_MAX_MESSAGE: Final = 500

_AGENT_ERRORS: Final = {
    "REQUEST_BODY_TOO_LARGE": (413, "TUNNEL_PAYLOAD_TOO_LARGE"),
    "TOO_MANY_ACTIVE_REQUESTS": (429, "TUNNEL_CAPACITY_EXCEEDED"),
    "TOO_MANY_IN_FLIGHT_REQUESTS": (429, "TUNNEL_CAPACITY_EXCEEDED"),
}
"""What an agent's error codes become; the rest is a 502."""

Failure = tuple[int, str, str, str]
"""How a request failed: HTTP status, code, message, and the detail in which clients look."""


def offline(reason: str = "") -> Failure:
    """Return the failure that published supervisors recover from."""
    message = f"{_AGENT_OFFLINE} ({reason})" if reason else _AGENT_OFFLINE
    return 503, "AGENT_OFFLINE", message, f"agent_offline: {message}"


def lost(reason: str) -> Failure:
    """Return the failure of a request whose agent was lost, and which may not be sent again."""
    message = (
        "the tunnel's agent was lost while it had this request, which the app may or may not have "
        f"carried out ({reason})"
    )
    return 502, "AGENT_LOST", message, f"agent_offline: {message}"


def over(reason: str) -> Failure:
    """Return the failure of a lease that has ended."""
    message = f"this tunnel is over: {reason}"
    return 410, "TUNNEL_LEASE_EXPIRED", message, f"lease_expired: {message}"


def rotated() -> Failure:
    """Return the failure of who was let in with a worker token that is not in force any more."""
    message = "the worker token was rotated: take the new one"
    return 401, "TUNNEL_AUTH_INVALID", message, message


def refuse(
    exchange: Exchange, rid: str, failure: Failure, headers: Headers | None = None
) -> RequestHandler:
    """Answer with a failure; return who takes what the caller still sends."""
    status, code, message, detail = failure
    log_refusal(status, code, rid, exchange.head.peer_host)
    exchange.respond(*error_response(status, code, message, rid, detail=detail, headers=headers))
    return IGNORE


def too_large(what: str, limit_bytes: int) -> Failure:
    """Return the failure of a body, a request's or a response's, over its limit."""
    message = f"the {what} body is larger than this tunnel's {limit_bytes} bytes"
    return 413, "TUNNEL_PAYLOAD_TOO_LARGE", message, message


def unreachable(message: str, detail: str = "") -> Failure:
    """Return the failure of a request that gets no answer of the app's."""
    return 502, _UNREACHABLE, message, detail or message


def reported(code: str, message: str) -> Failure:
    """Return the failure that an agent tells of."""
    text = message[:_MAX_MESSAGE] or "the app could not be reached"
    status, public_code = _AGENT_ERRORS.get(code, (502, _UNREACHABLE))
    return status, public_code, text, f"{code[:64]}: {text}"


def timed_out(request_timeout_s: float) -> Failure:
    """Return the failure of a request whose answer is not there in time."""
    message = (
        f"the app did not answer within {request_timeout_s:g} s (synth_tunnels_request_timeout_s)"
    )
    return 504, "TUNNEL_TIMEOUT", message, f"timed out: {message}"
