"""Long WebSocket frames, cut into fragments before anybody holds them whole. No I/O.

The ``websockets`` library hands a frame out once all of it is there, which may be 16 MiB from each
of many peers. What passes through here first has no frame that is long. The library stays in
charge: it sees fragments of the same message, with the same mask, and judges them.
"""

import struct
from typing import Final

from ..wire.frames import MAX_CHUNK_BYTES

__all__ = ["FrameSplitter"]

_FIN: Final = 0x80
_MASKED: Final = 0x80
_MEDIUM = struct.Struct("!BBH")
_LONG = struct.Struct("!BBQ")
_U16 = struct.Struct("!H")
_U64 = struct.Struct("!Q")


class FrameSplitter:
    """Takes what a peer sends, in order.

    Args:
        max_bytes: the longest message. A frame that is longer passes as it is, so that it is
            refused for what its header says.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = b""
        """The part of a header."""
        self._passes = 0
        """How many bytes more pass as they are."""
        self._left = 0
        """How many bytes of a long frame follow them."""
        self._first = 0
        """The first byte of the long frame's next fragment, but for the last one's end mark."""
        self._fin = 0
        """The end mark of the long frame."""
        self._key = b""
        """The key of the long frame's mask, if it has one. The fragments are multiples of its
        length, so that each begins with its first byte."""

    def feed(self, data: bytes) -> bytes:
        """Return what is to be read instead of ``data``."""
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        start = at = 0
        while at < len(data):
            if self._passes:
                taken = min(self._passes, len(data) - at)
                self._passes -= taken
                at += taken
            elif self._left > 0:
                pieces += data[start:at], self._head()
                start = at
            elif size := self._read_head(data, at):
                if self._left > 0:
                    pieces.append(data[start:at])
                    at += size
                    start = at
            else:
                self._held = data[at:]
                break
        if not pieces and not self._held:
            return data
        pieces.append(data[start:at])
        return b"".join(pieces)

    def _read_head(self, data: bytes, at: int) -> int:
        """Look at the header that begins there; return its length, or 0 if it is not complete."""
        available = len(data) - at
        if available < 2:
            return 0
        second = data[at + 1]
        length = second & 0x7F
        size = 2 if length < 126 else 4 if length == 126 else 10
        masked = second & _MASKED
        if masked:
            size += 4
        if available < size:
            return 0
        if length == 126:
            (length,) = _U16.unpack_from(data, at + 2)
        elif length == 127:
            (length,) = _U64.unpack_from(data, at + 2)
        if MAX_CHUNK_BYTES < length <= self._max_bytes:
            self._fin = data[at] & _FIN
            self._first = data[at] ^ self._fin
            self._key = data[at + size - 4 : at + size] if masked else b""
            self._left = length
        else:
            self._passes = size + length
        return size

    def _head(self) -> bytes:
        """Begin the next fragment of the long frame."""
        length = self._passes = min(self._left, MAX_CHUNK_BYTES)
        self._left -= length
        first, self._first = self._first, 0
        if not self._left:
            first |= self._fin
        mask = _MASKED if self._key else 0
        if length < 126:
            return bytes((first, mask | length)) + self._key
        if length < 65_536:
            return _MEDIUM.pack(first, mask | 126, length) + self._key
        return _LONG.pack(first, mask | 127, length) + self._key
