"""What a lease is asked for with, and how it is given back. No I/O."""

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from ...sdk import requests
from ...sdk.errors import TunnelError
from ..errors import KeeperRequestError

__all__ = [
    "SYNTHTUNNEL",
    "LeaseSpec",
    "UrlStyle",
    "choose_url_style",
    "is_gone",
    "parse_rfc3339",
    "release_requests",
]

SYNTHTUNNEL: Final = "synthtunnel"
"""The provider whose leases have an agent at the backend's relay; all others are managed."""


UrlStyle = Literal["root", "path"]
"""``root`` for an origin of its own for each address of a lease, ``path`` for the path that the
backend or the provider gives the lease."""


class LeaseSpec(msgspec.Struct, frozen=True):
    """What a lease is asked for with.

    Attributes:
        port: the local port, for the backend's listings.
        ttl_s: how long it should live, in seconds.
        metadata: kept with it by the backend; ``name`` in it is for listings.
        require_token: whether callers must send the worker token.
        url_style: what its public URLs are like.
    """

    port: int
    ttl_s: float
    metadata: dict[str, Any]
    require_token: bool = True
    url_style: UrlStyle = "path"


def choose_url_style(
    wanted: str | None, setting: str | None, *, provider: str, embedded: bool
) -> UrlStyle:
    """Return what the public URLs of a new lease are like.

    Args:
        wanted: what was asked for this lease, if anything was.
        setting: what the run's settings say, if they say anything.
        provider: what carries the lease.
        embedded: whether the backend is the embedded one.

    Raises:
        KeeperRequestError: this lease was to have an origin, and can have none.
        ValueError: there is no such style.
    """
    if wanted not in (None, "root", "path"):
        raise ValueError(f"url_style must be 'root' or 'path', not {wanted!r}")
    has_origin = embedded and provider == SYNTHTUNNEL
    if wanted == "root" and not has_origin:
        where = "a hosted relay" if provider == SYNTHTUNNEL else f"the provider {provider}"
        raise KeeperRequestError(
            "NO_ORIGIN",
            f"{where} gives every lease a URL with a path",
            "Leave out url_style='root', or use the embedded backend with provider='synthtunnel'",
        )
    return "root" if has_origin and (wanted or setting or "root") == "root" else "path"


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
