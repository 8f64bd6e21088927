"""The events of the run's leases, kept for the hooks that the run's owner calls.

A lease here is a JSON object without secrets: ``lease_id`` (its first: a lease that was replaced
at the wish of its backend has another one later), ``provider``, ``backend``, ``local_host``,
``local_port``, ``public_url`` (``None`` where the URL alone is enough to get through, for then it
is a secret), ``created_at`` and ``ended_at`` (unix seconds; ``ended_at`` is ``None`` while the
lease carries traffic).
"""

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final

__all__ = ["Journal"]

_MAX_EVENTS: Final = 1000
"""The oldest are forgotten; all of them fit into one line of :mod:`..ipc.messages`."""

_MAX_REASON_CHARS: Final = 300


class Journal:
    """Collects what happens to leases until somebody asks.

    Args:
        now: unix seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._leases: dict[Hashable, dict[str, Any]] = {}
        """Those that were created and not yet released, by what stands for them."""
        self._events: deque[dict[str, Any]] = deque(maxlen=_MAX_EVENTS)

    def created(
        self,
        key: Hashable,
        *,
        lease_id: str,
        provider: str,
        backend: str,
        local_host: str,
        local_port: int,
        public_url: str | None,
    ) -> None:
        """Note that a lease carries traffic from now on.

        Args:
            key: stands for the lease as long as it lives.
            lease_id: the backend's name for it.
            provider: what gives it its public URL.
            backend: the backend's URL.
            local_host: the host that it was asked for with.
            local_port: the port that it was asked for with.
            public_url: where its callers come; ``None`` if everybody who knows it gets through.
        """
        self._leases[key] = {
            "lease_id": lease_id,
            "provider": provider,
            "backend": backend,
            "local_host": local_host,
            "local_port": local_port,
            "public_url": public_url,
            "created_at": self._now(),
            "ended_at": None,
        }
        self._note("created", self._leases[key])

    def lost(self, key: Hashable, reason: str) -> None:
        """Note that a lease has stopped to carry traffic, though nobody released it."""
        lease = self._leases.get(key)
        if lease is not None and lease["ended_at"] is None:
            lease["ended_at"] = self._now()
            self._note("lost", lease, reason)

    def released(self, key: Hashable) -> None:
        """Note that a lease was given back; one that never carried traffic is no news."""
        lease = self._leases.pop(key, None)
        if lease is not None:
            lease["ended_at"] = lease["ended_at"] or self._now()
            self._note("released", lease)

    def _note(self, kind: str, lease: dict[str, Any], reason: str = "") -> None:
        self._events.append(
            {"kind": kind, "lease": dict(lease), "reason": reason[:_MAX_REASON_CHARS]}
        )

    def drain(self) -> list[dict[str, Any]]:
        """Return the events since the last call, oldest first: ``kind`` (``created``, ``lost``
        or ``released``), ``lease`` and ``reason`` of each."""
        events = list(self._events)
        self._events.clear()
        return events
