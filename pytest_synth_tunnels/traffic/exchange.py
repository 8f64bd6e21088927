"""A request that came through the tunnel, and what answered it.

These are what a test reads. They are made of the plain data that the keeper sends
(:meth:`InboundRequest.from_data`), and never change afterwards: one that was returned before the
app had answered stays without a response.
"""

import codecs
import json
import shlex
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from email.parser import BytesParser
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import parse_qsl

from .._unpatched import unpatched

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "BODY_BYTES_OPTION",
    "Fields",
    "HeaderFields",
    "InboundRequest",
    "Replayer",
    "Response",
    "TruncatedBodyError",
    "WebSocketMessage",
]

BODY_BYTES_OPTION = "synth_tunnels_traffic_body_bytes"

_MAX_DECODED_BYTES = 1 << 26
"""A compressed body is decoded up to this length."""

_NO_CHARSETS = frozenset({"idna", "punycode", "raw_unicode_escape", "unicode_escape"})
"""Python's codecs that are nobody's character set, and slow or full of warnings on odd data."""

_SHOWN = 80
"""Of a WebSocket message in its ``repr``, in characters or bytes."""

_TUNNEL_HEADERS = ("x-forwarded-", "x-synthtunnel-")
"""What the tunnel adds to a caller's headers."""

_NOT_REPEATED = frozenset({"host", "content-length", "connection", "transfer-encoding"})
"""Headers that a client writes by itself."""


class TruncatedBodyError(ValueError):
    """A body was recorded only in part, so that it cannot be read as a whole."""


class Fields(Mapping[str, str]):
    """Names and values in their order, where a name may come more than once.

    As a mapping it gives the first value of a name.

    Args:
        pairs: each name with its value.
    """

    def __init__(self, pairs: Iterable[Sequence[str]]) -> None:
        self._pairs = [(name, value) for name, value in pairs]

    @staticmethod
    def _fold(name: str) -> str:
        """Return what two names that are the same have in common."""
        return name

    def __getitem__(self, name: str) -> str:
        return self._values(name)[0]

    def _values(self, name: str) -> list[str]:
        found = self.get_all(name)
        if not found:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter({self._fold(name): None for name, _ in self._pairs})

    def __len__(self) -> int:
        return len({self._fold(name) for name, _ in self._pairs})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pairs!r})"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All names and values, as they came."""
        return list(self._pairs)

    def get_all(self, name: str) -> list[str]:
        """Return all values of a name, in their order; an empty list if there is none."""
        wanted = self._fold(name)
        return [value for known, value in self._pairs if self._fold(known) == wanted]


class HeaderFields(Fields):
    """Header fields. The case of a name does not matter, and as a mapping it gives all values of a
    name joined by commas, as RFC 9110 (section 5.3) reads them."""

    @staticmethod
    def _fold(name: str) -> str:
        return name.lower()

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._values(name))


class _Message:
    """The body of a request or a response, and how it can be read.

    Attributes:
        headers: its header fields, repeated ones kept.
        body: its bytes as they were sent, as many as were recorded.
        size_bytes: how many there were.
        truncated: whether ``body`` is only the beginning of it, as
            ``synth_tunnels_traffic_body_bytes`` bounds it.
    """

    headers: HeaderFields
    body: bytes
    size_bytes: int
    truncated: bool

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.headers = HeaderFields(data["headers"])
        self.body = b64decode(data["body"])
        self.size_bytes = data["size_bytes"]
        self.truncated = data["truncated"]

    @property
    def content(self) -> bytes:
        """The body without its content coding, as much as was recorded; as it was sent where the
        coding is not known, or is not what it says."""
        return self.content_up_to(_MAX_DECODED_BYTES)

    def content_up_to(self, max_bytes: int) -> bytes:
        """Return the beginning of :attr:`content`, without decoding more than that.

        Args:
            max_bytes: how long it may be.
        """
        try:
            return self._content(whole=False, max_bytes=max_bytes)[:max_bytes]
        except ValueError:
            return self.body[:max_bytes]

    @property
    def content_type(self) -> str:
        """The media type alone, in lower case; empty where the sender gave none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def text(self) -> str:
        """The body as text, decompressed, in the character set that its sender gave, else UTF-8;
        what cannot be decoded is replaced."""
        return self.as_text(self.content)

    def as_text(self, content: bytes) -> str:
        """Return a part of :attr:`content` as :attr:`text` has it."""
        return _decode(content, self.headers.get("content-type", ""))

    def json(self) -> Any:
        """Return the body read as JSON.

        Raises:
            TruncatedBodyError: only a part of it was recorded.
            ValueError: it is no JSON.
        """
        return json.loads(self._content(whole=True))

    def _content(self, *, whole: bool, max_bytes: int = _MAX_DECODED_BYTES) -> bytes:
        """Return the body without its content coding, which is undone up to a length."""
        if whole and self.truncated:
            raise TruncatedBodyError(
                f"only {len(self.body)} of {self.size_bytes} bytes of this body were recorded: "
                f"raise {BODY_BYTES_OPTION}"
            )
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding == "identity" or not self.body:
            return self.body
        if coding in ("gzip", "x-gzip", "deflate"):
            try:
                # 32 lets zlib see by itself which of its two forms it is.
                content = zlib.decompressobj(zlib.MAX_WBITS | 32)
                return content.decompress(self.body, max_bytes)
            except zlib.error as error:
                raise ValueError(f"the body is not {coding}, as it says: {error}") from None
        if whole:
            raise ValueError(f"the body is compressed with {coding}, which is not decoded here")
        return self.body


def _decode(data: bytes, content_type: str) -> str:
    charset = "utf-8"
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"') or charset
    try:
        if codecs.lookup(charset).name.replace("-", "_") not in _NO_CHARSETS:
            return data.decode(charset, "replace")
    except (LookupError, ValueError):
        pass
    return data.decode("utf-8", "replace")


class Response(_Message):
    """What the app (or the inbox, or the tunnel) answered.

    Attributes:
        status: the status code.
        reason: its phrase.
        duration_s: from the request's arrival to the end of the answer, in seconds; as long as it
            had lasted so far, where the end has not come.
        complete: whether the answer has ended as its sender meant it to.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self.status: int = data["status"]
        self.reason: str = data["reason"]
        self.duration_s: float = data["duration_s"]
        self.complete: bool = data["complete"]

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>".replace(" >", ">")


