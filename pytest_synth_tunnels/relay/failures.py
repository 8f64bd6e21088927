"""How requests fail at the relay, and how a caller is told.

Every failure that a caller can see is made here, so that one cause has one status, one code and
one text.
"""

import re
from typing import Final, NamedTuple

from ..http.errors import error_response
from ..http.exchange import IGNORE, Exchange, RequestHandler
from ..http.headers import Headers
from ..http.refusal_log import log_refusal

__all__ = [
    "RelayFailure",
    "asterisk_unsupported",
    "bad_answer",
    "bad_handshake",
    "lost",
    "not_admitted",
    "not_opened",
    "offline",
    "over",
    "refuse",
    "reported",
    "rotated",
    "timed_out",
    "too_large",
    "too_many_requests",
    "too_many_websockets",
    "too_slow",
    "unknown",
    "unreachable",
    "upgrade_unsupported",
    "websocket_failed",
    "websockets_unsupported",
]

_AGENT_OFFLINE: Final = "no agent serves this tunnel now: is the process that opened it alive?"

_UNREACHABLE: Final = "TUNNEL_ENDPOINT_UNREACHABLE"
_TIMEOUT: Final = "TUNNEL_TIMEOUT"
_FULL: Final = "TUNNEL_CAPACITY_EXCEEDED"

_MAX_MESSAGE: Final = 500

_AGENT_ERRORS: Final = {
    "REQUEST_BODY_TOO_LARGE": (413, "TUNNEL_PAYLOAD_TOO_LARGE"),
    "TOO_MANY_ACTIVE_REQUESTS": (429, _FULL),
    "TOO_MANY_IN_FLIGHT_REQUESTS": (429, _FULL),
}
"""What an agent's error codes become; the rest is a 502."""

_PLAIN: Final = re.compile(r"[\w./+-]{1,40}", re.ASCII)
_RETRY_SOON: Final = ("Retry-After", "1")


class RelayFailure(NamedTuple):
    """How a request failed.

    Attributes:
        status: the HTTP status of the answer.
        code: the stable code (protocol, section 1).
        message: for people: what failed, and what to do.
        detail: the text in which clients look for words such as ``agent_offline``; ``message``
            where it is empty.
        headers: further headers of the answer.
        recorded: the agent has recorded it, so that the relay need not.
    """

    status: int
    code: str
    message: str
    detail: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    recorded: bool = False


def refuse(exchange: Exchange, rid: str, failure: RelayFailure) -> RequestHandler:
    """Answer a request with a failure.

    Args:
        exchange: the request, no answer to which has begun.
        rid: its id, which the answer and the log name.
        failure: what the answer says.

    Returns:
        The handler that takes what the caller still sends.
    """
    status, code, message, detail, headers, _ = failure
    log_refusal(status, code, rid, exchange.head.peer_host)
    exchange.respond(
        *error_response(status, code, message, rid, detail=detail or message, headers=[*headers])
    )
    return IGNORE


# Before a request has an agent.


def unknown() -> RelayFailure:
    """Return the failure of a request whose URL names no lease."""
    return RelayFailure(
        404,
        "TUNNEL_NOT_FOUND",
        "no tunnel has this URL: check its path, or create a lease",
    )


def not_admitted(code: str, message: str) -> RelayFailure:
    """Return the failure of a caller without the lease's worker token."""
    return RelayFailure(401, code, message, headers=(("WWW-Authenticate", "Bearer"),))


def rotated() -> RelayFailure:
    """Return the failure of a caller whose worker token has been replaced meanwhile."""
    return RelayFailure(
        401, "TUNNEL_AUTH_INVALID", "the worker token was rotated: take the new one"
    )


def over(reason: str) -> RelayFailure:
    """Return the failure of a request to a lease that has ended.

    Args:
        reason: why, as the end of a sentence.
    """
    message = f"this tunnel is over: {reason}"
    return RelayFailure(410, "TUNNEL_LEASE_EXPIRED", message, f"lease_expired: {message}")


def too_many_requests(limit: int) -> RelayFailure:
    """Return the failure of a request beyond the lease's ``max_inflight``."""
    message = f"more than {limit} requests at a time through this tunnel"
    return RelayFailure(429, _FULL, message, headers=(_RETRY_SOON,))


def too_many_websockets(limit: int) -> RelayFailure:
    """Return the failure of a WebSocket beyond the lease's ``max_websocket_streams``."""
    message = f"more than {limit} WebSockets through this tunnel"
    return RelayFailure(503, _FULL, message, headers=(_RETRY_SOON,))


