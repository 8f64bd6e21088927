"""Managed leases, whose traffic comes through a provider's connector. Pure state.

A lease is *pending* until its connector reports that traffic can come as far as the gateway, and
*active* while it does; heartbeats move it between the two. ``release`` and ``delete``, and the
passing of its time, end it: an ended lease never becomes live again, its traffic is cut off at that
moment, and its record stays as history until room is needed.
"""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from ..sdk.models import GATEWAY_PORT
from .common import Clock, RefusedError, TokenMaker, clamp_ttl, make_room, timestamp

__all__ = ["LeaseEdge", "LeaseRequest", "ManagedLeases"]

HEARTBEAT_SECONDS: Final = 30
MAX_LEASES: Final = 4_096
_LIVE: Final = ("pending", "active")
_SECRETS: Final = ("tunnel_token", "access_client_id", "access_client_secret")


class LeaseRequest(NamedTuple):
    """A client's request for a managed lease, already validated."""

    client_instance_id: str
    local_host: str
    local_port: int
    provider_preference: str
    requested_ttl_seconds: float
    reuse_connector: bool
    app_name: str | None
    idempotency_key: str | None


@dataclass(slots=True, eq=False)
class ManagedLease:
    """One managed lease and what its connector needs."""

    lease_id: str
    request: LeaseRequest
    requested_ttl_seconds: float
    """As the client last asked; :attr:`expires_at` follows from the clamped value."""
    expires_at: float
    """Unix seconds."""
    route_prefix: str
    managed_tunnel_id: str
    tunnel_token: str = field(repr=False)
    status: str = "pending"
    """``pending``, ``active``, ``released``, ``expired``, ``failed`` or ``deleted``."""
    last_error: str | None = None
    """The error that the connector last reported, if any."""

    @property
    def ended(self) -> bool:
        return self.status not in _LIVE


class LeaseEdge(Protocol):
    """What carries the traffic of managed leases, as far as the leases need it."""

    def open_lease(self, prefix: str, managed_tunnel_id: str, tunnel_token: str) -> None:
        """Route a lease's path to its connector."""

    def close_lease(self, prefix: str, managed_tunnel_id: str) -> None:
        """Stop routing a lease's path."""


