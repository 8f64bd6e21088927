"""The routes of a managed lease: the one that its traffic takes, and the leases it replaced.

Theory of operation. The backend knows leases, the run's users know one lease; a
:class:`RouteManager` is between them. *Current* is the route (:mod:`.provider_route`) that the
traffic takes; there is none before :meth:`RouteManager.open`, and from then on always one.
*Former* are the leases that a current one replaced, or that were to replace it and failed; each
is released at once, and again at the end of the run if that did not succeed.

The backend asks for a change in the answer to a heartbeat (protocol, section 4), and the actions
are done one at a time (:mod:`.action_queue`): *restart_connector* and *rotate_tunnel* keep the
lease and connect it anew; *recreate_tunnel* connects a second lease first and then moves the agent
to it, because an agent serves one lease at a time. An action that was asked for a route that has
been replaced meanwhile is not done: its replacement has done it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...aio.tasks import spawn
from ...sdk import requests
from ...sdk.errors import TunnelError
from ..backend_client import BackendClient
from ..leases.backend_record import BackendLeaseRecord
from ..leases.spec import LeaseSpec, is_gone, no_origin
from ..ports import HOST
from .action_queue import CHECK_URL
from .connector_pool import ConnectorPool
from .gateway_pool import GatewayPool
from .provider_route import ACCOUNTS, ProviderRoute, connector_name
from .targets import AgentTargets

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder

__all__ = ["RouteContext", "RouteManager"]

_RELEASE_TIMEOUT_S: Final = 60.0
"""For a lease that was replaced; at the end of the run its release is tried again."""


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What the routes of a run share.

    Attributes:
        backend_client: the run's backend.
        find_backend: returns the backend for a connector's leases, started, and its ledger; its
            argument is whether the connector could do without a backend.
        gateway_pool: the run's gateways.
        connector_pool: the run's connectors.
    """

    backend_client: BackendClient
    find_backend: "Callable[[bool], Awaitable[tuple[BackendClient, LedgerRecorder | None]]]"
    gateway_pool: GatewayPool
    connector_pool: ConnectorPool


class RouteManager:
    """Makes the route of a lease, and another one when the backend asks for it.

    Args:
        provider: whose connector carries the lease.
        spec: what is asked for.
        targets: the lease's agent.
        context: of the run.

    Attributes:
        backend_client: the lease's backend.
        current: the route that the traffic takes, once there is one.
    """

    def __init__(
        self, provider: str, spec: LeaseSpec, targets: AgentTargets, context: RouteContext
    ) -> None:
        self.backend_client: BackendClient = context.backend_client
        self.current: ProviderRoute | None = None
        self._provider = provider
        self._spec = spec
        self._targets = targets
        self._context = context
        self._former: list[BackendLeaseRecord] = []
        """Leases that were replaced, or that were to replace another one and failed."""

    def has_id(self, lease_id: str) -> bool:
        """Whether this is, or ever was, the lease's id."""
        return any(lease.lease_id == lease_id for lease in self._all_leases)

    @property
    def _all_leases(self) -> list[BackendLeaseRecord]:
        current = [self.current.lease] if self.current is not None else []
        return [*self._former, *current]

    async def open(self) -> ProviderRoute:
        """Make the first route, and have it carry traffic.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: the route carries no traffic, and why.
        """
        name = connector_name(self._provider, embedded=self.backend_client.embedded)
        brings_url = self._context.connector_pool.kind(name).brings_url
        needs_none = brings_url and self._provider not in ACCOUNTS
        if self._spec.url_style == "root" and not needs_none:
            raise no_origin(self._provider)
        self.backend_client, ledger_recorder = await self._context.find_backend(needs_none)
        route = self.current = self._new_route(ledger_recorder)
        await route.create(self._create_request())
        await route.connect()
        route.accept_callers(self._targets)
        return route

    def _new_route(self, ledger_recorder: "LedgerRecorder | None") -> ProviderRoute:
        return ProviderRoute(
            self._provider,
            self.backend_client,
            ledger_recorder,
            gateway_pool=self._context.gateway_pool,
            connector_pool=self._context.connector_pool,
            at_root=self._spec.url_style == "root",
        )

    def _create_request(self) -> requests.Request:
        name = self._spec.metadata.get("name") or "pytest-synth-tunnels"
        return requests.create_lease(
            client_instance_id=self.backend_client.client_id(),
            local_host=HOST,
            local_port=self._spec.port,
            app_name=f"{name} ({self._provider})",
            provider_preference=self._provider if self._provider in ACCOUNTS else "cloudflared",
            requested_ttl_seconds=max(1, int(self._spec.ttl_s)),
            idempotency_key=uuid.uuid4().hex,
        )

    # --- what heartbeats ask for

    def action_for(
        self, action: str, route: ProviderRoute, starts: int
    ) -> Callable[[], Awaitable[None]] | None:
        """Return the function that does an action; ``None`` if there is no such action.

        Args:
            action: what a heartbeat's answer asks for.
            route: for which it was asked; the function does nothing if it has been replaced.
            starts: how often its connector had been started when it was asked.
        """
        functions: dict[str, Callable[[], Awaitable[None]]] = {
            "restart_connector": lambda: self._restart(route, starts),
            "rotate_tunnel": lambda: self._rotate(route),
            "recreate_tunnel": lambda: self._recreate(route),
            CHECK_URL: lambda: self._check_url(route),
        }
        function = functions.get(action)
        if function is None:
            return None

        async def do() -> None:
            if route is self.current:
                await function()

        return do

    async def _restart(self, route: ProviderRoute, starts: int) -> None:
        await route.restart(starts)
        route.accept_callers(self._targets)

    async def _rotate(self, route: ProviderRoute) -> None:
        try:
            await self.backend_client.call(
                requests.rotate_tunnel(
                    local_host=HOST, local_port=route.gateway_port, reason="a heartbeat's answer"
                )
            )
        except TunnelError as error:
            if not is_gone(error):  # there may be a lease without a tunnel of this API
                raise
        await route.renew()
        route.accept_callers(self._targets)

    async def _recreate(self, route: ProviderRoute) -> None:
        fresh, request = self._new_route(route.lease.ledger_recorder), self._create_request()
        self._former.append(fresh.lease)
        try:
            await fresh.create(request)
            await fresh.connect()
        except BaseException:
            fresh.disconnect()
            spawn(_release(fresh.lease))
            raise
        self._former.remove(fresh.lease)
        self._former.append(route.lease)
        route.disconnect()  # an agent serves one lease at a time
        self.current = fresh
        fresh.accept_callers(self._targets)
        spawn(_release(route.lease))

    async def _check_url(self, route: ProviderRoute) -> None:
        """See whether a connector that makes its own URL has made another one."""
        if await route.follow():
            route.accept_callers(self._targets)

    # --- the end

    async def release(self) -> None:
        """Let no caller through, and release all leases, for as long as the caller waits."""
        if self.current is not None:
            self.current.refuse_callers()
        await asyncio.gather(*(lease.release() for lease in self._all_leases))

    @property
    def unreleased(self) -> list[BackendLeaseRecord]:
        """The leases that the backend still holds."""
        return [lease for lease in self._all_leases if lease.lease_id and not lease.released]

    def disconnect(self) -> None:
        """Let the connector go."""
        if self.current is not None:
            self.current.disconnect()


async def _release(lease: BackendLeaseRecord) -> None:
    """Release a lease at once; what does not succeed is tried again at the end of the run."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_RELEASE_TIMEOUT_S):
            await lease.release()
