"""Recorded requests, made by hand."""

import json
from base64 import b64encode
from typing import Any

from pytest_synth_tunnels.traffic.exchange import InboundRequest

Headers = list[tuple[str, str]]

START_S = 1_700_000_000.0


def response(
    status: int = 200,
    body: bytes | str = b"",
    *,
    headers: Headers | None = None,
    complete: bool = True,
    truncated: bool = False,
) -> dict[str, Any]:
    """Return the data of an answer."""
    content = body.encode() if isinstance(body, str) else body
    return {
        "status": status,
        "reason": "OK" if status == 200 else "",
        "headers": headers or [],
        "body": b64encode(content).decode(),
        "size_bytes": len(content) + truncated,
        "truncated": truncated,
        "duration_s": 0.005,
        "complete": complete,
    }


def message(data: str | bytes, sender: str = "caller", at: float = START_S) -> dict[str, Any]:
    """Return the data of a WebSocket's message."""
    raw = data.encode() if isinstance(data, str) else data
    return {
        "sender": sender,
        "text": isinstance(data, str),
        "data": b64encode(raw).decode(),
        "size_bytes": len(raw),
        "truncated": False,
        "at": at,
    }


def recorded(
    method: str = "GET",
    path: str = "/",
    *,
    query: str = "",
    headers: Headers | None = None,
    body: bytes | str = b"",
    json_body: Any = None,
    truncated: bool = False,
    sequence: int = 1,
    answered_by: str | None = "app",
    answer: dict[str, Any] | None = None,
    received: bool = True,
    over: bool = True,
    error: str = "",
    websocket: bool = False,
    messages: list[dict[str, Any]] | None = None,
    local_url: str = "http://127.0.0.1:8000",
) -> InboundRequest:
    """Return a request as the keeper sends it; by default one that the app has answered."""
    headers = list(headers or [])
    if json_body is not None:
        body = json.dumps(json_body)
        headers.append(("Content-Type", "application/json"))
    content = body.encode() if isinstance(body, str) else body
    if answered_by is not None and answer is None:
        answer = response()
    data = {
        "sequence": sequence,
        "lease_id": "lease-1",
        "address": "t1",
        "method": method,
        "path": path,
        "query": query,
        "headers": headers,
        "body": b64encode(content).decode(),
        "size_bytes": len(content) + 1000 * truncated,
        "truncated": truncated,
        "received_at": START_S + sequence,
        "client": "127.0.0.1",
        "websocket": websocket,
        "received": received,
        "answered_by": answered_by,
        "error": error,
        "over": over,
        "local_url": local_url,
        "messages": messages or [],
        "messages_dropped": 0,
        "response": answer,
    }
    return InboundRequest.from_data(json.loads(json.dumps(data)))
