"""Makes what carries a lease, and holds what the leases of a run share."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ...agent.agent import Agent
from ...settings import Settings
from ..backend_client import BackendClient
from ..leases.spec import SYNTHTUNNEL, LeaseSpec
from .backends import Backends
from .base import LeaseTransport
from .synthtunnel import SynthTunnelTransport

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder
    from .connector_pool import ConnectorPool
    from .gateway_pool import GatewayPool

__all__ = ["TransportFactory"]

_OPEN_SHARE = 0.8
"""Of the time that a fixture waits: what is missing is to be said before that is over."""


class TransportFactory:
    """The carriers of one run's leases.

    Args:
        settings: of the run.
        plane: the backend, not yet started.
        books: for what a hosted backend is owed; ``None`` for the embedded one.
        environ: the environment of the run, for the programs of connectors.
        now: unix seconds.

    Attributes:
        plane: see above.
        books: see above.
    """

    def __init__(
        self,
        settings: Settings,
        plane: BackendClient,
        books: "LedgerRecorder | None",
        environ: Mapping[str, str],
        now: Callable[[], float],
    ) -> None:
        self.plane = plane
        self.books = books
        self._settings = settings
        self._backends = Backends(plane, books, settings.request_timeout_s)
        self._environ = environ
        self._now = now

    def make(self, provider: str, request: LeaseSpec) -> LeaseTransport:
        """Return a new carrier for a new lease.

        Args:
            provider: ``synthtunnel``, or whose connector carries the lease.
            request: what is asked for.
        """
        agent = Agent(timeout_s=self._settings.request_timeout_s)
        if provider == SYNTHTUNNEL:
            return SynthTunnelTransport(self.plane, self.books, request, agent)
        # Most runs have none, and need neither connectors nor a gateway.
        from .managed import ManagedTransport

        return ManagedTransport(
            provider,
            request,
            agent,
            backends=self._backends,
            gateways=self._gateways,
            connections=self._connections,
            timeout_s=self._settings.start_timeout_s * _OPEN_SHARE,
            now=self._now,
        )

    @cached_property
    def _gateways(self) -> "GatewayPool":
        from .gateway_pool import GatewayPool

        return GatewayPool(self._settings.request_timeout_s)

    @cached_property
    def _connections(self) -> "ConnectorPool":
        from .connector_pool import ConnectorPool

        return ConnectorPool(
            environ=self._environ,
            cloudflared=self._settings.cloudflared,
            registered=self._settings.connectors,
        )

    async def close(self) -> None:
        """Stop the connectors, the gateways and the backends."""
        if "_connections" in self.__dict__:
            await self._connections.close()
        if "_gateways" in self.__dict__:
            await self._gateways.close()
        await self._backends.close()
