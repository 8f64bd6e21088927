"""Recorded requests as an HTTP Archive (HAR 1.2), which browsers' network panels and many tools
read.

The format is http://www.softwareishard.com/blog/har-12-spec/. Fields that begin with an underscore
are each program's own: WebSocket messages are written as browsers write them, and what only this
project knows begins with ``_synth``.
"""

from base64 import b64encode
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, NamedTuple

from .exchange import Fields, InboundRequest, Response, WebSocketMessage

__all__ = ["HarRecord", "har_log"]

_OPCODES: Final = {True: 1, False: 2}
"""Of a WebSocket's frames, by whether they are text (RFC 6455, section 5.2)."""

_UNKNOWN: Final = -1
"""What HAR writes for a size or a time that nobody knows."""


class HarRecord(NamedTuple):
    """A request, and whose it is.

    Attributes:
        request: one whose keys are masked.
        test: the id of the test that it belongs to; empty for none.
        worker: the xdist worker of that test; empty for none.
        is_late: whether it came after that test.
    """

    request: InboundRequest
    test: str = ""
    worker: str = ""
    is_late: bool = False


def har_log(
    records: Iterable[HarRecord], *, version: str, comment: str, run_id: str
) -> dict[str, Any]:
    """Return a HAR file's content in builtin types, as JSON can hold them.

    Args:
        records: oldest first.
        version: this project's.
        comment: what the file says of itself.
        run_id: of the run; it stands at the beginning, by which the file is told from others.
    """
    return {
        "log": {
            "version": "1.2",
            "creator": {"name": "pytest-synth-tunnels", "version": version},
            "_synthRun": run_id,
            "comment": comment,
            "entries": [_entry(record) for record in records],
        }
    }


def _entry(record: HarRecord) -> dict[str, Any]:
    request = record.request
    duration_ms = request.response.duration_s * 1000 if request.answered else 0.0
    entry: dict[str, Any] = {
        "startedDateTime": request.received_at.isoformat(),
        "time": duration_ms,
        "request": _request(request),
        "response": _response(request.response if request.answered else None),
        "cache": {},
        "timings": {"send": 0, "wait": duration_ms, "receive": 0},
        "_synthTest": record.test,
        "_synthWorker": record.worker,
        "_synthLease": request.lease_id,
        "_synthAnsweredBy": request.answered_by,
        "_synthSequence": request.sequence,
    }
    if request.error:
        entry["_synthError"] = request.error
    if request.is_websocket:
        entry["_resourceType"] = "websocket"
        entry["_webSocketMessages"] = [_websocket_message(each) for each in request.messages]
    return entry


def _request(request: InboundRequest) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": request.method,
        "url": _public_url(request),
        "httpVersion": "HTTP/1.1",
        "cookies": _cookies(request.headers.get_all("cookie")),
        "headers": _pairs(request.headers),
        "queryString": _pairs(request.query),
        "headersSize": _UNKNOWN,
        "bodySize": request.size_bytes,
    }
    if request.body:
        text, encoding = _content(request)
        found["postData"] = {
            "mimeType": request.headers.get("content-type", "application/octet-stream"),
            "params": [],
            "text": text,
        }
        if encoding:
            found["postData"]["_encoding"] = encoding
        if request.truncated:
            found["postData"]["comment"] = _shortened(request)
    return found


def _response(response: Response | None) -> dict[str, Any]:
    if response is None:
        # As browsers write a request that got no response.
        return {
            "status": 0,
            "statusText": "",
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": [],
            "content": {"size": 0, "mimeType": "x-unknown"},
            "redirectURL": "",
            "headersSize": _UNKNOWN,
            "bodySize": _UNKNOWN,
        }
    content: dict[str, Any] = {
        "size": response.size_bytes,
        "mimeType": response.headers.get("content-type", "x-unknown"),
    }
    if response.body:
        content["text"], encoding = _content(response)
        if encoding:
            content["encoding"] = encoding
    if response.truncated:
        content["comment"] = _shortened(response)
    return {
        "status": response.status,
        "statusText": response.reason,
        "httpVersion": "HTTP/1.1",
        "cookies": _cookies(response.headers.get_all("set-cookie")),
        "headers": _pairs(response.headers),
        "content": content,
        "redirectURL": response.headers.get("location", ""),
        "headersSize": _UNKNOWN,
        "bodySize": response.size_bytes,
    }


def _content(message: InboundRequest | Response) -> tuple[str, str]:
    """Return a body as HAR writes it, and how that is encoded: text as it is, all else as base64.

    A compressed body is written without its content coding, as browsers do.
    """
    content = message.content
    try:
        return content.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        # A body that was recorded in part may end within a character.
        if message.truncated and error.end == len(content) and len(content) - error.start < 4:
            return content[: error.start].decode("utf-8"), ""
        return b64encode(content).decode(), "base64"


def _shortened(message: InboundRequest | Response) -> str:
    return f"the first {len(message.body)} of {message.size_bytes} bytes"


def _public_url(request: InboundRequest) -> str:
    """Return the URL that the caller used, as the headers tell it."""
    headers = request.headers
    host = headers.get("x-forwarded-host") or headers.get("host", "")
    scheme = headers.get("x-forwarded-proto", "http")
    if request.is_websocket:
        scheme = "wss" if scheme == "https" else "ws"
    query = f"?{request.query_string}" if request.query_string else ""
    return f"{scheme}://{host}{headers.get('x-forwarded-prefix', '')}{request.path}{query}"


def _pairs(fields: Fields) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in fields.pairs]


def _cookies(values: Iterable[str]) -> list[dict[str, Any]]:
    """Return the cookies of ``Cookie`` or ``Set-Cookie`` fields; those that cannot be read stay
    in the headers alone."""
    found: list[dict[str, Any]] = []
    for value in values:
        try:
            cookies = SimpleCookie(value)
        except CookieError:
            continue
        for name, morsel in cookies.items():
            cookie: dict[str, Any] = {"name": name, "value": morsel.value}
            cookie |= {key: morsel[key] for key in ("path", "domain") if morsel[key]}
            cookie |= {
                key: True
                for key, attribute in (("httpOnly", "httponly"), ("secure", "secure"))
                if morsel[attribute]
            }
            found.append(cookie)
    return found


def _websocket_message(message: WebSocketMessage) -> dict[str, Any]:
    is_text = isinstance(message.data, str)
    data = message.data if isinstance(message.data, str) else b64encode(message.data).decode()
    return {
        "type": "send" if message.sender == "caller" else "receive",
        "time": message.sent_at.timestamp(),
        "opcode": _OPCODES[is_text],
        "data": data,
    }