class WebSocketMessage:
    """One message of a WebSocket.

    Attributes:
        sender: ``caller`` or ``app``.
        data: text or bytes, as many of them as were recorded.
        size_bytes: how many bytes there were.
        truncated: whether ``data`` is only the beginning of it.
        sent_at: when it passed.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        raw = b64decode(data["data"])
        self.sender: Literal["caller", "app"] = data["sender"]
        self.data: str | bytes = raw.decode("utf-8", "replace") if data["text"] else raw
        self.size_bytes: int = data["size_bytes"]
        self.truncated: bool = data["truncated"]
        self.sent_at = _moment(data["at"])

    def __repr__(self) -> str:
        shown = repr(self.data[:_SHOWN])
        if self.size_bytes > _SHOWN:
            shown += f"… ({self.size_bytes} bytes)"
        return f"<WebSocketMessage from {self.sender}: {shown}>"

    def json(self) -> Any:
        """Return the message read as JSON.

        Raises:
            TruncatedBodyError: only a part of it was recorded.
            ValueError: it is no JSON.
        """
        if self.truncated:
            raise TruncatedBodyError(
                f"only a part of this message's {self.size_bytes} bytes was recorded: "
                f"raise {BODY_BYTES_OPTION}"
            )
        return json.loads(self.data)


class Replayer(Protocol):
    """Sends recorded requests again."""

    def replay(self, sequence: int) -> "InboundRequest":
        """Send a request again, by its number, and return how it went."""

    async def replay_async(self, sequence: int) -> "InboundRequest":
        """The same without blocking."""


class InboundRequest(_Message):
    """A request that came through the tunnel.

    Attributes:
        method: ``GET``, ``POST``…; a WebSocket is a ``GET``.
        path: as the app sees it, still percent-encoded, without the query.
        query: its parameters, decoded, repeated ones kept.
        query_string: the query as it came.
        headers: as the app sees them, repeated ones kept; never the tunnel's own token.
        body: the bytes of its body, as many as were recorded.
        size_bytes: how many there were.
        truncated: whether ``body`` is only the beginning of it.
        received_at: when it came, with a time zone.
        client: the address of the caller, as far as the tunnel knows it, else empty.
        is_websocket: whether it asked for a WebSocket.
        messages: those of a WebSocket, both ways, oldest first.
        messages_dropped: how many more there were, which were not recorded.
        answered_by: ``app``, ``inbox``, or ``tunnel`` where the tunnel answered itself (a missing
            token, an app that cannot be reached); ``None`` as long as nobody has.
        error: why the tunnel answered itself, or cut the app's answer off; else empty.
        local_url: the local server that it was for, without a path; empty for an inbox.
        lease_id: the lease by which it came.
    """

    def __init__(self, data: Mapping[str, Any], replayer: Replayer | None = None) -> None:
        super().__init__(data)
        self._data = data
        self._replayer = replayer
        self.sequence: int = data["sequence"]
        """The request's place among all requests of the run, in the order of arrival."""
        self.lease_id: str = data["lease_id"]
        self.address: str = data["address"]
        """The part of the URL that names whose it is."""
        self.method: str = data["method"]
        self.path: str = data["path"]
        self.query_string: str = data["query"]
        self.query = Fields(parse_qsl(self.query_string, keep_blank_values=True))
        self.received_at = _moment(data["received_at"])
        self.client: str = data["client"]
        self.is_websocket: bool = data["websocket"]
        self.received: bool = data["received"]
        """Whether it has reached the app as a whole."""
        self.answered_by: Literal["app", "inbox", "tunnel"] | None = data["answered_by"]
        self.error: str = data["error"]
        self.over: bool = data["over"]
        """Whether nothing more will come, of the answer or of the WebSocket."""
        self.local_url: str = data["local_url"]
        self.messages = [WebSocketMessage(message) for message in data["messages"]]
        self.messages_dropped: int = data["messages_dropped"]

    @classmethod
    def from_data(
        cls, data: Mapping[str, Any], replayer: Replayer | None = None
    ) -> "InboundRequest":
        """Read what the keeper sent.

        Args:
            data: builtin types, as :meth:`to_data` gives them.
            replayer: sends the request again, where that is possible.

        Raises:
            ValueError: it is not that.
        """
        try:
            return cls(data, replayer)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a recorded request: {error!r}") from None

    def to_data(self) -> dict[str, Any]:
        """Return all of it in builtin types, as JSON can hold them."""
        return dict(self._data)

    def __repr__(self) -> str:
        shown = f"{self.method} {self.path}"
        if self.answered_by is not None and self._data["response"] is not None:
            shown += f" {self.response.status} by the {self.answered_by}"
        return f"<InboundRequest {shown}>"

    @property
    def response(self) -> Response:
        """What answered it.

        Raises:
            RuntimeError: nothing has, at the time when this request was returned.
        """
        if self._data["response"] is None:
            raise RuntimeError(
                f"{self.method} {self.path} had no answer yet when it was returned: wait with "
                'until="answered", or read synth_traffic.requests again'
            )
        return Response(self._data["response"])

    @property
    def answered(self) -> bool:
        """Whether :attr:`response` is there."""
        return self._data["response"] is not None

    @property
    def app_has_answered(self) -> bool:
        """Whether the app (or the inbox) has answered, as far as it will: a WebSocket is open, an
        HTTP answer at its end."""
        if self.answered_by not in ("app", "inbox"):
            return False
        return self.over or (self.is_websocket and self.answered)

    def form(self) -> Fields:
        """Return the fields of a form, URL-encoded or multipart. A file's value is its name.

        Raises:
            TruncatedBodyError: only a part of the body was recorded.
            ValueError: the body is no form.
        """
        if self.content_type == "application/x-www-form-urlencoded":
            content = self._content(whole=True).decode("utf-8", "replace")
            return Fields(parse_qsl(content, keep_blank_values=True))
        if self.content_type == "multipart/form-data":
            return Fields(_multipart(self.headers["content-type"], self._content(whole=True)))
        raise ValueError(f"the body is no form: its type is {self.content_type or 'not given'}")

    def curl(self) -> str:
        """Return a command line that sends the same to the local app, past the tunnel.

        Without the headers that the tunnel added, and with as much of the body as was recorded.
        """
        target = self.path + (f"?{self.query_string}" if self.query_string else "")
        # An asterisk or brackets in a URL are the caller's, and no pattern of curl's.
        parts = ["curl", "--globoff", "-X", self.method]
        for name, value in self.headers.pairs:
            lower = name.lower()
            if lower not in _NOT_REPEATED and not lower.startswith(_TUNNEL_HEADERS):
                parts += ["-H", f"{name}: {value}" if value else f"{name};"]
        before = ""
        if self.body:
            text = _plain_text(self.body)
            if text is not None:
                parts += ["--data-raw", text]
            else:
                before = f"echo {b64encode(self.body).decode()} | base64 -d | "
                parts += ["--data-binary", "@-"]
        parts.append(f"{self.local_url or 'http://127.0.0.1'}{target}")
        after = f"  # {len(self.body)} of {self.size_bytes} bytes" if self.truncated else ""
        return before + shlex.join(parts) + after

    def replay(self) -> "InboundRequest":
        """Send the request to the app again, through the tunnel's agent, and return it as it was
        recorded then, with the new answer.

        Raises:
            TruncatedBodyError: only a part of its body was recorded.
            RuntimeError: it has no run whose tunnel could send it, as one that was read from a
                file has not; or it is a WebSocket; or this is a running event loop.
            KeeperError: it is no longer recorded, or there was no answer.
        """
        return self._checked_replayer().replay(self.sequence)

    async def replay_async(self) -> "InboundRequest":
        """The same as :meth:`replay`, for asyncio and trio."""
        return await self._checked_replayer().replay_async(self.sequence)

    def _checked_replayer(self) -> Replayer:
        if self._replayer is None or self.is_websocket:
            what = "a WebSocket" if self.is_websocket else "a request without a run"
            raise RuntimeError(f"{what} cannot be sent again")
        if self.truncated:
            self._content(whole=True)
        return self._replayer


def _plain_text(body: bytes) -> str | None:
    """Return a body as text that a command line can hold, or ``None``."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _multipart(content_type: str, body: bytes) -> list[tuple[str, str]]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser().parsebytes(head + body)
    if not message.is_multipart():
        raise ValueError("the body is not the multipart form that it says it is")
    fields = []
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        if part.is_multipart() or not isinstance(name, str):
            continue
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else b""
        text = _decode(data, part.get("content-type", ""))
        filename = part.get_filename()
        fields.append((name, text if filename is None else filename))
    return fields


def _moment(unix_s: float) -> "datetime":
    return unpatched.datetime.fromtimestamp(unix_s, UTC)
