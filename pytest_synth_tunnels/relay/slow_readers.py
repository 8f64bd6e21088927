"""What waits for callers that read slowly, where their agents cannot be made to wait.

An agent that knows windows sends no more than a window to a caller that does not read. Another one
sends on, and its link carries the answers of everybody: to let it wait would hold up all of them.
So what comes for a slow caller is kept, and what is kept for all of them together is bounded: past
the bound the one for whom the most is kept is cut off, at once, and nobody else notices.
"""

from typing import Protocol

__all__ = ["SlowReader", "SlowReaders"]

_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""How much may be kept for all slow callers of a relay together."""


class SlowReader(Protocol):
    """A request whose caller reads its answer slowly."""

    __slots__ = ()

    @property
    def unread_bytes(self) -> int:
        """How much of the answer waits for the caller, in bytes."""

    def cut_off(self) -> None:
        """End the answer and forget what waits of it, and so be a slow reader no more."""


class SlowReaders:
    """The slow readers of one relay."""

    def __init__(self) -> None:
        self._readers: set[SlowReader] = set()

    def __len__(self) -> int:
        return len(self._readers)

    def add(self, reader: SlowReader) -> None:
        """Count a reader for whom more is kept than a window, again each time that more comes."""
        self._readers.add(reader)
        waiting = {each: each.unread_bytes for each in self._readers}
        if sum(waiting.values()) > _MAX_UNREAD_BYTES:
            max(waiting, key=waiting.__getitem__).cut_off()

    def discard(self, reader: SlowReader) -> None:
        """Count a reader no more that has caught up, or has ended."""
        self._readers.discard(reader)
