"""What the log holds of a request that was answered before anybody looked at it, as most are.

All that is known of such a request is packed into one piece of memory. The log holds thousands of
requests for a while. The many small objects that a request is made of while it is in flight would
be out of the processor's caches by the time that the log drops them, and the next request would
get memory that is as cold. So they go with the request, while they are warm, and the next one is
made of the same memory.
"""

from typing import Final, NamedTuple

import msgspec

from .place import Place, RecordedApp

__all__ = ["LONG_BYTES", "Contents", "CutBody", "Finished", "pack_into"]

LONG_BYTES: Final = 4096
"""What bodies that are packed have together at most; to copy longer ones would cost more than it
saves."""

pack_into: Final = msgspec.msgpack.Encoder().encode_into
"""Writes the items of a :class:`Contents`, as any tuple, into a ``bytearray``."""


class Contents(NamedTuple):
    """What is packed of a request.

    Attributes:
        head: its head as the app got it.
        status: of the answer.
        reason: of the answer; ``None`` for the usual one of the status.
        headers: of the answer.
        ended_s: when the answer was complete.
        body: of the request; empty if it is kept apart.
        response_body: of the answer; empty if it is kept apart.
    """

    head: str
    status: int
    reason: str | None
    headers: list[tuple[str, str]]
    ended_s: float
    body: bytes
    response_body: bytes


class CutBody(NamedTuple):
    """A body, or the beginning of one.

    Attributes:
        kept: as much of it as is recorded.
        size_bytes: how long it was.
    """

    kept: bytes
    size_bytes: int


class Finished(msgspec.Struct, gc=False):
    """A request that was answered before anybody looked at it. The garbage collector leaves it
    alone, because nothing in it can lead back to it.

    Attributes:
        app: where it went.
        arrived_s: when it came.
        size_bytes: what it takes of the log's memory.
        packed: its :class:`Contents`, packed.
        bodies: those of request and answer, where they are kept apart because they are long or
            cut.
    """

    app: RecordedApp
    arrived_s: float
    size_bytes: int
    packed: bytes
    bodies: tuple[CutBody, CutBody] | None = None

    @property
    def place(self) -> Place:
        """Where it came."""
        return self.app.place

    def unpack(self) -> Contents:
        """Return the rest of it."""
        return _unpack(self.packed)


_unpack: Final = msgspec.msgpack.Decoder(Contents).decode
