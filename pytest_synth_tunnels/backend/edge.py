"""The embedded backend's edge: public paths for tunnels and managed leases, with real traffic.

A tunnel of ``/v1/tunnels/`` lies at ``/t/{subdomain}``, and an agent in this process brings its
traffic to the local target. A managed lease lies at ``/m/{prefix}``; its traffic goes, with the
whole path, to the connector that attached with the lease's ``tunnel_token``, and from there to a
gateway: what cloudflared does for Cloudflare's edge.
"""

from ..agent.agent import Agent
from ..agent.target import Target
from ..in_process import attach_in_process
from ..relay.relay import Relay
from ..relay.route import Route
from ..sdk.resolve import is_loopback
from .common import make_token
from .tunnels import Tunnel

__all__ = ["PublicEdge"]


class PublicEdge:
    """Routes the traffic of public paths to its targets.

    Args:
        relay: carries the traffic.
        public_base_url: the origin that callers use.
    """

    def __init__(self, relay: Relay, public_base_url: str) -> None:
        self._relay = relay
        self._public_base_url = public_base_url
        self._agents: dict[str, Agent] = {}
        """The agents, by the id of the tunnel that each serves."""
        self._prefixes: dict[str, set[str]] = {}
        """The paths of the leases of each connector, by its ``managed_tunnel_id``."""

    # --- tunnels

    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Serve a tunnel's URL from its local target."""
        route = Route(
            lease_id=tunnel.id,
            route_token="",
            agent_token=make_token("at"),
            public_base_url=self._public_base_url,
            require_token=False,
            prefix=tunnel.prefix,
        )
        self._relay.add(route)
        if not is_loopback(tunnel.local_host):
            self._relay.close(
                tunnel.id, f"it leads to {tunnel.local_host}, which is not this machine"
            )
            return
        agent = self._agents[tunnel.id] = Agent()
        agent.leases.serve(tunnel.id, route.public_url)
        agent.leases.set_target(tunnel.id, "", Target(tunnel.local_host, tunnel.local_port))
        attach_in_process(self._relay, agent, route.agent_token)

    def close_tunnel(self, tunnel_id: str) -> None:
        """Forget a tunnel; its requests in flight end."""
        self._relay.remove(tunnel_id)
        agent = self._agents.pop(tunnel_id, None)
        if agent is not None:
            agent.drop(tunnel_id)

    # --- managed leases

    def open_lease(self, prefix: str, managed_tunnel_id: str, tunnel_token: str) -> None:
        """Route a managed lease's path to its connector.

        Args:
            prefix: the path, of two segments.
            managed_tunnel_id: the id that the connector serves; leases may share one.
            tunnel_token: what it authenticates with.
        """
        prefixes = self._prefixes.setdefault(managed_tunnel_id, set())
        if not prefixes:
            self._relay.add(
                Route(
                    lease_id=managed_tunnel_id,
                    route_token="",
                    agent_token=tunnel_token,
                    public_base_url=self._public_base_url,
                    require_token=False,
                    whole_path=True,
                )
            )
        prefixes.add(prefix)
        self._relay.alias_prefix(prefix, managed_tunnel_id)

    def close_lease(self, prefix: str, managed_tunnel_id: str) -> None:
        """Stop routing a path. With its last path a connector loses its route."""
        prefixes = self._prefixes.get(managed_tunnel_id, set())
        prefixes.discard(prefix)
        self._relay.alias_prefix(prefix, None)
        if not prefixes and self._prefixes.pop(managed_tunnel_id, None) is not None:
            self._relay.remove(managed_tunnel_id)

    def close(self) -> None:
        """Close the connections to local targets."""
        for tunnel_id in list(self._agents):
            self.close_tunnel(tunnel_id)
