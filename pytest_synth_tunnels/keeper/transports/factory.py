"""Makes the leases' transports, and holds what the leases of a run share."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...agent.agent import Agent
from ...aio.tasks import spawn
from ...settings import Settings
from ...traffic.recorder import Recorder
from ..backend_client import BackendClient, EmbeddedBackendClient
from ..leases.spec import SYNTHTUNNEL, LeaseSpec
from .base import LeaseTransport
from .synthtunnel import SynthTunnelTransport

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder
    from .connector_pool import ConnectorPool
    from .gateway_pool import GatewayPool

__all__ = ["TransportFactory"]

_OPEN_SHARE = 0.8
"""Part of the time that a fixture waits: what is missing is to be named before that is over."""


class TransportFactory:
    """The transports of one run's leases.

    Beside the run's backend there is one of the keeper's own for providers that need none. A
    connector that makes its public URL itself (cloudflared's quick tunnels, or a plugin's) has no
    use for an account. Where the run's backend is a hosted one, an embedded one beside it keeps
    such leases, so that every lease has the same states.

    Args:
        settings: of the run.
        backend_client: the run's backend, not yet started.
        ledger_recorder: where hosted leases are written down; ``None`` for the embedded backend.
        environ: the environment of the run, for the programs of connectors.
        now: unix seconds.
        recorder: records the traffic of all leases; ``None`` to record nothing.

    Attributes:
        backend_client: see above.
        ledger_recorder: see above.
    """

    def __init__(
        self,
        settings: Settings,
        backend_client: BackendClient,
        ledger_recorder: "LedgerRecorder | None",
        environ: Mapping[str, str],
        now: Callable[[], float],
        recorder: Recorder | None = None,
    ) -> None:
        self.backend_client = backend_client
        self.ledger_recorder = ledger_recorder
        self._settings = settings
        self._environ = environ
        self._now = now
        self._recorder = recorder
        self._own_backend_client: EmbeddedBackendClient | None = None
        self._own_started: asyncio.Task[None] | None = None
        self._connector_pool: ConnectorPool | None = None
        self._gateway_pool: GatewayPool | None = None

    def make(self, provider: str, spec: LeaseSpec) -> LeaseTransport:
        """Return a new transport for a new lease.

        Args:
            provider: ``synthtunnel``, or whose connector carries the lease.
            spec: what is asked for.
        """
        agent = Agent(timeout_s=self._settings.request_timeout_s, recorder=self._recorder)
        if provider == SYNTHTUNNEL:
            return SynthTunnelTransport(self.backend_client, self.ledger_recorder, spec, agent)
        # Most runs have no such lease, and need neither connectors nor a gateway.
        from .connector_pool import ConnectorPool
        from .gateway_pool import GatewayPool
        from .managed import ManagedTransport
        from .route_manager import RouteContext

        if self._connector_pool is None:
            self._connector_pool = ConnectorPool(
                environ=self._environ,
                cloudflared=self._settings.cloudflared,
                registered=self._settings.connectors,
            )
        if self._gateway_pool is None:
            self._gateway_pool = GatewayPool(self._settings.request_timeout_s, self._recorder)
        return ManagedTransport(
            provider,
            spec,
            agent,
            context=RouteContext(
                backend_client=self.backend_client,
                find_backend=self.find_backend,
                gateway_pool=self._gateway_pool,
                connector_pool=self._connector_pool,
            ),
            timeout_s=self._settings.start_timeout_s * _OPEN_SHARE,
            now=self._now,
        )

    async def find_backend(self, needs_none: bool) -> "tuple[BackendClient, LedgerRecorder | None]":
        """Return the backend for a connector's leases, started, and its ledger.

        Args:
            needs_none: whether the connector could do without a backend.

        Raises:
            TunnelError: it cannot be used.
        """
        if not needs_none or self.backend_client.embedded:
            return self.backend_client, self.ledger_recorder
        if self._own_backend_client is None or self._own_started is None:
            self._own_backend_client = EmbeddedBackendClient(
                self._settings.request_timeout_s, self._recorder
            )
            self._own_started = spawn(self._own_backend_client.start())
        await asyncio.shield(self._own_started)
        return self._own_backend_client, None

    async def close(self) -> None:
        """Stop the connectors, the gateways and the backends."""
        if self._connector_pool is not None:
            await self._connector_pool.close()
        if self._gateway_pool is not None:
            await self._gateway_pool.close()
        await self.backend_client.close()
        if self._own_backend_client is not None:
            await self._own_backend_client.close()
