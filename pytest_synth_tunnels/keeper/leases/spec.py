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
    "no_origin",
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
        public_port: the port of the lease's own origin; ``None`` for any free one.
    """

    port: int
    ttl_s: float
    metadata: dict[str, Any]
    require_token: bool = True
    url_style: UrlStyle = "path"
    public_port: int | None = None


def choose_url_style(
    wanted: str | None,
    setting: str | None,
    *,
    provider: str,
    embedded: bool,
    has_placed_origins: bool = False,
) -> UrlStyle:
    """Return what the public URLs of a new lease are like.

    Args:
        wanted: what was asked for this lease, if anything was.
        setting: what the run's settings say of leases of this provider, if they say anything.
        provider: what carries the lease.
        embedded: whether the backend is the embedded one.
        has_placed_origins: whether the settings say where the embedded backend's origins are, such
            as on which address. A path at the backend's own port is on loopback in any case.

    Raises:
        KeeperRequestError: this lease was to have an origin, and can have none; or the reverse.
        ValueError: there is no such style.
    """
    if wanted not in (None, "root", "path"):
        raise ValueError(f"url_style must be 'root' or 'path', not {wanted!r}")
    if provider != SYNTHTUNNEL:
        # A path that nobody can guess keeps strangers out, so that its lack must be asked for.
        return "root" if (wanted or setting) == "root" else "path"
    if wanted == "root" and not embedded:
        raise no_origin(provider)
    if embedded and wanted == "path" and has_placed_origins:
        raise KeeperRequestError(
            "NO_PATH",
            "url_style = 'path' gives URLs at the backend's own port, which stays on loopback and "
            "speaks plain http, and the settings place this run's URLs elsewhere",
            "Leave out url_style, or synth_tunnels_bind, …_public_host, …_public_port and …_tls",
        )
    return "root" if embedded and (wanted or setting or "root") == "root" else "path"


def no_origin(provider: str) -> KeeperRequestError:
    """Return the error of a lease that was to have an origin of its own, and can have none."""
    who = "a hosted relay" if provider == SYNTHTUNNEL else f"the provider {provider}"
    return KeeperRequestError(
        "NO_ORIGIN",
        f"{who} gives every lease a URL with a path",
        "Leave out url_style = root, or use the embedded backend with the provider synthtunnel",
    )


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