class ManagedLeases:
    """All managed leases of a backend.

    Args:
        now: returns unix seconds.
        token: makes ids and tokens.
        public_base_url: the origin that callers use.
        edge: carries their traffic.
        edge_url: the WebSocket URL that a connector dials.
    """

    def __init__(
        self,
        *,
        now: Clock,
        token: TokenMaker,
        public_base_url: str,
        edge: LeaseEdge,
        edge_url: str,
    ) -> None:
        self._now = now
        self._token = token
        self._public_base_url = public_base_url
        self._edge = edge
        self._edge_url = edge_url
        self._hostname = urlsplit(public_base_url).netloc
        self._leases: dict[str, ManagedLease] = {}
        """The leases by id, oldest first. Ended ones stay as history until room is needed."""
        self._by_key: dict[tuple[str, str], ManagedLease] = {}
        """The leases by client and idempotency key, for as long as they are remembered."""

    def create(self, request: LeaseRequest) -> dict[str, Any]:
        """Make a lease, or find the one that the same idempotency key made.

        Returns:
            The whole lease, its tokens included.

        Raises:
            RefusedError: 409, the key belongs to another request; 429, too many leases are live.
        """
        if request.idempotency_key:
            key = (request.client_instance_id, request.idempotency_key)
            known = self._by_key.get(key)
            if known is not None:
                if known.request != request:
                    raise RefusedError(
                        409,
                        "conflict",
                        "this idempotency_key was used for another request: choose a new one",
                    )
                return self._whole(self._settled(known))
        self.expire()
        self._forget(make_room(self._leases, MAX_LEASES, "leases"))
        shared = self._connector(request)
        lease = ManagedLease(
            lease_id=self._token("lease"),
            request=request,
            requested_ttl_seconds=request.requested_ttl_seconds,
            expires_at=self._now() + clamp_ttl(request.requested_ttl_seconds),
            route_prefix=f"/m/{self._token('r')}",
            managed_tunnel_id=shared.managed_tunnel_id if shared else self._token("mt"),
            tunnel_token=shared.tunnel_token if shared else self._token("tt"),
        )
        self._leases[lease.lease_id] = lease
        self._edge.open_lease(lease.route_prefix, lease.managed_tunnel_id, lease.tunnel_token)
        if request.idempotency_key:
            self._by_key[request.client_instance_id, request.idempotency_key] = lease
        return self._whole(lease)

    def list(self, *, client_instance_id: str | None, include_ended: bool) -> list[Any]:
        """Return the leases, without tokens; deleted ones never."""
        return [
            self._record(lease)
            for lease in map(self._settled, self._leases.values())
            if client_instance_id in (None, lease.request.client_instance_id)
            and (lease.status in _LIVE or (include_ended and lease.status != "deleted"))
        ]

    def heartbeat(
        self,
        lease_id: str,
        *,
        connected_to_edge: bool,
        gateway_ready: bool,
        local_ready: bool,
        last_error: str | None,
    ) -> dict[str, Any]:
        """Take a connector's report, and say what it should do.

        The lease is active while its traffic can come as far as the gateway; ``local_ready``
        is the app's affair and changes nothing.

        Raises:
            RefusedError: 404, unknown; 410, the lease has ended.
        """
        lease = self._live(lease_id)
        lease.status = "active" if connected_to_edge and gateway_ready else "pending"
        lease.last_error = last_error
        return self._record(lease) | {
            "status": "heartbeat_ok",
            "lease_status": lease.status,
            "local_ready": local_ready,
            "last_error": last_error,
            "action": "none",
            "next_heartbeat_seconds": HEARTBEAT_SECONDS,
        }

    def refresh(self, lease_id: str, requested_ttl_seconds: float) -> dict[str, Any]:
        """Start a live lease's time to live anew.

        Raises:
            RefusedError: 404, unknown; 410, the lease has ended.
        """
        lease = self._live(lease_id)
        lease.requested_ttl_seconds = requested_ttl_seconds
        lease.expires_at = self._now() + clamp_ttl(requested_ttl_seconds)
        return self._record(lease) | {"status": "refreshed"}

    def release(self, lease_id: str) -> dict[str, Any]:
        """End a lease and keep its record; ending it again changes nothing.

        Raises:
            RefusedError: 404, unknown.
        """
        lease = self._known(lease_id)
        self._end(lease, "released")
        return self._record(lease) | {"status": "released"}

    def delete(self, lease_id: str) -> dict[str, Any]:
        """End a lease and hide its record; ending it again changes nothing.

        Raises:
            RefusedError: 404, unknown.
        """
        lease = self._known(lease_id)
        self._end(lease, "deleted")
        lease.status = "deleted"
        return self._record(lease)

    def expire(self) -> float | None:
        """End the leases whose time is over.

        Returns:
            When the next one ends, in unix seconds; ``None`` if none is live.
        """
        live = [lease for lease in map(self._settled, self._leases.values()) if not lease.ended]
        return min((lease.expires_at for lease in live), default=None)

    def _end(self, lease: ManagedLease, status: str) -> None:
        """End a lease and its traffic; one that has ended stays as it is."""
        if not lease.ended:
            lease.status = status
            self._edge.close_lease(lease.route_prefix, lease.managed_tunnel_id)

    def _known(self, lease_id: str) -> ManagedLease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise RefusedError(404, "not_found", f"no lease has the id {lease_id[:80]!r}")
        return self._settled(lease)

    def _live(self, lease_id: str) -> ManagedLease:
        lease = self._known(lease_id)
        if lease.ended:
            raise RefusedError(
                410,
                "lease_expired",
                f"lease_expired: lease {lease_id} is {lease.status}; create a new one",
            )
        return lease

    def _settled(self, lease: ManagedLease) -> ManagedLease:
        """Return the lease as it is at this moment: time may have ended it."""
        if not lease.ended and lease.expires_at <= self._now():
            self._end(lease, "expired")
        return lease

    def _connector(self, request: LeaseRequest) -> ManagedLease | None:
        """Return a live lease whose connector can serve this request too, if the client allows
        that."""
        if not request.reuse_connector:
            return None
        return next(
            (
                lease
                for lease in self._leases.values()
                if not lease.ended
                and lease.request.reuse_connector
                and lease.request.client_instance_id == request.client_instance_id
                and lease.request.provider_preference == request.provider_preference
            ),
            None,
        )

    def _forget(self, lease: ManagedLease | None) -> None:
        if lease is not None and lease.request.idempotency_key:
            del self._by_key[lease.request.client_instance_id, lease.request.idempotency_key]

    def _whole(self, lease: ManagedLease) -> dict[str, Any]:
        """Return all that the client who created the lease gets."""
        return lease.request._asdict() | {
            "lease_id": lease.lease_id,
            "status": lease.status,
            "requested_ttl_seconds": lease.requested_ttl_seconds,
            "public_url": self._public_base_url + lease.route_prefix,
            "managed_tunnel_id": lease.managed_tunnel_id,
            "hostname": self._hostname,
            "route_prefix": lease.route_prefix,
            "tunnel_token": lease.tunnel_token,
            "expires_at": timestamp(lease.expires_at),
            "access_client_id": None,
            "access_client_secret": None,
            "gateway_port": GATEWAY_PORT,
            "edge_url": self._edge_url,
            "diagnostics_hint": "This lease belongs to an embedded backend on this machine.",
        }

    def _record(self, lease: ManagedLease) -> dict[str, Any]:
        """Return a lease without its secrets."""
        whole = self._whole(lease)
        for name in _SECRETS:
            del whole[name]
        return whole
