"""An error as every part of the tunnel answers it. No I/O."""

from typing import Any

import msgspec

from .headers import Headers, Response

__all__ = ["error_response"]


def error_response(
    status: int,
    code: str,
    message: str,
    request_id: str = "",
    *,
    detail: str | None = None,
    headers: Headers | None = None,
    **details: Any,
) -> Response:
    """Return an error as every part of the tunnel tells it.

    Args:
        status: the HTTP status.
        code: the stable code (protocol, section 1).
        message: for people: what failed, and what to do.
        request_id: names the request in the log, too.
        detail: what clients match words in; ``message`` unless given.
        headers: further ones.
        details: further fields of the body.

    Returns:
        Status, headers and the JSON body, as :meth:`.exchange.Exchange.respond` takes them.
    """
    body = {
        "code": code,
        "detail": message if detail is None else detail,
        "message": message,
        "request_id": request_id,
        **details,
    }
    found = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *(headers or ())]
    return status, found, msgspec.json.encode(body)
