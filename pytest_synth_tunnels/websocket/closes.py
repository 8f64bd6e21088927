"""Codes and reasons of WebSocket closes, as far as they may travel. No I/O."""

from typing import Final

__all__ = ["wire_code", "wire_reason"]

_MAX_REASON_BYTES: Final = 123
_NO_CODE: Final = 1005
_SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""The codes that a close frame may carry."""


def wire_code(code: int | None) -> int | None:
    """Return the code that a close frame carries, ``None`` for none at all."""
    if code is None or code == _NO_CODE:
        return None
    return code if code in _SENDABLE else 1011


def wire_reason(reason: str) -> str:
    """Return as much of a reason as a close frame has room for."""
    return reason.encode(errors="replace")[:_MAX_REASON_BYTES].decode(errors="ignore")
