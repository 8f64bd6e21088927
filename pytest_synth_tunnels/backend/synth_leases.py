"""SynthTunnel leases, whose traffic the relay carries. Pure state.

The relay knows a lease as a :class:`~..relay.route.Route`; this module makes the route, rotates
its tokens, and ends it. A lease is *pending* until an agent has attached, then *active*, and
*expired* from its close or the end of its time on: the relay's route is the one record of that.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

from ..relay.route import Limits, Route
from .common import Clock, RefusedError, TokenMaker, clamp_ttl, make_room, timestamp

__all__ = ["RouteTable", "SynthLeaseRequest", "SynthLeases"]

MAX_LEASES: Final = 4_096
MAX_INFLIGHT: Final = 1_024
"""The most requests at a time that a client may ask for."""
HEARTBEAT: Final = {"required": False, "recommended_interval_seconds": 25}


class RouteTable(Protocol):
    """The relay, as far as the leases need it."""

    def add(self, route: Route) -> None:
        """Carry this route's traffic from now on."""

    def close(self, lease_id: str, reason: str) -> None:
        """Fail the lease's live traffic, and refuse what comes later."""

    def rotate_agent(self, lease_id: str, agent_token: str) -> None:
        """Let agents serve a lease with this token only; an agent that showed another one is cut
        off."""

    def rotate_worker(self, lease_id: str, worker_token: str) -> None:
        """Let callers in with this token only; WebSockets that were opened with another one are
        closed."""

    def remove(self, lease_id: str) -> None:
        """Forget a closed lease: its URL is unknown from now on."""


class SynthLeaseRequest(NamedTuple):
    """A client's request for a SynthTunnel lease, already validated."""

    client_instance_id: str
    local_host: str
    local_port: int
    requested_ttl_seconds: float
    metadata: dict[str, Any]
    capabilities: dict[str, Any]


@dataclass(slots=True, eq=False)
class SynthLease:
    """One SynthTunnel lease: its route, and the client's request."""

    route: Route
    request: SynthLeaseRequest

    @property
    def ended(self) -> bool:
        return self.route.closed


class SynthLeases:
    """All SynthTunnel leases of a backend.

    Args:
        now: returns unix seconds.
        token: makes ids and tokens.
        relay: carries the traffic.
        public_base_url: the origin that callers use.
        agent_url: the WebSocket URL that agents dial.
        limits: what a lease may use; its client may ask for another ``max_inflight``.
    """

    def __init__(
        self,
        *,
        now: Clock,
        token: TokenMaker,
        relay: RouteTable,
        public_base_url: str,
        agent_url: str,
        limits: Limits | None = None,
    ) -> None:
        self._now = now
        self._token = token
        self._relay = relay
        self._public_base_url = public_base_url
        self._agent_url = agent_url
        self._limits = limits or Limits()
        self._leases: dict[str, SynthLease] = {}
        """The leases by id, oldest first. Ended ones stay as history until room is needed."""

    def create(self, request: SynthLeaseRequest) -> dict[str, Any]:
        """Make a lease and its route.

        With ``metadata.require_token: false`` callers need no token, and
        ``capabilities.max_inflight`` asks for more (or fewer) requests at a time.

        Returns:
            The whole lease, its tokens included.

        Raises:
            RefusedError: 429, too many leases are live.
        """
        self.expire()
        forgotten = make_room(self._leases, MAX_LEASES, "SynthTunnel leases")
        if forgotten is not None:
            self._relay.remove(forgotten.route.lease_id)
        limits = replace(self._limits)
        asked = request.capabilities.get("max_inflight")
        if asked is not None:
            limits.max_inflight = min(asked, MAX_INFLIGHT)
            # Every request in flight may have to wait for the agent's return.
            limits.max_held = max(limits.max_held, limits.max_inflight)
        route = Route(
            lease_id=self._token("synth"),
            route_token=self._token("rt"),
            agent_token=self._token("at"),
            worker_token=self._token("wt"),
            expires_at=self._now() + clamp_ttl(request.requested_ttl_seconds),
            public_base_url=self._public_base_url,
            limits=limits,
            require_token=request.metadata.get("require_token") is not False,
        )
        self._leases[route.lease_id] = SynthLease(route, request)
        self._relay.add(route)
        return {
            "lease_id": route.lease_id,
            "status": "PENDING",
            "route_token": route.route_token,
            "client_instance_id": request.client_instance_id,
            "public_base_url": self._public_base_url,
            "public_url": route.public_url,
            "agent_connect": self._agent_connect(route),
            "worker_token": route.worker_token,
            "expires_at": timestamp(route.expires_at),
            "limits": asdict(limits),
            "heartbeat": HEARTBEAT,
            "local_target": {"host": request.local_host, "port": request.local_port},
            "metadata": request.metadata,
            "capabilities": request.capabilities,
        }

    def status(self, lease_id: str) -> dict[str, Any]:
        """Return the status of a lease.

        Raises:
            RefusedError: 404, unknown.
        """
        route = self._known(lease_id).route
        seen_at = route.last_seen_at
        return {
            "lease_id": route.lease_id,
            "status": "EXPIRED" if route.closed else "PENDING" if seen_at is None else "ACTIVE",
            "last_seen_at": None if seen_at is None else timestamp(seen_at),
            "connected": route.connected,
            "inflight": route.inflight,
            "expires_at": timestamp(route.expires_at),
        }

    def close(self, lease_id: str) -> dict[str, Any]:
        """End a lease and its traffic; ending it again changes nothing.

        Raises:
            RefusedError: 404, unknown.
        """
        lease = self._known(lease_id)
        if not lease.ended:
            self._relay.close(lease_id, "the lease was closed")
        return self.status(lease_id)

    def refresh_worker_token(self, lease_id: str) -> dict[str, Any]:
        """Replace the token that callers show. The old one stops working, and WebSockets that it
        opened are closed.

        Raises:
            RefusedError: 404, unknown; 410, the lease has ended.
        """
        route = self._live(lease_id)
        self._relay.rotate_worker(lease_id, self._token("wt"))
        return {"lease_id": lease_id, "worker_token": route.worker_token}

    def refresh_agent_token(self, lease_id: str) -> dict[str, Any]:
        """Replace the token that agents show. An agent that attached with the old one is cut off.

        Raises:
            RefusedError: 404, unknown; 410, the lease has ended.
        """
        route = self._live(lease_id)
        self._relay.rotate_agent(lease_id, self._token("at"))
        return {"lease_id": lease_id, "agent_connect": self._agent_connect(route)}

    def expire(self) -> float | None:
        """End the leases whose time is over.

        Returns:
            When the next one ends, in unix seconds; ``None`` if none is live.
        """
        now = self._now()
        live = [lease.route for lease in self._leases.values() if not lease.ended]
        for route in live:
            if route.expires_at <= now:
                self._relay.close(route.lease_id, "the lease expired")
        return min((route.expires_at for route in live if not route.closed), default=None)

    def _agent_connect(self, route: Route) -> dict[str, str]:
        return {"transport": "ws", "url": self._agent_url, "agent_token": route.agent_token}

    def _live(self, lease_id: str) -> Route:
        lease = self._known(lease_id)
        if lease.ended:
            raise RefusedError(
                410, "lease_expired", f"lease_expired: lease {lease_id} is over; create a new one"
            )
        return lease.route

    def _known(self, lease_id: str) -> SynthLease:
        self.expire()
        lease = self._leases.get(lease_id)
        if lease is None:
            raise RefusedError(
                404, "not_found", f"no SynthTunnel lease has the id {lease_id[:80]!r}"
            )
        return lease