def too_large(what: str, limit_bytes: int) -> RelayFailure:
    """Return the failure of a body that is over its limit.

    Args:
        what: ``request`` or ``response``.
        limit_bytes: the limit, in bytes.
    """
    message = f"the {what} body is larger than this tunnel's {limit_bytes} bytes"
    return RelayFailure(413, "TUNNEL_PAYLOAD_TOO_LARGE", message)


def bad_handshake(status: int, message: str, headers: Headers) -> RelayFailure:
    """Return the failure of an upgrade that is no WebSocket handshake.

    Args:
        status: what the WebSocket protocol wants it answered with.
        message: what is wrong with it.
        headers: what the WebSocket protocol wants in the answer.
    """
    return RelayFailure(status, "BAD_REQUEST", message, headers=tuple(headers))


def upgrade_unsupported(protocol: str) -> RelayFailure:
    """Return the failure of an upgrade to something else than a WebSocket.

    Args:
        protocol: what the caller asks for; it is named where it is plain.
    """
    name = f" to {protocol}" if _PLAIN.fullmatch(protocol) else ""
    message = f"the tunnel carries HTTP/1.1 and WebSockets, so it cannot upgrade{name}"
    return RelayFailure(501, "UPGRADE_UNSUPPORTED", message)


def offline(reason: str = "") -> RelayFailure:
    """Return the failure of a request that no agent takes (protocol, section 3: published
    supervisors recover from this answer).

    Args:
        reason: why there is no agent, if that is known.
    """
    message = f"{_AGENT_OFFLINE} ({reason})" if reason else _AGENT_OFFLINE
    return RelayFailure(503, "AGENT_OFFLINE", message, f"agent_offline: {message}")


# Once an agent has it.


def too_slow() -> RelayFailure:
    """Return the failure of a request whose answer is cut off, since its caller reads slowly and
    too much waits for such callers."""
    return RelayFailure(
        503, _FULL, "too much waits for callers that read slowly, and the most of it for this one"
    )


def lost(reason: str) -> RelayFailure:
    """Return the failure of a request whose agent was lost, and which may not be sent again.

    Args:
        reason: what became of the agent.
    """
    message = (
        "the tunnel's agent was lost while it had this request, which the app may or may not have "
        f"carried out ({reason})"
    )
    return RelayFailure(502, "AGENT_LOST", message, f"agent_offline: {message}")


def unreachable(message: str, detail: str = "") -> RelayFailure:
    """Return the failure of a request that gets no answer of the app's."""
    return RelayFailure(502, _UNREACHABLE, message, detail)


def bad_answer(error: ValueError) -> RelayFailure:
    """Return the failure of a request whose answer may not be written as HTTP."""
    return unreachable(f"the app's answer cannot travel in HTTP: {error}")


def reported(code: str, message: str) -> RelayFailure:
    """Return the failure that an agent reports with ``RESP_ERROR`` (protocol, section 3)."""
    text = message[:_MAX_MESSAGE] or "the app could not be reached"
    status, public_code = _AGENT_ERRORS.get(code, (502, _UNREACHABLE))
    return RelayFailure(status, public_code, text, f"{code[:64]}: {text}", recorded=True)


def websocket_failed(message: str) -> RelayFailure:
    """Return the failure of a WebSocket that the agent reports."""
    return unreachable(message[:_MAX_MESSAGE] or "the app could not be reached")


def asterisk_unsupported() -> RelayFailure:
    """Return the failure of an ``OPTIONS *`` whose agent announced no ``exact_http`` capability: to
    the published agents every path begins with a slash (protocol, section 3)."""
    return RelayFailure(
        501, "ASTERISK_UNSUPPORTED", "the agent of this tunnel carries no request for the target *"
    )


def websockets_unsupported() -> RelayFailure:
    """Return the failure of a WebSocket whose agent announced no ``websocket`` capability."""
    return RelayFailure(
        501, "WEBSOCKET_UNSUPPORTED", "the agent of this tunnel carries no WebSockets"
    )


def timed_out(request_timeout_s: float) -> RelayFailure:
    """Return the failure of a request whose answer did not begin in time."""
    message = (
        f"the app did not answer within {request_timeout_s:g} s (synth_tunnels_request_timeout_s)"
    )
    return RelayFailure(504, _TIMEOUT, message, f"timed out: {message}")


def not_opened(request_timeout_s: float) -> RelayFailure:
    """Return the failure of a WebSocket that the app did not accept in time."""
    message = f"the app did not open the WebSocket within {request_timeout_s:g} s"
    return RelayFailure(504, _TIMEOUT, message, f"timed out: {message}")
