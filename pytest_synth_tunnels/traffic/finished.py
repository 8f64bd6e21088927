"""What the log holds of requests that were answered before anybody looked at them, as most are.

Such requests are packed, many at a time: all that is known of them becomes one piece of memory.
The log holds thousands of requests for a while. The many small objects that a request is made of
while it is in flight would be out of the processor's caches by the time that the log drops them,
and the next request would get memory that is as cold. So they go soon, while they are warm, and
the next requests are made of the same memory.
"""

from typing import Final, NamedTuple

import msgspec

from .place import RecordedApp

__all__ = ["BATCH", "LONG_BYTES", "Batch", "Contents", "CutBody", "pack_into"]

BATCH: Final = 32
"""Requests that are packed at a time. What packing costs each hardly falls with more of them."""

LONG_BYTES: Final = 4096
"""What the bodies of a request that are packed have together at most; to copy longer ones would
cost more than it saves."""

pack_into: Final = msgspec.msgpack.Encoder().encode_into
"""Packs a list of :class:`Contents`, or of tuples of the same items, into a ``bytearray``."""


class Contents(NamedTuple):
    """What is packed of a request.

    Attributes:
        head: its head as the app got it.
        arrived_s: when it came.
        status: of the answer.
        reason: of the answer; ``None`` for the usual one of the status.
        headers: of the answer.
        ended_s: when the answer was complete.
        body: of the request; empty if it is kept apart.
        response_body: of the answer; empty if it is kept apart.
    """

    head: str
    arrived_s: float
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


class Batch(msgspec.Struct, gc=False, eq=False):
    """Requests that came one after the other into the log. The garbage collector leaves them
    alone, because nothing in them can lead back to them.

    Attributes:
        apps: where each went.
        packed: the :class:`Contents` of each.
        bodies: those of request and answer, for each request where they are kept apart, by its
            index, because they are long or cut.
        size_bytes: what all of it takes of the log's memory.
        ended_s: when the answer to the last was complete.
        first_sequence: the number of the first among all requests of the run; the log sets it.
    """

    apps: list[RecordedApp]
    packed: bytes
    bodies: dict[int, tuple[CutBody, CutBody]]
    size_bytes: int
    ended_s: float
    first_sequence: int = 0

    def unpack(self) -> list[Contents]:
        """Return the rest of each request."""
        return _unpack(self.packed)


_unpack: Final = msgspec.msgpack.Decoder(list[Contents]).decode
