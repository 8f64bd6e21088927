"""The head of a request, parsed strictly. No I/O."""

import re
from typing import Final

import httptools

from .head import Headers

__all__ = ["BadRequest", "Head", "HeadParser"]

_FRAMING: Final = frozenset(
    {"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"}
)
_ONCE: Final = frozenset({"content-length", "host", "transfer-encoding"})
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_HOST = re.compile(r"[^\s/?#@\\,]*")
_COMMON_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
}
_CACHED_NAMES: Final = 1024


class BadRequest(ValueError):  # noqa: N818  # named after what it is answered with
    """A request that is refused before it is understood.

    Attributes:
        status: the HTTP status to answer.
        code: the stable code to answer.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Names(dict[bytes, tuple[str, str]]):
    """Header names as they came → text, and the lower-case name of those that frame a message.

    Looked up once for each header, so known names cost one dictionary look-up.
    """

    def __missing__(self, name: bytes) -> tuple[str, str]:
        text = name.decode("ascii")
        lower = text.lower()
        entry = text, lower if lower in _FRAMING else ""
        if len(self) < _CACHED_NAMES and len(name) <= 64:
            self[name] = entry
        return entry


_names = _Names()


class Head:
    """Everything a request says before its body.

    Attributes:
        method: any token, as it came.
        path: raw, still percent-encoded, beginning with ``/`` (or ``*`` alone).
        query: raw, without the ``?``.
        headers: all of them, in order.
        host: what ``Host`` says, or the target of an absolute request line; may be empty.
        keep_alive: whether the caller wants the connection kept.
        peer_host: the caller's address.
        http_version: ``1.1`` or ``1.0``.
        secure: whether the caller used TLS.
        content_length: of the body, in bytes; 0 without one, and where ``chunked``.
        chunked: the body's length is told as it comes.
        expects_continue: the caller waits for ``100 Continue`` before it sends the body.
        upgrade: the protocol asked for instead of HTTP, in lower case; only ``websocket``.
    """

    http_version = "1.1"
    secure = False
    content_length = 0
    chunked = False
    expects_continue = False
    upgrade = ""

    def __init__(
        self, method: str, path: str, query: str, headers: Headers, host: str, peer_host: str
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.host = host
        self.peer_host = peer_host
        self.keep_alive = True

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.chunked or self.content_length > 0

    def get(self, name: str) -> str | None:
        """Return the first value of the header ``name`` (in lower case), or ``None``."""
        for other, value in self.headers:
            if other.lower() == name:
                return value
        return None


class HeadParser:
    """Reads request heads, one whole block at a time, through llhttp in its strict mode.

    The request line is split here, so that llhttp's list of methods is no limit; llhttp checks
    the rest: line ends, names and values, and lengths that conflict.

    Args:
        peer_host: the caller's address, for :attr:`Head.peer_host`.
        secure: whether the caller used TLS.
        max_headers: how many headers a request may have.
    """

    def __init__(self, peer_host: str = "", *, secure: bool = False, max_headers: int = 128):
        self._peer_host = peer_host
        self._secure = secure
        self._max_headers = max_headers
        self._headers: Headers = []
        self._framing: dict[str, str] = {}
        self._llhttp: httptools.HttpRequestParser | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header from llhttp."""
        text, kind = _names[name]
        value_text = value.decode("latin-1")
        self._headers.append((text, value_text))
        if kind:
            value_text = value_text.strip()
            if kind in self._framing:
                if kind in _ONCE:
                    raise BadRequest(400, "BAD_REQUEST", f"more than one {kind} header")
                value_text = f"{self._framing[kind]}, {value_text}"
            self._framing[kind] = value_text

    def parse(self, block: bytes) -> Head:
        """Read one head.

        Args:
            block: from the request line to the empty line, both included.

        Raises:
            BadRequest: it is malformed, ambiguous or not supported.
        """
        try:
            method, target, version = block[: block.find(b"\r\n")].split(b" ")
        except ValueError:
            raise BadRequest(400, "BAD_REQUEST", "malformed request line") from None
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            status = 505 if version.startswith(b"HTTP/") else 400
            raise BadRequest(status, "BAD_REQUEST", "only HTTP/1.1 and HTTP/1.0 are spoken here")
        method_text = _COMMON_METHODS.get(method)
        if method_text is None:
            if not _TOKEN.fullmatch(method):
                raise BadRequest(400, "BAD_REQUEST", "malformed method")
            if method == b"CONNECT":
                raise BadRequest(501, "METHOD_UNSUPPORTED", "CONNECT is not supported")
            method_text = method.decode("ascii")
            block = b"POST" + block[len(method) :]
        headers: Headers = []
        framing: dict[str, str] = {}
        self._headers, self._framing = headers, framing
        self._check(block)
        if len(headers) > self._max_headers:
            raise BadRequest(431, "HEADERS_TOO_LARGE", f"more than {self._max_headers} headers")
        host = framing.get("host")
        if host is None:
            if version == b"HTTP/1.1":
                raise BadRequest(400, "BAD_REQUEST", "no Host header")
            host = ""
        text = target.decode("ascii")
        if not text.startswith("/"):
            host, text = _absolute(text, host)
        if "#" in text:
            raise BadRequest(400, "BAD_REQUEST", "a fragment in the request line")
        if not _HOST.fullmatch(host):
            raise BadRequest(400, "BAD_REQUEST", "malformed Host header")
        path, _, query = text.partition("?")
        head = Head(method_text, path, query, headers, host, self._peer_host)
        if self._secure:
            head.secure = True
        if version == b"HTTP/1.0":
            head.http_version = "1.0"
            head.keep_alive = False
            self._apply(framing, head)
        elif len(framing) > 1:
            self._apply(framing, head)
        return head

    def _check(self, block: bytes) -> None:
        parser = self._llhttp
        if parser is None:
            parser = self._llhttp = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(block)
        except httptools.HttpParserUpgrade:
            self._llhttp = None
        except httptools.HttpParserError as error:
            self._llhttp = None
            if isinstance(error.__context__, BadRequest):
                raise error.__context__ from None
            reason = error.args[0] if error.args else "malformed"
            raise BadRequest(400, "BAD_REQUEST", f"malformed request: {reason}") from None

    def _apply(self, framing: dict[str, str], head: Head) -> None:
        """Take over what the framing headers say, of which most requests have none."""
        length = framing.get("content-length")
        if length is not None:
            head.content_length = int(length)
            # llhttp now waits for the body, which the connection counts by itself.
            self._llhttp = None
        coding = framing.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                raise BadRequest(501, "BAD_REQUEST", "only chunked transfer-encoding is supported")
            if head.http_version == "1.0":
                raise BadRequest(400, "BAD_REQUEST", "transfer-encoding in an HTTP/1.0 request")
            head.chunked = True
            self._llhttp = None
        connection = framing.get("connection")
        if connection is not None:
            options = {option.strip() for option in connection.lower().split(",")}
            if "close" in options:
                head.keep_alive = False
            elif "keep-alive" in options:
                head.keep_alive = True
            if "upgrade" in options and framing.get("upgrade", "").lower() == "websocket":
                if head.has_body or head.http_version == "1.0":
                    raise BadRequest(400, "BAD_REQUEST", "malformed WebSocket handshake")
                head.upgrade = "websocket"
        if framing.get("expect", "").lower() == "100-continue" and head.http_version == "1.1":
            head.expects_continue = head.has_body


def _absolute(target: str, host: str) -> tuple[str, str]:
    """Return host and path of a request line that names more than a path."""
    if target == "*":
        return host, target
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise BadRequest(400, "BAD_REQUEST", "malformed request target")
    end = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
    path = rest[end:]
    return rest[:end], path if path.startswith("/") else f"/{path}"
