"""Header tables, and the head of a response: written safely. No I/O."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar

__all__ = [
    "HOP_BY_HOP",
    "HeaderTable",
    "Headers",
    "Response",
    "end_to_end",
    "field_lines",
    "may_be_trailer",
    "response_head",
]

Headers = list[tuple[str, str]]
"""Names in the case they came in, values as latin-1 text; names may repeat."""

Response = tuple[int, Headers, bytes]
"""Status, headers (the framing ones left out) and body."""

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers, in lower case, that concern one connection and are never passed on. What a caller
shows a proxy is none of them: the tunnel asks for nothing there, and an app may."""

_Text = TypeVar("_Text", str, bytes)
_Kind = TypeVar("_Kind")


class HeaderTable(dict[_Text, _Kind]):
    """Header names, or whole header lines, as they came → what a reader has to know of them.

    Messages repeat the same few, so one that was met before costs one look-up. The table is
    bounded: those beyond its size, and long ones, are classified each time.

    Args:
        classify: says what is to be known of a name or a line, from that alone.
        max_entries: how many are remembered.
        max_characters: the longest that is remembered.
    """

    def __init__(
        self,
        classify: Callable[[_Text], _Kind],
        *,
        max_entries: int = 1024,
        max_characters: int = 64,
    ) -> None:
        super().__init__()
        self._classify: Callable[[_Text], _Kind] = classify
        self._max_entries = max_entries
        self._max_characters = max_characters

    def __missing__(self, text: _Text) -> _Kind:
        kind = self._classify(text)
        if len(self) < self._max_entries and len(text) <= self._max_characters:
            self[text] = kind
        return kind


class _StatusLines(dict[int, str]):
    def __missing__(self, status: int) -> str:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        line = self[status] = f"HTTP/1.1 {status} {phrase}\r\n"
        return line


_status_lines: Final = _StatusLines()


def response_head(
    status: int,
    headers: Headers,
    framing: str,
    reason: str | None = None,
    *,
    interim: bool = False,
) -> bytes:
    """Return a response's head as it goes on the wire.

    Args:
        status: a final one, 200 to 999.
        headers: all but those that frame the message.
        framing: the lines that do, each with its line end.
        reason: the reason phrase; the usual one of the status unless given.
        interim: the status is 100 to 199 instead, but not 101.

    Raises:
        ValueError: a header would change the message, or cannot be written at all.
    """
    if interim:
        if not 100 <= status <= 199 or status == 101:
            raise ValueError(f"{status} is not an interim HTTP status")
    elif not 200 <= status <= 999:
        raise ValueError(f"{status} is not a final HTTP status")
    text = _status_lines[status] if reason is None else f"HTTP/1.1 {status} {reason}\r\n"
    for name, value in headers:
        text += f"{name}: {value}\r\n"
    # Injection needs a line end in a name or a value: then there are more of them than lines.
    lines = len(headers) + 1
    if text.count("\n") != lines or text.count("\r") != lines or "\0" in text:
        raise ValueError("a header that cannot travel in HTTP")
    return f"{text}{framing}\r\n".encode("latin-1")


def may_be_trailer(name: str) -> bool:
    """Tell whether a field that came behind a body may be passed on there: one that frames the
    message, names its content or its receiver, or lets somebody in, may not (RFC 9110, section
    6.5.1)."""
    return _trailers[name]


def field_lines(fields: Headers) -> bytes:
    """Return trailers as they go on the wire, behind the last chunk of a body.

    Raises:
        ValueError: one would change the message, or cannot be written at all.
    """
    text = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if text.count("\n") != len(fields) or text.count("\r") != len(fields) or "\0" in text:
        raise ValueError("a trailer that cannot travel in HTTP")
    return text.encode("latin-1")


def end_to_end(headers: Headers, *, keep_trailer: bool = False) -> tuple[Headers, int | None]:
    """Split an app's response headers into what is passed on and the body's length.

    Args:
        headers: all of them.
        keep_trailer: pass on ``Trailer`` too, which says what comes behind the body.

    Returns:
        The headers without hop-by-hop ones, those that ``Connection`` names and
        ``Content-Length``; and the latter's value in bytes, or ``None`` if there is none.

    Raises:
        ValueError: lengths that are malformed or differ.
    """
    passed: Headers = []
    named: set[str] | None = None
    length: int | None = None
    for pair in headers:
        kind = _response_kinds[pair[0]]
        if not kind:
            passed.append(pair)
        elif kind == "content-length":
            value = pair[1].strip()
            if not (value.isascii() and value.isdigit()):
                raise ValueError("malformed content-length")
            if length is not None and length != int(value):
                raise ValueError("content-length told twice")
            length = int(value)
        elif kind == "connection":
            named = (named or set()) | {option.strip() for option in pair[1].lower().split(",")}
        elif keep_trailer and kind == "trailer":
            passed.append(pair)
    if named is not None:
        passed = [pair for pair in passed if pair[0].lower() not in named]
    return passed, length


def _response_kind(name: str) -> str:
    """Return the lower case of a name that :func:`end_to_end` looks at, else an empty string."""
    lower = name.lower()
    return lower if lower in HOP_BY_HOP or lower == "content-length" else ""


_response_kinds: Final = HeaderTable(_response_kind)

_NO_TRAILERS: Final = HOP_BY_HOP | {
    "authorization",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "proxy-authenticate",
    "proxy-authorization",
}


def _is_trailer(name: str) -> bool:
    lower = name.lower()
    return lower not in _NO_TRAILERS and not lower.startswith("x-synthtunnel-")


_trailers: Final = HeaderTable(_is_trailer)
