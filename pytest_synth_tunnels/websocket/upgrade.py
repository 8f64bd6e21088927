"""The opening handshake of a caller's WebSocket: once with the caller, once with the app. No I/O.

Each of the two has a key and a version of its own, and neither has extensions: what is compressed
for one connection cannot be passed on in pieces to another. Subprotocols are the app's choice.
"""

from collections.abc import Iterable
from typing import Final

from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from ..http.headers import HOP_BY_HOP, Headers
from ..wire.handshake import HandshakeError, wire_logger
from .protocols import AppProtocol

__all__ = [
    "AnswerError",
    "app_protocol",
    "check_answer",
    "check_request",
    "request_headers",
    "switching",
    "upgrade_lines",
    "without_framing",
]

_VERSION: Final = "13"
_PROTOCOL: Final = "sec-websocket-protocol"
_HANDSHAKE: Final = frozenset(
    f"sec-websocket-{name}" for name in ("accept", "extensions", "key", "version")
)
"""Between two neighbours alone."""


# The caller's side.


def check_request(method: str, headers: Headers) -> str:
    """Check a caller's handshake.

    Returns:
        ``Sec-WebSocket-Accept``, for :func:`switching`.

    Raises:
        HandshakeError: with the status and headers to answer instead.
    """
    version = [value for name, value in headers if name.lower() == "sec-websocket-version"]
    if version and version != [_VERSION]:
        message = f"WebSocket version {_VERSION} is spoken here"
        raise HandshakeError(426, message, [("Sec-WebSocket-Version", _VERSION)])
    if method != "GET":
        raise HandshakeError(405, "a WebSocket begins with a GET", [("Allow", "GET")])
    protocol = ServerProtocol(logger=wire_logger)
    response = protocol.accept(Request("/", WireHeaders(headers)))
    if response.status_code != 101:
        raise HandshakeError(400, f"no WebSocket handshake: {protocol.handshake_exc}")
    return response.headers["Sec-WebSocket-Accept"]


def request_headers(headers: Headers) -> Headers:
    """Return what of a caller's headers concerns the app. A handshake has no body."""
    dropped = _HANDSHAKE | {"content-length"}
    return [pair for pair in headers if pair[0].lower() not in dropped]


def switching(accept: str, headers: Headers) -> bytes:
    """Return the head of the 101 response that a caller waits for.

    Args:
        accept: from :func:`check_request`.
        headers: the app's; those of its own handshake are left out.

    Raises:
        ValueError: one of them cannot travel in HTTP.
    """
    passed = [pair for pair in without_framing(headers) if pair[0].lower() not in _HANDSHAKE]
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *(f"{name}: {value}" for name, value in passed if name.lower() != "upgrade"),
    ]
    if any(control in line for line in lines for control in "\r\n\0"):
        raise ValueError("a header that cannot travel in HTTP")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# The app's side.


def app_protocol(headers: Headers, max_bytes: int) -> AppProtocol:
    """Return the state machine of a connection to an app, which is open once
    :func:`check_answer` has passed.

    Args:
        headers: the caller's, among them the subprotocols that it offers.
        max_bytes: the longest message that is taken.
    """
    offered = [
        Subprotocol(part.strip())
        for name, value in headers
        if name.lower() == _PROTOCOL
        for part in value.split(",")
    ]
    return AppProtocol(
        WebSocketURI(False, "app", 80, "/", ""),  # the request is not the library's
        subprotocols=offered or None,
        state=State.OPEN,
        max_size=max_bytes,
        logger=wire_logger,
    )


def upgrade_lines(protocol: AppProtocol) -> str:
    """Return the end of the request's head: what makes it a handshake, and the empty line."""
    return (
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {protocol.key}\r\nSec-WebSocket-Version: {_VERSION}\r\n\r\n"
    )


def check_answer(protocol: AppProtocol, headers: Headers) -> Headers:
    """Check an app's 101 response.

    Returns:
        The headers that concern the caller: the subprotocol, if any, and what is not of the
        handshake.

    Raises:
        AnswerError: it does not answer this handshake.
    """
    try:
        protocol.process_response(Response(101, "", WireHeaders(headers)))
    except InvalidHandshake as error:
        raise AnswerError(
            f"its answer to the upgrade is no WebSocket handshake ({error})"
        ) from None
    return [
        pair
        for pair in without_framing(headers)
        if pair[0].lower() not in _HANDSHAKE and pair[0].lower() != "upgrade"
    ]


def without_framing(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return an app's headers without those that frame its message.

    ``Upgrade`` stays: in a refusal it tells the caller what to do instead.
    """
    found = list(headers)
    named = {
        option.strip()
        for name, value in found
        if name.lower() == "connection"
        for option in value.lower().split(",")
    }
    dropped = (HOP_BY_HOP | named | {"content-length"}) - {"upgrade"}
    return [pair for pair in found if pair[0].lower() not in dropped]


class AnswerError(Exception):
    """What an app answered to an upgrade cannot be passed on."""
