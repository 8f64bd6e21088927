"""Every call of the tunnels API as a value, without I/O.

Paths, queries and bodies live here and nowhere else: both clients send these values, and the
embedded backend takes them in-process. Each function is one call; its signature and docstring are
those of the clients' method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .models import TunnelProvider

__all__ = [
    "Request",
    "Retry",
    "close_synth_lease",
    "create_lease",
    "create_synth_lease",
    "create_tunnel",
    "delete_lease",
    "delete_tunnel",
    "get_synth_lease",
    "health",
    "heartbeat",
    "list_leases",
    "list_tunnels",
    "refresh_lease",
    "refresh_synth_worker_token",
    "release_lease",
    "rotate_tunnel",
]

_TUNNELS = "/v1/tunnels/"
_LEASES = "/v1/tunnels/lease"
_SYNTH_LEASES = "/api/v1/synthtunnel/leases"


class Retry(Enum):
    """When a call may be sent again without anything happening twice."""

    NEVER = "never"
    """Only if the call was never sent, because the connection was refused."""
    IDEMPOTENT = "idempotent"
    """Also when the backend said when to try again (429 or 503 with ``Retry-After``)."""
    KEYED = "keyed"
    """Also when the answer was lost: an idempotency key makes the backend do it once."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call.

    Attributes:
        method: the HTTP method.
        path: the path below the backend's origin, ids as they were given.
        params: the query; ``True`` is sent as ``true``.
        body: the JSON body, or ``None`` for no body at all.
        retry: when it may be sent again.
        many: whether the answer is a list (and not an object).
    """

    method: str
    path: str
    params: Mapping[str, str | bool] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    retry: Retry = Retry.NEVER
    many: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def health() -> Request:
    """Ask whether the tunnel service is up.

    Returns:
        ``status`` and ``providers``.
    """
    return Request("GET", f"{_TUNNELS}health", retry=Retry.IDEMPOTENT)


def list_tunnels(*, status_filter: str | None = None, include_deleted: bool = False) -> Request:
    """List the tunnels.

    Args:
        status_filter: only those with this status.
        include_deleted: deleted ones too.

    Returns:
        A list of tunnels.
    """
    params: dict[str, str | bool] = {}
    if status_filter is not None:
        params["status_filter"] = status_filter
    if include_deleted:
        params["include_deleted"] = include_deleted
    return Request("GET", _TUNNELS, params, retry=Retry.IDEMPOTENT, many=True)


def create_tunnel(*, subdomain: str, local_port: int, local_host: str = "127.0.0.1") -> Request:
    """Create a tunnel from a subdomain to a local port.

    Args:
        subdomain: its name.
        local_port: where its traffic goes.
        local_host: the host of that port.

    Returns:
        The tunnel, with its ``id`` and ``public_url``.
    """
    body = {"subdomain": subdomain, "local_port": local_port, "local_host": local_host}
    return Request("POST", _TUNNELS, body=body)


def delete_tunnel(tunnel_id: str) -> Request:
    """Delete a tunnel.

    Args:
        tunnel_id: the ``id`` of the tunnel.

    Returns:
        The deleted tunnel.
    """
    return Request("DELETE", f"{_TUNNELS}{tunnel_id}", retry=Retry.IDEMPOTENT)


def rotate_tunnel(
    *, local_port: int = 8000, local_host: str = "127.0.0.1", reason: str | None = None
) -> Request:
    """Move the active tunnel to another local port.

    Args:
        local_port: where its traffic goes from now on.
        local_host: the host of that port.
        reason: why, for the record.

    Returns:
        The new target and ``public_url``.
    """
    body: dict[str, Any] = {"local_port": local_port, "local_host": local_host}
    if reason:
        body["reason"] = reason
    return Request("POST", f"{_TUNNELS}rotate", body=body)


def create_lease(
    *,
    client_instance_id: str,
    local_host: str,
    local_port: int,
    app_name: str | None = None,
    provider_preference: TunnelProvider | str = TunnelProvider.NGROK,
    requested_ttl_seconds: int = 3600,
    reuse_connector: bool = True,
    idempotency_key: str | None = None,
) -> Request:
    """Create a managed lease, whose traffic comes through a provider's connector.

    Args:
        client_instance_id: who asks; stable for a machine.
        local_host: the host of the local port.
        local_port: where the traffic goes.
        app_name: the app's name.
        provider_preference: the provider, or its name.
        requested_ttl_seconds: how long it should live, in seconds.
        reuse_connector: whether a connector that runs already will do.
        idempotency_key: the same key from the same client gives the same lease, created once.

    Returns:
        The lease and what its connector needs.
    """
    provider = provider_preference
    body: dict[str, Any] = {
        "client_instance_id": client_instance_id,
        "local_host": local_host,
        "local_port": local_port,
        # Any enum will do, such as the published client's.
        "provider_preference": provider.value if isinstance(provider, Enum) else provider,
        "requested_ttl_seconds": requested_ttl_seconds,
        "reuse_connector": reuse_connector,
    }
    if app_name:
        body["app_name"] = app_name
    if idempotency_key:
        body["idempotency_key"] = idempotency_key
    return Request(
        "POST", _LEASES, body=body, retry=Retry.KEYED if idempotency_key else Retry.NEVER
    )


def heartbeat(
    lease_id: str,
    *,
    connected_to_edge: bool = False,
    gateway_ready: bool = False,
    local_ready: bool = False,
    last_error: str | None = None,
) -> Request:
    """Report that a managed lease is in use, and its state.

    Args:
        lease_id: the lease.
        connected_to_edge: whether the connector has reached its provider.
        gateway_ready: whether the local gateway answers.
        local_ready: whether the app answers.
        last_error: what went wrong last.

    Returns:
        The lease, the ``action`` that the backend wants, and ``next_heartbeat_seconds``.
    """
    body = {
        "connected_to_edge": connected_to_edge,
        "gateway_ready": gateway_ready,
        "local_ready": local_ready,
        "last_error": last_error,
    }
    return Request("POST", f"{_LEASES}/{lease_id}/heartbeat", body=body, retry=Retry.IDEMPOTENT)


def release_lease(lease_id: str) -> Request:
    """Release a managed lease; its record stays.

    Args:
        lease_id: the lease.

    Returns:
        ``lease_id`` and ``status``.
    """
    return Request("POST", f"{_LEASES}/{lease_id}/release", retry=Retry.IDEMPOTENT)


def refresh_lease(lease_id: str, *, requested_ttl_seconds: int = 3600) -> Request:
    """Extend a managed lease.

    Args:
        lease_id: the lease.
        requested_ttl_seconds: how long it should live from now on, in seconds.

    Returns:
        The lease's new ``expires_at``.
    """
    body = {"requested_ttl_seconds": requested_ttl_seconds}
    return Request("POST", f"{_LEASES}/{lease_id}/refresh", body=body, retry=Retry.IDEMPOTENT)


def delete_lease(lease_id: str) -> Request:
    """Delete a managed lease.

    Args:
        lease_id: the lease.

    Returns:
        ``lease_id`` and ``status``.
    """
    return Request("DELETE", f"{_LEASES}/{lease_id}", retry=Retry.IDEMPOTENT)


def list_leases(*, client_instance_id: str | None = None, include_expired: bool = False) -> Request:
    """List the managed leases, without their tokens.

    Args:
        client_instance_id: only those of this client.
        include_expired: expired ones too.

    Returns:
        A list of leases.
    """
    params: dict[str, str | bool] = {}
    if client_instance_id is not None:
        params["client_instance_id"] = client_instance_id
    if include_expired:
        params["include_expired"] = include_expired
    return Request("GET", _LEASES, params, retry=Retry.IDEMPOTENT, many=True)


def create_synth_lease(
    *,
    client_instance_id: str,
    local_host: str,
    local_port: int,
    requested_ttl_seconds: int = 3600,
    metadata: dict[str, Any] | None = None,
    capabilities: dict[str, Any] | None = None,
) -> Request:
    """Create a SynthTunnel lease, whose traffic comes through the relay to an agent.

    Args:
        client_instance_id: who asks; stable for a machine.
        local_host: the host of the local port.
        local_port: where the traffic goes.
        requested_ttl_seconds: how long it should live, in seconds.
        metadata: anything to keep with it.
        capabilities: what the agent can do, such as ``max_inflight``.

    Returns:
        The lease, with its ``public_url``, its ``worker_token`` for callers and its
        ``agent_connect`` for the agent.
    """
    body = {
        "client_instance_id": client_instance_id,
        "local_target": {"host": local_host, "port": local_port},
        "requested_ttl_seconds": requested_ttl_seconds,
        "metadata": metadata or {},
        "capabilities": capabilities or {},
    }
    return Request("POST", _SYNTH_LEASES, body=body)


def get_synth_lease(lease_id: str) -> Request:
    """Ask for the status of a SynthTunnel lease.

    Args:
        lease_id: the lease.

    Returns:
        Its ``status``, whether its agent is ``connected``, and more.
    """
    return Request("GET", f"{_SYNTH_LEASES}/{lease_id}", retry=Retry.IDEMPOTENT)


def close_synth_lease(lease_id: str) -> Request:
    """Close a SynthTunnel lease.

    Args:
        lease_id: the lease.

    Returns:
        Its last status.
    """
    return Request("DELETE", f"{_SYNTH_LEASES}/{lease_id}", retry=Retry.IDEMPOTENT)


def refresh_synth_worker_token(lease_id: str) -> Request:
    """Replace the token that callers of a SynthTunnel lease show; the old one stops working.

    Args:
        lease_id: the lease.

    Returns:
        ``lease_id`` and the new ``worker_token``.
    """
    return Request("POST", f"{_SYNTH_LEASES}/{lease_id}/token:refresh")
