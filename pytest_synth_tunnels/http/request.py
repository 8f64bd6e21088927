"""The head and the body of a request, parsed strictly. No I/O."""

import re
from collections.abc import Callable
from typing import Final

import httptools

from .headers import Headers, HeaderTable, may_be_trailer

__all__ = ["BadRequest", "ChunkedBody", "HeadParser", "RequestHead", "as_ascii"]

_FRAMING: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_ONCE: Final = frozenset({"content-length", "host", "transfer-encoding"})
_OPTIONAL_PROTOCOLS: Final = ("h2c", "http/", "tls/")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_TARGET: Final = re.compile(r"[!-~\x80-\xff]+")
_HOST: Final = re.compile(r"[^\s/?#@\\,]*")
_COMMON_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_NO_CALLBACKS: Final = object()
_NOTHING: Final[Headers] = []

_KNOWN_FIELDS: Final = 32
_KNOWN_FIELD_CHARACTERS: Final = 256

_EMPTY_LINE: Final = b"\r\n\r\n"
_MAX_OVERHEAD_BYTES: Final = 65_536
"""What chunk extensions and trailers may add to a body..."""
_OVERHEAD_PER_BYTE: Final = 16
"""...and what each byte may add to that: the smallest chunks carry five bytes for each."""


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


def _framing_kind(name: str) -> str:
    """Return the lower case of a name that frames a message, else an empty string."""
    lower = name.lower()
    return lower if lower in _FRAMING else ""


_framing_kinds: Final = HeaderTable(_framing_kind)

_Field = tuple[tuple[str, str], str]
"""A header, and the lower case of its name if it frames a message, else an empty string."""


def _field(line: str) -> _Field:
    """Take a header line apart, which llhttp has found well-formed."""
    name, _, value = line.partition(":")
    return (name, value.strip(" \t")), _framing_kinds[name]


class RequestHead:
    """Everything a request says before its body.

    Attributes:
        method: any token, as it came.
        path: raw, still percent-encoded, beginning with ``/`` (or ``*`` alone). Bytes that are no
            ASCII are latin-1 text.
        query: raw, without the ``?``.
        bare_query: there is a ``?`` with nothing behind it.
        headers: all of them, in order.
        host: what ``Host`` says, or the target of an absolute request line; may be empty.
        keep_alive: whether the caller wants the connection kept.
        peer_host: the caller's address.
        http_version: ``1.1`` or ``1.0``.
        secure: whether the caller used TLS.
        content_length: of the body, in bytes; 0 without one, and where ``chunked``.
        chunked: the body's length is told as it comes.
        has_body: a body follows.
        expects_continue: the caller waits for ``100 Continue`` before it sends the body.
        takes_trailers: the caller wants the fields behind a response's body.
        negotiated: ``Expect``, ``TE`` and ``Trailer``, which concern the next server alone, as the
            caller sent them; only those that this project's relay and agent can carry.
        upgrade: the protocol asked for instead of HTTP, in lower case; empty for none, and for one
            whose caller goes on in HTTP/1.1 where it is not agreed on (HTTP/2 and TLS).
    """

    __slots__ = (
        "bare_query",
        "chunked",
        "content_length",
        "expects_continue",
        "has_body",
        "headers",
        "host",
        "http_version",
        "keep_alive",
        "method",
        "negotiated",
        "path",
        "peer_host",
        "query",
        "secure",
        "takes_trailers",
        "upgrade",
    )

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
        self.http_version = "1.1"
        self.bare_query = False
        self.secure = False
        self.content_length = 0
        self.chunked = False
        self.has_body = False
        self.expects_continue = False
        self.takes_trailers = False
        self.negotiated: Headers = _NOTHING
        self.upgrade = ""

    def get(self, name: str) -> str | None:
        """Return the first value of the header ``name`` (in lower case), or ``None``."""
        for other, value in self.headers:
            if other.lower() == name:
                return value
        return None


