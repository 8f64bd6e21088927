"""All state of the embedded backend, in memory. Pure: the time and the tokens come from outside."""

import time
from typing import Protocol

from ..relay.route import Limits
from .common import Clock, TokenMaker, make_token
from .managed_leases import LeaseEdge, ManagedLeases
from .synth_leases import RouteTable, SynthLeases
from .tunnels import TunnelEdge, Tunnels

__all__ = ["Store", "TrafficEdge"]


class TrafficEdge(TunnelEdge, LeaseEdge, Protocol):
    """What carries the traffic of tunnels and managed leases."""


class Store:
    """The state that the control plane reads and changes.

    Args:
        relay: carries the traffic of SynthTunnel leases.
        edge: carries the traffic of tunnels and managed leases.
        public_base_url: the origin that callers use.
        agent_url: the WebSocket URL that agents dial, and the connectors of managed leases.
        limits: what a SynthTunnel lease may use.
        now: returns unix seconds.
        token: makes ids and tokens.

    Attributes:
        tunnels: the tunnels of ``/v1/tunnels/``.
        leases: the managed leases of ``/v1/tunnels/lease``.
        synth: the SynthTunnel leases of ``/api/v1/synthtunnel/leases``.
    """

    def __init__(
        self,
        *,
        relay: RouteTable,
        edge: TrafficEdge,
        public_base_url: str,
        agent_url: str,
        limits: Limits | None = None,
        now: Clock = time.time,
        token: TokenMaker = make_token,
    ) -> None:
        self.tunnels = Tunnels(public_base_url=public_base_url, token=token, edge=edge)
        self.leases = ManagedLeases(
            now=now,
            token=token,
            public_base_url=public_base_url,
            edge=edge,
            edge_url=agent_url,
        )
        self.synth = SynthLeases(
            now=now,
            token=token,
            relay=relay,
            public_base_url=public_base_url,
            agent_url=agent_url,
            limits=limits,
        )
