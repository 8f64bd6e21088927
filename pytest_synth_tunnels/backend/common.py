"""The refusals, ids, times and bounds that every part of the backend's state uses. Pure."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

__all__ = [
    "MAX_TTL_S",
    "MIN_TTL_S",
    "Clock",
    "RefusedError",
    "TokenMaker",
    "clamp_ttl",
    "make_room",
    "make_token",
    "timestamp",
]

MIN_TTL_S: Final = 60.0
MAX_TTL_S: Final = 86_400.0
_TOKEN_BYTES: Final = 24

Clock = Callable[[], float]
"""Unix seconds. The wall clock, because a lease also runs out while a laptop sleeps."""

TokenMaker = Callable[[str], str]
"""Makes an unguessable text from a prefix."""


class RefusedError(Exception):
    """The backend refuses a request: a status, a stable code, and a sentence for a person.

    Attributes:
        status: the HTTP status.
        code: for programs; it does not change between versions.
        message: for people; it never holds a secret.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


class Ending(Protocol):
    """A record that ends at some time, and is kept as history after that."""

    @property
    def ended(self) -> bool:
        """Whether it has reached its last state."""


_E = TypeVar("_E", bound=Ending)


def make_token(prefix: str) -> str:
    """Return ``prefix`` and 192 random bits, safe in URLs and headers."""
    return f"{prefix}_{os.urandom(_TOKEN_BYTES).hex()}"


def clamp_ttl(requested_s: float) -> float:
    """Return the time to live, in seconds, that a request for ``requested_s`` gets."""
    return float(min(max(requested_s, MIN_TTL_S), MAX_TTL_S))


def timestamp(unix_s: float) -> str:
    """Return the moment as RFC 3339, in UTC."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_room(records: dict[str, _E], limit: int, what: str) -> _E | None:
    """Keep ``records`` bounded: forget the oldest one that has ended where there is no room.

    Args:
        records: by id, oldest first; it may lose one.
        limit: how many it may hold.
        what: their plural, for the refusal.

    Returns:
        The forgotten record, if there was one.

    Raises:
        RefusedError: 429, all of them are live.
    """
    if len(records) < limit:
        return None
    oldest = next((key for key, record in records.items() if record.ended), None)
    if oldest is None:
        raise RefusedError(
            429,
            "rate_limited",
            f"all {limit} {what} that this backend can hold are live: release some of them",
        )
    return records.pop(oldest)
