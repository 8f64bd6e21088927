"""The opening handshake of a caller's WebSocket: once with the caller, once with the app. No I/O.

Each of the two has a key and a version of its own, and neither has extensions: what is compressed
for one connection cannot be passed on in pieces to another. Subprotocols are the app's choice.
"""

from collections.abc import Iterable
from typing import Final

import httptools
from websockets.client import ClientProtocol
from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from ..http.headers import HOP_BY_HOP
from ..wire.frames import Headers
from ..wire.handshake import HandshakeError, wire_logger

__all__ = [
    "Answer",
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

_MAX_HEAD_BYTES: Final = 65_536
_MAX_BODY_BYTES: Final = 1024 * 1024
"""Of an app's refusal, which travels in one frame."""


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
    """Return what of a caller's headers concerns the app."""
    return [pair for pair in headers if pair[0].lower() not in _HANDSHAKE]


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


def app_protocol(headers: Headers, max_bytes: int) -> ClientProtocol:
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
    return ClientProtocol(
        WebSocketURI(False, "app", 80, "/", ""),  # the request is not the library's
        subprotocols=offered or None,
        state=State.OPEN,
        max_size=max_bytes,
        logger=wire_logger,
    )


def upgrade_lines(protocol: ClientProtocol) -> str:
    """Return the end of the request's head: what makes it a handshake, and the empty line."""
    return (
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {protocol.key}\r\nSec-WebSocket-Version: {_VERSION}\r\n\r\n"
    )


def check_answer(protocol: ClientProtocol, headers: Headers) -> Headers:
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


class Answer:
    """Reads what an app answers to an upgrade. The ``on_*`` methods are the parser's callbacks.

    Attributes:
        status: the HTTP status; 0 until it is known.
        headers: all of them.
        body: of a refusal.
        rest: what follows a 101, and is WebSocket.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = bytearray()
        self.rest = b""
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0
        self._interim = False
        self._framed = False
        self._complete = False

    @property
    def begun(self) -> bool:
        """Whether anything came."""
        return self._received > 0

    def feed(self, data: bytes) -> bool:
        """Read on.

        Returns:
            Whether the answer is complete.

        Raises:
            AnswerError: it is not HTTP, or too long.
        """
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self._complete:
                raise AnswerError(f"its answer is not HTTP/1.1 ({error})") from None
        if not self.status and self._received > _MAX_HEAD_BYTES:
            raise AnswerError(f"the head of its answer is over {_MAX_HEAD_BYTES >> 10} KiB")
        if len(self.body) > _MAX_BODY_BYTES:
            size = f"{_MAX_BODY_BYTES >> 20} MiB"
            raise AnswerError(f"it answered {self.status} to the upgrade with more than {size}")
        return self._complete

    def end(self) -> None:
        """Take the end of the connection for the end of the answer.

        Raises:
            AnswerError: it is not.
        """
        if not self._received:
            raise AnswerError("it closed the connection without an answer")
        if not self.status or self._framed:
            raise AnswerError("it closed the connection in the middle of its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header, unless it is a trailer."""
        if self.status:
            return
        text = name.decode("latin-1")
        self.headers.append((text, value.decode("latin-1")))
        if text.lower() in ("content-length", "transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """Tell an answer from an interim one."""
        status = self._parser.get_status_code()
        self._interim = status < 200 and status != 101
        if self._interim:
            self.headers = []
        elif not self.status:
            self.status = status

    def on_body(self, data: bytes) -> None:
        """Keep a piece of a refusal's body."""
        if not self._complete:
            self.body += data

    def on_message_complete(self) -> None:
        """Take note of the end, unless it is that of an interim answer."""
        self._complete = not self._interim or self._complete