class HeadParser:
    """Reads request heads, one whole block at a time.

    llhttp, in its strict mode, judges the block: line ends, names and values, and lengths that
    conflict. What it has accepted is then split at its line ends and colons. The request line has
    to be split before that in any case, so that llhttp's list of methods is no limit; a callback
    for each header was measured to take as long as the split (1.9 µs for four headers, 4.2 µs for
    sixteen), and would keep each connection alive in a reference cycle with its parser.

    Args:
        peer_host: the caller's address, for :attr:`RequestHead.peer_host`.
        secure: whether the caller used TLS.
        max_headers: how many headers a request may have.
    """

    def __init__(self, peer_host: str = "", *, secure: bool = False, max_headers: int = 128):
        self.peer_host = peer_host
        self._secure = secure
        self._max_headers = max_headers
        self._llhttp: httptools.HttpRequestParser | None = None
        self._host = ""
        """The last host that was found well-formed: a connection seldom names another."""
        self._read_field: Callable[[str], _Field] = _field
        """Reads a header line. From the second request on it knows what was said before: most
        header lines are the same in all requests of a connection, and most connections that send
        one request send no other."""

    def parse(self, block: bytes) -> RequestHead:
        """Read one head.

        Args:
            block: from the request line to the empty line, both included.

        Raises:
            BadRequest: it is malformed, ambiguous or not supported.
        """
        lines = block.decode("latin-1").split("\r\n")
        try:
            method, target, version = lines[0].split(" ")
        except ValueError:
            raise BadRequest(400, "BAD_REQUEST", "malformed request line") from None
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            status = 505 if version.startswith("HTTP/") else 400
            raise BadRequest(status, "BAD_REQUEST", "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if method not in _COMMON_METHODS:
            if not _TOKEN.fullmatch(method):
                raise BadRequest(400, "BAD_REQUEST", "malformed method")
            if method == "CONNECT":
                raise BadRequest(501, "METHOD_UNSUPPORTED", "CONNECT is not supported")
            block = b"POST" + block[len(method) :]
        if not target.isascii():
            # llhttp is stricter than the servers that take what is no ASCII for part of a path.
            if not _TARGET.fullmatch(target):
                raise BadRequest(400, "BAD_REQUEST", "malformed request line")
            block = block.replace(target.encode("latin-1"), b"/", 1)
        self._judge(block)
        # The request line before, and the empty line and nothing after it, are no headers.
        if len(lines) - 3 > self._max_headers:
            raise BadRequest(431, "HEADERS_TOO_LARGE", f"more than {self._max_headers} headers")
        headers: Headers = []
        framing: dict[str, str] = {}
        for header, kind in map(self._read_field, lines[1:-2]):
            headers.append(header)
            if kind:
                value = header[1]
                if kind in framing:
                    value = _joined(kind, framing[kind], value)
                framing[kind] = value
        host = framing.get("host")
        if host is None:
            if version == "HTTP/1.1":
                raise BadRequest(400, "BAD_REQUEST", "no Host header")
            host = ""
        if not target.startswith("/"):
            host, target = _absolute(target, host)
        if "#" in target:
            raise BadRequest(400, "BAD_REQUEST", "a fragment in the request line")
        if "\n" in target:
            # To llhttp a request of HTTP/0.9 ends there, and a header begins.
            raise BadRequest(400, "BAD_REQUEST", "malformed request line")
        if host != self._host:
            if not _HOST.fullmatch(host):
                raise BadRequest(400, "BAD_REQUEST", "malformed Host header")
            self._host = host
        path, mark, query = target.partition("?")
        head = RequestHead(method, path, query, headers, host, self.peer_host)
        if mark and not query:
            head.bare_query = True
        if self._secure:
            head.secure = True
        if version == "HTTP/1.0":
            head.http_version = "1.0"
            head.keep_alive = False
            self._apply(framing, head)
        elif len(framing) > 1:
            self._apply(framing, head)
        if self._read_field is _field:
            self._read_field = HeaderTable(
                _field, max_entries=_KNOWN_FIELDS, max_characters=_KNOWN_FIELD_CHARACTERS
            ).__getitem__
        return head

    def _judge(self, block: bytes) -> None:
        """Let llhttp refuse what is malformed."""
        parser = self._llhttp
        if parser is None:
            parser = self._llhttp = httptools.HttpRequestParser(_NO_CALLBACKS)
        try:
            parser.feed_data(block)
        except httptools.HttpParserUpgrade:
            self._llhttp = None
        except httptools.HttpParserError as error:
            self._llhttp = None
            reason = error.args[0] if error.args else "malformed"
            raise BadRequest(400, "BAD_REQUEST", f"malformed request: {reason}") from None

    def _apply(self, framing: dict[str, str], head: RequestHead) -> None:
        """Take over what the framing headers say, of which most requests have none."""
        length = framing.get("content-length")
        if length is not None:
            head.content_length = int(length)
            head.has_body = head.content_length > 0
            # llhttp now waits for the body, which the connection counts by itself.
            self._llhttp = None
        coding = framing.get("transfer-encoding")
        if coding is not None:
            if coding.lower() != "chunked":
                raise BadRequest(501, "BAD_REQUEST", "only chunked transfer-encoding is supported")
            if head.http_version == "1.0":
                raise BadRequest(400, "BAD_REQUEST", "transfer-encoding in an HTTP/1.0 request")
            head.chunked = head.has_body = True
            self._llhttp = None
        connection = framing.get("connection")
        if connection is not None:
            options = {option.strip() for option in connection.lower().split(",")}
            if "close" in options:
                head.keep_alive = False
            elif "keep-alive" in options:
                head.keep_alive = True
            if "upgrade" in options and head.http_version == "1.1":
                head.upgrade = _wanted_protocol(framing.get("upgrade", ""))
            if head.upgrade == "websocket" and head.has_body:
                raise BadRequest(400, "BAD_REQUEST", "a WebSocket handshake with a body")
        if "expect" in framing or "te" in framing or "trailer" in framing:
            self._negotiate(framing, head)

    def _negotiate(self, framing: dict[str, str], head: RequestHead) -> None:
        """Take over what the caller and the next server agree on for this message."""
        if head.http_version == "1.0":
            return
        expect = framing.get("expect")
        if expect is not None:
            head.expects_continue = head.has_body and expect.lower() == "100-continue"
            head.negotiated = [*head.negotiated, ("Expect", expect)]
        codings = framing.get("te", "").lower().split(",")
        if any(coding.strip() == "trailers" for coding in codings):
            head.takes_trailers = True
            head.negotiated = [*head.negotiated, ("TE", "trailers")]
        trailer = framing.get("trailer")
        if trailer is not None and head.chunked:
            head.negotiated = [*head.negotiated, ("Trailer", trailer)]


def as_ascii(target: str) -> str:
    """Return a path or a query with the bytes that are no ASCII percent-encoded, which means the
    same, for a server that takes nothing else."""
    return "".join([x if x.isascii() else f"%{ord(x):02X}" for x in target])


def _wanted_protocol(value: str) -> str:
    """Return the first protocol of an ``Upgrade`` header that a caller may be unable to do without,
    in lower case, or an empty string."""
    for name in value.lower().split(","):
        name = name.strip()
        if name and not name.startswith(_OPTIONAL_PROTOCOLS):
            return name
    return ""


def _joined(kind: str, first: str, second: str) -> str:
    """Return what two headers of one name mean together."""
    if kind in _ONCE:
        raise BadRequest(400, "BAD_REQUEST", f"more than one {kind} header")
    return f"{first}, {second}"


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


class ChunkedBody:
    """A chunked body, piece by piece: takes the chunks apart, through llhttp in its strict mode.

    llhttp does not say where a message ends within what it was given. The end of a chunked body
    is always an empty line, though, so it is given the bytes up to each empty line in turn, and
    the next message stays untouched.
    """

    def __init__(self) -> None:
        self.ended = False
        """The last chunk and the trailers have come."""
        self.trailers: Headers = []
        """The fields that came behind the body, without those that may not come there."""
        self._pieces: list[bytes] = []
        self._tail = b""
        """The last bytes taken, which may be the beginning of an empty line."""
        self._overhead = _MAX_OVERHEAD_BYTES
        self._llhttp = httptools.HttpRequestParser(self)
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a trailer from llhttp."""
        text = name.decode("latin-1")
        if may_be_trailer(text):
            self.trailers.append((text, value.decode("latin-1")))

    def on_body(self, data: bytes) -> None:
        """Take a piece from llhttp."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Take the end from llhttp."""
        self.ended = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Read on.

        Args:
            data: what came next on the connection.

        Returns:
            The part of the body that it held, and what follows the body (empty until
            :attr:`ended`).

        Raises:
            BadRequest: it is malformed, or mostly something else than a body.
        """
        start = 0
        try:
            while start < len(data) and not self.ended:
                end = self._empty_line(data, start)
                self._llhttp.feed_data(memoryview(data)[start:end])
                start = end
        except httptools.HttpParserError as error:
            reason = error.args[0] if error.args else "malformed"
            raise BadRequest(400, "BAD_REQUEST", f"malformed chunked body: {reason}") from None
        self._tail = (self._tail + data[-3:])[-3:]
        body = b"".join(self._pieces)
        self._pieces.clear()
        self._overhead += _OVERHEAD_PER_BYTE * len(body) - (start - len(body))
        if self._overhead < 0:
            raise BadRequest(431, "HEADERS_TOO_LARGE", "chunk extensions or trailers too large")
        return body, data[start:]

    def _empty_line(self, data: bytes, start: int) -> int:
        """Return where the next empty line ends, or the data does."""
        if start == 0:
            found = (self._tail + data[:3]).find(_EMPTY_LINE)
            if found >= 0:
                return found + 4 - len(self._tail)
        found = data.find(_EMPTY_LINE, start)
        return found + 4 if found >= 0 else len(data)
