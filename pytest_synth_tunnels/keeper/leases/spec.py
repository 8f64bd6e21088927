"""What a lease is asked for with, and how it is given back. No I/O."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ...sdk import requests
from ...sdk.errors import TunnelError

__all__ = [
    "SYNTHTUNNEL",
    "LeaseSpec",
    "is_gone",
    "parse_rfc3339",
    "release_requests",
]

SYNTHTUNNEL: Final = "synthtunnel"
"""The provider whose leases have an agent at the backend's relay; all others are managed."""


class LeaseSpec(msgspec.Struct, frozen=True):
    """What a lease is asked for with.

    Attributes:
        port: the local port, for the backend's listings.
        ttl_s: how long it should live, in seconds.
        metadata: kept with it by the backend; ``name`` in it is for listings.
        require_token: whether callers must send the worker token.
    """

    port: int
    ttl_s: float
    metadata: dict[str, Any]
    require_token: bool = True


def parse_rfc3339(moment: str) -> float:
    """Read an RFC 3339 moment as unix seconds; UTC where it names no zone."""
    parsed = datetime.fromisoformat(moment)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def release_requests(provider: str, lease_id: str) -> list[requests.Request]:
    """Return the calls that give a lease back, in their order."""
    if provider == SYNTHTUNNEL:
        return [requests.close_synth_lease(lease_id)]
    return [requests.release_lease(lease_id), requests.delete_lease(lease_id)]


def is_gone(error: TunnelError) -> bool:
    """Whether an error says that the backend has no such lease, so that its release is done."""
    return error.status in (404, 410)
