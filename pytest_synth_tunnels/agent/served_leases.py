"""The leases that an agent serves, and where their addresses lead."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from ..http.pool import ConnectionPool
from ..wire.frames import AttachLease, LocalTarget
from .target import Target
from .url_rewriter import UrlRewriter, split_address

__all__ = [
    "NONCE_PATH",
    "OWN_PATH",
    "READY_PATH",
    "Destination",
    "ServedLease",
    "ServedLeases",
    "read_nonce",
]

OWN_PATH: Final = "/__synth/"
"""The paths below this one are answered by the agent itself."""

NONCE_PATH: Final = "/__synth/nonce/"
"""Below this path the agent answers with the rest of the path, to prove that a URL leads here."""

READY_PATH: Final = "/__synth/ready"
"""At this path the agent says whether the app answers (protocol, section 4)."""

_NONCE = re.compile(r"[0-9a-fA-F]{8,128}")


class Destination(NamedTuple):
    """Where an address of a lease leads."""

    rewriter: UrlRewriter
    """Writes requests as the target gets them."""

    pool: ConnectionPool
    """The connections to the target."""


class ServedLease:
    """A lease that an agent serves.

    Args:
        lease_id: the lease.
        public_url: where callers reach it, without any address.
        max_inflight: how many requests may be in flight at the same time.
    """

    def __init__(self, lease_id: str, public_url: str, max_inflight: int) -> None:
        self.lease_id = lease_id
        self.max_inflight = max_inflight
        self.inflight = 0
        """The number of requests in flight."""
        self.websockets = 0
        """The number of WebSockets that are open or being opened, which count apart."""
        self.destinations: dict[str, Destination] = {}
        """By address."""
        self.private: set[str] = set()
        """The addresses of single tests, which nobody is told of and no other URL leads to."""
        self._public_url = public_url

    def move(self, public_url: str) -> None:
        """Use another public URL from the next request on."""
        self._public_url = public_url
        for address, (rewriter, pool) in list(self.destinations.items()):
            self.lead(address, rewriter.target, pool, rewriter.origin, rewriter.loopback_origin)

    def lead(
        self,
        address: str,
        target: Target,
        pool: ConnectionPool,
        origin: str,
        loopback_origin: str,
    ) -> None:
        """Lead an address to a target, through these connections."""
        rewriter = UrlRewriter(
            self.lease_id, self._public_url, address, target, origin, loopback_origin
        )
        self.destinations[address] = Destination(rewriter, pool)

    def resolve(self, path: str) -> tuple[UrlRewriter, ConnectionPool, str] | None:
        """Return where a path leads, with what the target sees of it; ``None`` for nowhere."""
        destinations = self.destinations
        address, rest = split_address(path)
        found = destinations.get(address)
        if found is None and address and "" in destinations:
            # The app's own path begins with a tilde.
            rest, found = path, destinations[""]
        if found is None and not address and len(destinations) - len(self.private) == 1:
            (found,) = self._listed().values()
        return None if found is None else (found.rewriter, found.pool, rest)

    def _listed(self) -> dict[str, Destination]:
        """Return the destinations of all addresses but the private ones."""
        return {
            address: destination
            for address, destination in self.destinations.items()
            if address not in self.private
        }

    def ready_targets(self, address: str) -> list[Target]:
        """Return the targets that a question at :data:`READY_PATH` is about: that of the address,
        or all of them where the question names no address."""
        if address in self.private:
            return [self.destinations[address].rewriter.target]
        return [
            destination.rewriter.target
            for known, destination in self._listed().items()
            if address in ("", known)
        ]

    def explain(self, path: str) -> str:
        """Return why a path leads nowhere, for people."""
        known = ", ".join(f"/~{address}" for address in sorted(self._listed())) or "none yet"
        return f"the lease has no target at {path[:200]}; its addresses: {known}"

    def attach(self) -> AttachLease:
        """Return the lease as an ``ATTACH`` frame names it."""
        listed = self._listed()
        if len(listed) != 1:
            return AttachLease(self.lease_id)
        ((rewriter, _),) = listed.values()
        return AttachLease(self.lease_id, LocalTarget(rewriter.target.host, rewriter.target.port))


class ServedLeases:
    """All leases of one agent, and the connections to their targets.

    Args:
        patience_s: how long a refused connection is tried again while the app has never accepted
            one, in seconds.
        on_app_closed: called with the name of a caller's connection when an app has closed the
            connection that was tied to it.
    """

    def __init__(
        self, patience_s: float, on_app_closed: Callable[[str], None] | None = None
    ) -> None:
        self._patience_s = patience_s
        self._on_app_closed = on_app_closed
        self._leases: dict[str, ServedLease] = {}
        """By id."""
        self.make_pool: Callable[..., ConnectionPool] = ConnectionPool
        """Makes the connections to a target."""
        self.pools: set[ConnectionPool] = set()
        """Every pool, also those of targets that were replaced while requests were in flight."""

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[ServedLease]:
        return iter(list(self._leases.values()))

    def get(self, lease_id: str) -> ServedLease | None:
        """Return a lease, or ``None`` if it is not served."""
        return self._leases.get(lease_id)

    def serve(self, lease_id: str, public_url: str, *, max_inflight: int = 128) -> None:
        """Serve a lease, or change what is known of it. To be called before attaching.

        Args:
            lease_id: the lease.
            public_url: where callers reach it, without any address.
            max_inflight: how many requests may be in flight at the same time.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            self._leases[lease_id] = ServedLease(lease_id, public_url, max_inflight)
            return
        lease.max_inflight = max_inflight
        lease.move(public_url)

    def set_target(
        self,
        lease_id: str,
        address: str,
        target: Target,
        *,
        origin: str = "",
        loopback_origin: str = "",
        private: bool = False,
    ) -> None:
        """Lead an address of a lease to a target. Requests in flight end where they began.

        Args:
            lease_id: a lease that is served.
            address: ``gw1`` of ``{public_url}/~gw1``, or ``""`` for the public URL itself.
            target: the app.
            origin: the origin at whose root the address answers, if it has one of its own.
            loopback_origin: the same as callers on this machine name it, if in another way.
            private: whether it is a single test's, which nobody is told of.

        Raises:
            KeyError: the lease is not served.
        """
        lease = self._leases[lease_id]
        current = lease.destinations.get(address)
        if current is not None and current.rewriter.target == target:
            if current.rewriter.origin != origin:
                lease.lead(address, target, current.pool, origin, loopback_origin)
            return
        self.remove_target(lease_id, address)
        place = (target.host, target.port)
        pool = self.make_pool(
            *place,
            patience_s=self._patience_s,
            on_app_closed=self._on_app_closed,
            same_app=next((each for each in self.pools if (each.host, each.port) == place), None),
        )
        self.pools.add(pool)
        if private:
            lease.private.add(address)
        lease.lead(address, target, pool, origin, loopback_origin)

    def remove_target(self, lease_id: str, address: str) -> None:
        """Stop leading an address anywhere. Requests in flight go on.

        Args:
            lease_id: the lease; nothing happens if it is not served.
            address: nothing happens if it leads nowhere.
        """
        lease = self._leases.get(lease_id)
        destination = lease.destinations.pop(address, None) if lease is not None else None
        if lease is not None and destination is not None:
            lease.private.discard(address)
            destination.pool.close()
            self.pools = {pool for pool in self.pools if not pool.closed} | {destination.pool}

    def drop(self, lease_id: str) -> None:
        """Stop serving a lease. Harmless if it is not served.

        Args:
            lease_id: a lease without requests in flight (:meth:`.agent.Agent.drop` ends them).
        """
        lease = self._leases.get(lease_id)
        if lease is not None:
            for address in list(lease.destinations):
                self.remove_target(lease_id, address)
            del self._leases[lease_id]

    async def aclose(self) -> None:
        """Close the connections to the apps."""
        await asyncio.gather(*(pool.aclose() for pool in self.pools))
        self.pools.clear()


def read_nonce(path: str) -> bytes:
    """Return the nonce that a path below :data:`NONCE_PATH` asks for, or nothing."""
    if not path.startswith(NONCE_PATH):
        return b""
    found = _NONCE.fullmatch(path, len(NONCE_PATH))
    return found[0].encode() if found else b""
