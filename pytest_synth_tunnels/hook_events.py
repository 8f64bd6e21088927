"""What the hooks are told of a lease."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ._unpatched import unpatched

__all__ = ["LeaseFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFacts:
    """A lease as it was when something happened to it. Without secrets, so that it may be logged.

    Attributes:
        lease_id: the backend's name for it, when it began; the same in every hook.
        provider: what gives it its public URL.
        backend: the backend's URL.
        local_host: the host that it was asked for with.
        local_port: the port that it was asked for with. Under pytest-xdist the run's lease leads
            to a port of each worker besides.
        public_url: where its callers come, without a worker's address. ``None`` where whoever
            knows the URL gets through (a public provider, ``require_token=False``): there it is
            the only secret, and what hooks learn ends up in logs.
        created_at: when it began to carry traffic, in UTC.
        ended_at: when it was lost or released, in UTC; ``None`` before.
    """

    lease_id: str
    provider: str
    backend: str
    local_host: str
    local_port: int
    public_url: str | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LeaseFacts":
        """Read what the keeper's journal gave."""
        ended_at = values["ended_at"]
        times = {
            "created_at": _moment(values["created_at"]),
            "ended_at": None if ended_at is None else _moment(ended_at),
        }
        return cls(**{**values, **times})


def _moment(unix_s: float) -> datetime:
    # The real class: a test may have frozen the one in the module.
    return unpatched.datetime.fromtimestamp(unix_s, UTC)
