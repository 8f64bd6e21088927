"""What a lease is asked for with, what it is made of, and how it is given back. No I/O."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from ..sdk import requests
from ..sdk.errors import TunnelError

__all__ = [
    "AgentConnect",
    "LeaseLimits",
    "LeaseRequest",
    "MadeLease",
    "Pace",
    "is_gone",
    "release_request",
    "unix_s",
]


class AgentConnect(msgspec.Struct):
    """How a lease's agent reaches the relay."""

    url: str
    agent_token: str


class LeaseLimits(msgspec.Struct):
    """What the relay lets the lease use."""

    max_inflight: int = 128


class Pace(msgspec.Struct):
    """How often the backend likes to be asked."""

    recommended_interval_seconds: float = 25.0


class MadeLease(msgspec.Struct):
    """What is needed of the answer to a create; a backend may say more."""

    public_url: str
    expires_at: str
    agent_connect: AgentConnect
    worker_token: str | None = None
    limits: LeaseLimits = msgspec.field(default_factory=LeaseLimits)
    heartbeat: Pace = msgspec.field(default_factory=Pace)


class LeaseRequest(msgspec.Struct, frozen=True):
    """What a lease is asked for with.

    Attributes:
        port: the local port that the backend is told of.
        ttl_s: how long it should live, in seconds.
        metadata: kept with it by the backend.
        require_token: whether callers must send the worker token.
    """

    port: int
    ttl_s: float
    metadata: dict[str, Any]
    require_token: bool = True


def unix_s(moment: str) -> float:
    """Read an RFC 3339 moment as unix seconds; UTC where it names no zone."""
    parsed = datetime.fromisoformat(moment)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def release_request(provider: str, lease_id: str) -> requests.Request:
    """Return the call that gives a lease back."""
    if provider == "synthtunnel":
        return requests.close_synth_lease(lease_id)
    return requests.release_lease(lease_id)


def is_gone(error: TunnelError) -> bool:
    """Whether an error says that the backend has no such lease any more: releasing it is done."""
    return error.status in (404, 410)
