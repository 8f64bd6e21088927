"""The tunnels of ``/v1/tunnels/``: a subdomain for a local port. Pure state."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from .common import RefusedError, TokenMaker, make_room

__all__ = ["Tunnel", "TunnelEdge", "Tunnels"]

MAX_TUNNELS: Final = 4_096


@dataclass(slots=True, eq=False)
class Tunnel:
    """One tunnel, with the fields of its JSON."""

    id: str
    provider: str
    status: str
    """``active`` or ``deleted``."""
    subdomain: str
    local_host: str
    local_port: int
    public_url: str

    @property
    def ended(self) -> bool:
        return self.status == "deleted"

    @property
    def prefix(self) -> str:
        """The path of its public URL."""
        return f"/t/{self.subdomain}"


class TunnelEdge(Protocol):
    """What carries the traffic of tunnels, as far as the tunnels need it."""

    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Serve a tunnel's URL from its local target."""

    def close_tunnel(self, tunnel_id: str) -> None:
        """Stop serving a tunnel."""


class Tunnels:
    """All tunnels of a backend.

    Args:
        public_base_url: the origin that callers use.
        token: makes their ids.
        edge: carries their traffic.
    """

    def __init__(self, *, public_base_url: str, token: TokenMaker, edge: TunnelEdge) -> None:
        self._public_base_url = public_base_url
        self._token = token
        self._edge = edge
        self._tunnels: dict[str, Tunnel] = {}
        """The tunnels by id, oldest first. Ended ones stay as history until room is needed."""

    def list(self, *, status: str | None = None, include_deleted: bool = False) -> list[Any]:
        """Return the tunnels, those of one ``status`` if one is given."""
        return [
            asdict(tunnel)
            for tunnel in self._tunnels.values()
            if (include_deleted or not tunnel.ended) and status in (None, tunnel.status)
        ]

    def create(self, *, subdomain: str, local_host: str, local_port: int) -> dict[str, Any]:
        """Open a tunnel.

        Raises:
            RefusedError: 409, an active tunnel has the subdomain; 429, too many are open.
        """
        subdomain = subdomain.lower()
        if any(t.subdomain == subdomain and not t.ended for t in self._tunnels.values()):
            raise RefusedError(
                409, "conflict", f"subdomain {subdomain!r} is taken: delete its tunnel or rename"
            )
        make_room(self._tunnels, MAX_TUNNELS, "tunnels")
        tunnel = Tunnel(
            id=self._token("tun"),
            provider="cloudflared",
            status="active",
            subdomain=subdomain,
            local_host=local_host,
            local_port=local_port,
            public_url="",
        )
        tunnel.public_url = self._public_base_url + tunnel.prefix
        self._tunnels[tunnel.id] = tunnel
        self._edge.open_tunnel(tunnel)
        return asdict(tunnel)

    def delete(self, tunnel_id: str) -> dict[str, Any]:
        """End a tunnel; ending it again changes nothing.

        Raises:
            RefusedError: 404, there is none of this id.
        """
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None:
            raise RefusedError(404, "not_found", f"no tunnel has the id {tunnel_id[:80]!r}")
        if not tunnel.ended:
            tunnel.status = "deleted"
            self._edge.close_tunnel(tunnel_id)
        return asdict(tunnel)

    def rotate(self, *, local_host: str, local_port: int, reason: str | None) -> dict[str, Any]:
        """Move the newest active tunnel to another local target; its URL stays.

        Raises:
            RefusedError: 404, no tunnel is active.
        """
        newest = next((t for t in reversed(self._tunnels.values()) if not t.ended), None)
        if newest is None:
            raise RefusedError(404, "not_found", "no tunnel is active, so there is none to rotate")
        newest.local_host = local_host
        newest.local_port = local_port
        self._edge.close_tunnel(newest.id)
        self._edge.open_tunnel(newest)
        return asdict(newest) | {"status": "rotated", "reason": reason}
