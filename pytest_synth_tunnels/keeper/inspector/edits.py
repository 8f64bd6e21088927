"""A recorded request with the changes that a person made to it in the inspector.

The person saw it masked. What is still as it was shown is sent as it was recorded: a header, a
parameter of the query, a body, and in a body that was changed, the fields of a form and the members
of JSON. So keys are sent without ever having been in the page.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from typing import Any, Final

import msgspec

from ...traffic.exchange import InboundRequest
from ...traffic.masking import MASK
from ..replay import ReplayedParts

__all__ = ["apply_edits"]

_MAX_HEADERS: Final = 128
_MAX_HEAD_BYTES: Final = 65_536

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_PATH = re.compile(r"/[!-\"$->@-~]*")
_QUERY = re.compile(r"[!-\"$-~]*")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")


def apply_edits(
    edits: Mapping[str, Any], shown: InboundRequest, real: InboundRequest
) -> ReplayedParts:
    """Return what is to be sent.

    Args:
        edits: what was changed: any of ``method``, ``path``, ``query``, ``headers`` (pairs),
            ``body`` (text) and ``body_base64``.
        shown: the request as the person saw it.
        real: the request as it was recorded.

    Raises:
        ValueError: something cannot be sent; the message is for the person.
    """
    unknown = edits.keys() - {"method", "path", "query", "headers", "body", "body_base64"}
    if unknown:
        raise ValueError(f"{min(unknown)} is nothing that can be changed")
    method = _matching(_TOKEN, edits.get("method", real.method), "the method must be one word")
    path = _matching(
        _PATH,
        edits.get("path", real.path),
        "the path must begin with / and be percent-encoded, without ? and #",
    )
    query = real.query_string
    if "query" in edits:
        query = _matching(_QUERY, edits["query"], "the query must be percent-encoded, without #")
        query = _unmasked_fields(query, shown.query_string, real.query_string)
    headers = real.headers.pairs
    if "headers" in edits:
        headers = _unmasked_headers(_headers(edits["headers"]), shown, real)
    size_bytes = len(path) + len(query) + sum(len(name) + len(value) for name, value in headers)
    if size_bytes > _MAX_HEAD_BYTES:
        raise ValueError(f"path, query and headers are longer than {_MAX_HEAD_BYTES} bytes")
    is_coding = "content-encoding".__eq__
    if "body" in edits or "body_base64" in edits:
        # What the person saw and changed was not compressed.
        headers = [pair for pair in headers if not is_coding(pair[0].lower())]
        return method, path, query, headers, _body(edits, shown, real)
    if real.truncated or not real.received:
        raise ValueError("the body was not recorded as a whole: give another one")
    codings = [pair for pair in real.headers.pairs if is_coding(pair[0].lower())]
    headers = [pair for pair in headers if not is_coding(pair[0].lower())] + codings
    return method, path, query, headers, real.body


def _matching(pattern: re.Pattern[str], value: object, otherwise: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(otherwise)
    return value


def _headers(given: object) -> list[tuple[str, str]]:
    if not isinstance(given, Sequence) or len(given) > _MAX_HEADERS:
        raise ValueError(f"there may be {_MAX_HEADERS} headers at most")
    found = []
    for pair in given:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError("a header is a name and a value")
        name, value = pair
        _matching(_TOKEN, name, f"{str(name)[:64]!r} is no name of a header")
        said = f"the value of the header {name!r} has a character that no header can have"
        found.append((name, _matching(_VALUE, value, said)))
    return found


def _unmasked_headers(
    given: Iterable[tuple[str, str]], shown: InboundRequest, real: InboundRequest
) -> list[tuple[str, str]]:
    # Masking leaves out and changes the headers that tell of the body; all others keep their order.
    real_pairs = [pair for pair in real.headers.pairs if not _is_of_the_body(pair[0])]
    shown_pairs = [pair for pair in shown.headers.pairs if not _is_of_the_body(pair[0])]
    left = [
        (name.lower(), masked, value)
        for (name, value), (_, masked) in zip(real_pairs, shown_pairs, strict=True)
    ]
    found = []
    for name, value in given:
        for one in left:
            if one[:2] == (name.lower(), value):
                left.remove(one)
                value = one[2]
                break
        found.append((name, value))
    return found


def _is_of_the_body(name: str) -> bool:
    return name.lower() in ("content-encoding", "content-length")


def _unmasked_fields(given: str, shown: str, real: str, between: str = "&") -> str:
    """Return a query or a form in which each field that is as it was shown is as it was sent.

    Args:
        given: what the person made of it.
        shown: as it was shown.
        real: as it was sent.
        between: what stands between two fields.
    """
    left = list(zip(shown.split(between), real.split(between), strict=False))
    found = []
    for field in given.split(between):
        for one in left:
            if one[0] == field:
                left.remove(one)
                field = one[1]
                break
        found.append(field)
    return between.join(found)


def _body(edits: Mapping[str, Any], shown: InboundRequest, real: InboundRequest) -> bytes:
    if "body_base64" in edits:
        try:
            return b64decode(_matching(re.compile(r".*"), edits["body_base64"], ""), validate=True)
        except (Base64Error, ValueError):
            raise ValueError("the body is no base64") from None
    text = edits["body"]
    if not isinstance(text, str):
        raise ValueError("the body must be text")
    if MASK in text:
        if between := _between_fields(real):
            text = _unmasked_fields(text, shown.text, real.text, between)
        else:
            text = _unmasked_json(text, shown, real)
    return text.encode("utf-8", "surrogatepass")


def _between_fields(request: InboundRequest) -> str:
    """Return what stands between the fields of a form; empty where the body is none."""
    if request.content_type == "application/x-www-form-urlencoded":
        return "&"
    if request.content_type != "multipart/form-data":
        return ""
    head = Message()
    head["Content-Type"] = request.headers["content-type"]
    boundary = head.get_boundary()
    return f"--{boundary}" if boundary else ""


def _unmasked_json(text: str, shown: InboundRequest, real: InboundRequest) -> str:
    try:
        given = msgspec.json.decode(text)
        before, after = msgspec.json.decode(shown.text), msgspec.json.decode(real.text)
        value = _unmasked_value(given, before, after)
        return text if value == given else msgspec.json.encode(value).decode()
    except (ValueError, RecursionError):
        return text  # it is no JSON, or has more depth than can be walked through


def _unmasked_value(given: Any, shown: Any, real: Any) -> Any:
    """Return a JSON value in which what stands masked where it was shown masked is as recorded."""
    if given == MASK and shown == MASK:
        return real
    if isinstance(given, dict) and isinstance(shown, dict) and isinstance(real, dict):
        return {
            name: _unmasked_value(value, shown.get(name), real.get(name))
            for name, value in given.items()
        }
    if isinstance(given, list) and isinstance(shown, list) and isinstance(real, list):
        known = [*zip(shown, real, strict=False)]
        known += [(None, None)] * (len(given) - len(known))
        return [_unmasked_value(item, *known[place]) for place, item in enumerate(given)]
    return given
