"""Frames to the JSON text of a WebSocket message and back, validated. No I/O.

What arrives is checked here and nowhere else: the types, and that headers, path and status may
travel in HTTP. Long bodies bypass the JSON codec, which takes ten times as long for base64 as a
library that knows the processor's vector instructions.
"""

import os
import re
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec
import pybase64

from ..http.headers import Headers, HeaderTable
from .frames import (
    Frame,
    FrameEnvelope,
    FrameError,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespHeaders,
    RespInterim,
    WsFrame,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
)

__all__ = ["decode", "encode"]

_LONG_BYTES: Final = 2048
"""From here on it pays to take the base64 out of the JSON text."""

_PAYLOADS: Final = {
    ReqHeaders: "body",
    ReqBody: "chunk",
    RespHeaders: "body",
    RespBody: "chunk",
    WsFrame: "data",
}
"""Kinds of frames with much in them, and where that is."""

# No string can hold these bytes: a quotation mark in it would be escaped.
_PAYLOAD: Final = re.compile(rb'"(?:body|chunk|data)_b64"\s*:\s*"')
_PLACEHOLDER: Final = os.urandom(12)
"""Stands for a long payload while the JSON codec sees the rest. Nobody can guess it, so the field
that has this value after decoding is the one whose text was replaced."""

_PLACEHOLDER_B64: Final = pybase64.b64encode(_PLACEHOLDER)

_encoder: Final = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Frame)
"""Not Final: a test puts another in its place."""

_envelope_decoder: Final = msgspec.json.Decoder(FrameEnvelope)
_TYPES: Final = frozenset(kind.__struct_config__.tag for kind in get_args(Frame))
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE_TARGET: Final = re.compile(r"[\x00-\x20\x7f#\u0100-\U0010ffff]")
_FIELD_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\u0100-\U0010ffff]*")


def _is_token(name: str) -> bool:
    """Tell whether a header name is an HTTP token."""
    return _TOKEN.fullmatch(name) is not None


_tokens: Final = HeaderTable(_is_token)


def encode(frame: Frame) -> bytes:
    """Return the frame as JSON, ready for a WebSocket text message."""
    field = _PAYLOADS.get(type(frame))
    if field is None:
        return _encoder.encode(frame)
    payload: bytes = getattr(frame, field)
    if len(payload) < _LONG_BYTES:
        return _encoder.encode(frame)
    short = msgspec.structs.replace(frame, **{field: _PLACEHOLDER})
    before, _, after = _encoder.encode(short).partition(_PLACEHOLDER_B64)
    return b"".join((before, pybase64.b64encode(payload), after))


def decode(data: bytes | str) -> Frame | None:
    """Read one WebSocket text message.

    Args:
        data: the message.

    Returns:
        The frame, or ``None`` for a type that this version does not know.

    Raises:
        FrameError: not JSON, a field of the wrong type, or a value that may not travel in HTTP.
    """
    frame: Frame | None = None
    if len(data) > _LONG_BYTES and isinstance(data, bytes):
        frame = _decode_long(data)
    if frame is None:
        try:
            frame = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            refusal = _refuse(data, error)
            if refusal is None:
                return None
            raise refusal from None
    check = _CHECKS.get(type(frame))
    if check is not None:
        check(frame)
    return frame


def _decode_long(data: bytes) -> Frame | None:
    """Read a frame around its base64, or nothing where the usual way has to judge it."""
    found = _PAYLOAD.search(data)
    if found is None:
        return None
    start = found.end()
    end = data.find(b'"', start)
    try:
        frame: Frame = _decoder.decode(b"".join((data[:start], _PLACEHOLDER_B64, data[end:])))
        field = _PAYLOADS.get(type(frame), "")
        if not field or getattr(frame, field) != _PLACEHOLDER:
            return None  # What was found is not the payload: another object's, or an unknown field.
        payload = pybase64.b64decode(memoryview(data)[start:end], validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Base64Error):
        return None
    setattr(frame, field, payload)
    return frame


def _refuse(data: bytes | str, error: Exception) -> FrameError | None:
    """Return the error that a bad frame is, or nothing for a frame of an unknown type."""
    try:
        envelope = _envelope_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return FrameError("not a JSON object with a type and a rid")
    if envelope.type not in _TYPES:
        return None
    return FrameError(f"{envelope.type}: {error}", envelope.rid)


def _check_request(frame: ReqHeaders) -> None:
    """Refuse what would change the request that the frame becomes."""
    _check_headers(frame.headers, frame.rid)
    if frame.negotiated:
        _check_headers(frame.negotiated, frame.rid)
    _check_target(frame)
    if not _TOKEN.fullmatch(frame.method):
        raise FrameError("method is not an HTTP token", frame.rid)


def _check_response(frame: RespHeaders | WsOpenReject) -> None:
    """Refuse what would change the response that the frame becomes."""
    _check_headers(frame.headers, frame.rid)
    if not 200 <= frame.status <= 999:
        raise FrameError(f"status {frame.status} is not a final HTTP status", frame.rid)
    if frame.reason and not _FIELD_VALUE.fullmatch(frame.reason):
        raise FrameError("the reason phrase cannot travel in HTTP", frame.rid)


def _check_interim(frame: RespInterim) -> None:
    """Refuse what would change the interim response that the frame becomes."""
    _check_headers(frame.headers, frame.rid)
    if not 100 <= frame.status <= 199 or frame.status == 101:
        raise FrameError(f"status {frame.status} is not an interim HTTP status", frame.rid)


def _check_handshake(frame: WsOpen) -> None:
    """Refuse what would change the handshake that the frame becomes."""
    _check_headers(frame.headers, frame.rid)
    _check_target(frame)


def _check_accepted(frame: WsOpenAck) -> None:
    """Refuse what would change the answer to a handshake that the frame becomes."""
    _check_headers(frame.headers, frame.rid)


def _check_end(frame: ReqEnd | RespEnd) -> None:
    """Refuse trailers that would change the message that they end."""
    if frame.trailers:
        _check_headers(frame.trailers, frame.rid)


def _check_target(frame: ReqHeaders | WsOpen) -> None:
    """Refuse what would change a request line, or the header that names the request."""
    path = frame.path
    # OPTIONS * is for the server as a whole (RFC 9112, section 3.2.4).
    if not (path.startswith("/") or path == "*") or _UNSAFE_TARGET.search(f"{path}?{frame.query}"):
        raise FrameError("path or query cannot travel in a request line", frame.rid)
    if not (frame.rid.isascii() and frame.rid.isprintable()):
        raise FrameError("the rid cannot travel in a header", frame.rid)  # the app gets it


def _check_headers(headers: Headers, rid: str) -> None:
    """Refuse headers that would change the message that they are written into."""
    values = "".join([value for _, value in headers])
    sound = map(_tokens.__getitem__, [name for name, _ in headers])
    if values.isascii() and values.isprintable() and all(sound):
        return
    for name, value in headers:
        if not _tokens[name] or not _FIELD_VALUE.fullmatch(value):
            raise FrameError(f"header {name[:40]!r} cannot travel in HTTP", rid)


_CHECKS: Final[dict[type[Any], Callable[[Any], None]]] = {
    ReqHeaders: _check_request,
    ReqEnd: _check_end,
    RespInterim: _check_interim,
    RespHeaders: _check_response,
    RespEnd: _check_end,
    WsOpen: _check_handshake,
    WsOpenAck: _check_accepted,
    WsOpenReject: _check_response,
}
"""The kinds of frames that become parts of HTTP messages, and what refuses the unsound ones."""
