"""What an agent serves: its leases, where their addresses lead, and the connections there."""

import asyncio

from ..aio.deadlines import Deadlines
from ..http.pool import ConnectionPool
from .served_leases import ServedLease
from .target import Target

__all__ = ["Directory"]


class Directory:
    """The leases of one agent.

    Args:
        deadlines: of requests, and of idle connections.
        patience_s: how long a refused connection is tried again while the app has never accepted
            one, in seconds.
    """

    def __init__(self, deadlines: Deadlines, patience_s: float) -> None:
        self.deadlines = deadlines
        """Of requests, and of idle connections."""
        self._patience_s = patience_s
        self._leases: dict[str, ServedLease] = {}
        """By id."""
        self._origins: set[ConnectionPool] = set()
        """All of them, also those of targets that were replaced while requests were under way."""

    def serve(self, lease_id: str, public_url: str, *, max_inflight: int = 128) -> None:
        """Serve a lease, or change what is known of it. To be called before attaching.

        Args:
            lease_id: the lease.
            public_url: where callers reach it, without any address.
            max_inflight: how many requests may be under way at the same time.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            self._leases[lease_id] = ServedLease(lease_id, public_url, max_inflight)
            return
        lease.max_inflight = max_inflight
        lease.move(public_url)

    def set_target(self, lease_id: str, address: str, target: Target) -> None:
        """Lead an address of a lease to a target. Requests under way end where they began.

        Args:
            lease_id: a lease that is served.
            address: ``gw1`` of ``{public_url}/~gw1``, or ``""`` for the public URL itself.
            target: the app.

        Raises:
            KeyError: the lease is not served.
        """
        lease = self._leases[lease_id]
        current = lease.mounts.get(address)
        if current is not None and current[0].target == target:
            return
        self.remove_target(lease_id, address)
        origin = ConnectionPool(
            target.host, target.port, self.deadlines, patience_s=self._patience_s
        )
        self._origins.add(origin)
        lease.mount(address, target, origin)

    def remove_target(self, lease_id: str, address: str) -> None:
        """Stop leading an address anywhere. Requests under way go on."""
        lease = self._leases.get(lease_id)
        mounted = lease.mounts.pop(address, None) if lease is not None else None
        if mounted is not None:
            mounted[1].close()
            self._origins = {origin for origin in self._origins if not origin.closed}
            self._origins.add(mounted[1])

    def drop(self, lease_id: str) -> None:
        """Stop serving a lease."""
        lease = self._leases[lease_id]
        for address in list(lease.mounts):
            self.remove_target(lease_id, address)
        del self._leases[lease_id]

    async def _close_origins(self) -> None:
        """Close the connections to the apps."""
        await asyncio.gather(*(origin.aclose() for origin in self._origins))
        self._origins.clear()
