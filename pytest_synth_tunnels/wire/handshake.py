"""The opening handshake of an agent's WebSocket, for both ends. No I/O."""

import logging
from collections.abc import Iterable

from websockets.client import ClientProtocol
from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.http11 import Request
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI, parse_uri

from ..sdk.resolve import is_loopback

__all__ = [
    "MAX_MESSAGE_BYTES",
    "HandshakeError",
    "accept",
    "client_protocol",
    "explain",
    "read_url",
    "server_protocol",
    "wire_logger",
]

MAX_MESSAGE_BYTES = 88 * 1024 * 1024
"""The longest message that is taken; a longer one ends the connection (close code 1009). One
published agent puts what an app says on a WebSocket into one frame, up to 64 MiB of it, in base64:
too much for that stream should not end all others."""

wire_logger = logging.getLogger(f"{__name__}.wire")
"""For the library, which logs every frame and header at debug level, and headers hold tokens."""
wire_logger.setLevel(logging.WARNING)


class HandshakeError(Exception):
    """The WebSocket handshake failed.

    Attributes:
        status: the HTTP status: what to answer (server), or what was answered (client; 0 where
            the answer was no handshake at all).
        headers: what the answer needs besides (server), such as ``Upgrade`` with a 426.
    """

    def __init__(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = list(headers)


def accept(headers: Iterable[tuple[str, str]]) -> bytes:
    """Answer a client's opening handshake.

    Args:
        headers: of the GET request.

    Returns:
        The head of the 101 response, to be written before the connection is a WebSocket.

    Raises:
        HandshakeError: with the status and headers to answer instead.
    """
    protocol = ServerProtocol(logger=wire_logger)
    response = protocol.accept(Request("/", WireHeaders(headers)))
    if response.status_code != 101:
        extra = [pair for pair in response.headers.raw_items() if pair[0].lower() == "upgrade"]
        raise HandshakeError(response.status_code, str(protocol.handshake_exc), extra)
    return response.serialize()


def read_url(url: str) -> WebSocketURI:
    """Read a relay's URL.

    Raises:
        ValueError: it is no WebSocket URL, or a token for it would travel in clear text.
    """
    try:
        uri = parse_uri(url)
    except InvalidURI as error:
        raise ValueError(f"not a WebSocket URL: {url}") from error
    if not uri.secure and not is_loopback(uri.host):
        raise ValueError(f"{url}: an agent token goes over wss:// only, except to this machine")
    return uri


def client_protocol(uri: WebSocketURI, token: str) -> ClientProtocol:
    """Return a client's state machine, with its request among the ``writes``.

    Args:
        uri: from :func:`read_url`.
        token: sent as ``Authorization: Bearer``.
    """
    protocol = ClientProtocol(uri, max_size=MAX_MESSAGE_BYTES, logger=wire_logger)
    request = protocol.connect()
    request.headers["Authorization"] = f"Bearer {token}"
    protocol.send_request(request)
    return protocol


def server_protocol(max_bytes: int) -> Protocol:
    """Return a server's state machine, its handshake done.

    Args:
        max_bytes: the longest message that is taken.
    """
    return Protocol(Side.SERVER, state=State.OPEN, max_size=max_bytes, logger=wire_logger)


def explain(error: Exception) -> HandshakeError:
    """Return a client's failed handshake as a person needs to know it."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        body = bytes(error.response.body or b"")[:300].decode(errors="replace")
        return HandshakeError(status, f"the relay answered {status} {body}".strip())
    cause = error.__cause__
    what = f"{error}: {cause}" if cause is not None else str(error)
    return HandshakeError(0, f"the relay's answer is no WebSocket handshake ({what})")
