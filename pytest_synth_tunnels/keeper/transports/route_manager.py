"""A managed lease's ways: the one that its traffic takes, and the leases that it replaced."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ...aio.tasks import spawn
from ...sdk import requests
from ...sdk.errors import TunnelError
from ..backend_client import BackendClient
from ..leases.backend_record import BackendLeaseRecord
from ..leases.spec import LeaseSpec, is_gone
from ..ports import HOST
from .action_queue import CHECK_URL
from .backends import Backends
from .connector_pool import ConnectorPool
from .gateway_pool import GatewayPool
from .provider_route import ACCOUNTS, ProviderRoute, connector_name
from .targets import AgentTargets

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder

__all__ = ["RouteManager"]

_GIVE_BACK_TIMEOUT_S: Final = 60.0
"""For a lease that was replaced; at the end of the run it is tried again."""


class RouteManager:
    """Makes the way of a lease, and other ones when a backend asks for that.

    Args:
        provider: whose connector carries the lease.
        request: what is asked for.
        serving: the lease's agent.
        backends: the run's.
        gateways: the run's.
        connections: the run's.

    Attributes:
        plane: the backend.
        current: the way that the traffic takes, once there is one.
    """

    def __init__(
        self,
        provider: str,
        request: LeaseSpec,
        serving: AgentTargets,
        *,
        backends: Backends,
        gateways: GatewayPool,
        connections: ConnectorPool,
    ) -> None:
        self.plane: BackendClient = backends.plane
        self.current: ProviderRoute | None = None
        self._provider = provider
        self._request = request
        self._serving = serving
        self._backends = backends
        self._gateways = gateways
        self._connections = connections
        self._former: list[BackendLeaseRecord] = []
        """Those that were replaced, or should have replaced another."""

    def is_called(self, lease_id: str) -> bool:
        """Whether this is, or ever was, the lease's id."""
        current = [self.current.lease] if self.current is not None else []
        return any(lease.lease_id == lease_id for lease in [*current, *self._former])

    async def open(self) -> ProviderRoute:
        """Make the first one, and have it carry traffic.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: it carries nothing, and why.
        """
        name = connector_name(self._provider, embedded=self.plane.embedded)
        brings_url = self._connections.kind(name).brings_url
        needs_none = brings_url and self._provider not in ACCOUNTS
        self.plane, books = await self._backends.find(needs_none=needs_none)
        way = self.current = self._new(books)
        await way.create(self._create_request())
        await way.connect()
        way.carry(self._serving)
        return way

    def _new(self, books: "LedgerRecorder | None") -> ProviderRoute:
        return ProviderRoute(
            self._provider,
            self.plane,
            books,
            gateways=self._gateways,
            connections=self._connections,
        )

    def _create_request(self) -> requests.Request:
        name = self._request.metadata.get("name") or "pytest-synth-tunnels"
        return requests.create_lease(
            client_instance_id=self.plane.client_id(),
            local_host=HOST,
            local_port=self._request.port,
            app_name=f"{name} ({self._provider})",
            provider_preference=self._provider if self._provider in ACCOUNTS else "cloudflared",
            requested_ttl_seconds=max(1, int(self._request.ttl_s)),
            idempotency_key=uuid.uuid4().hex,
        )

    # --- what heartbeats ask for

    def step(
        self, action: str, way: ProviderRoute, starts: int
    ) -> Callable[[], Awaitable[None]] | None:
        """Return what does an action; ``None`` if there is no such action.

        Args:
            action: what a heartbeat's answer asks for.
            way: of which lease it was asked. If that has been replaced when it comes to doing it,
                it is done by that.
            starts: those of its connector, when it was asked.
        """
        steps: dict[str, Callable[[], Awaitable[None]]] = {
            "restart_connector": lambda: self._restart(way, starts),
            "rotate_tunnel": lambda: self._rotate(way),
            "recreate_tunnel": lambda: self._recreate(way),
            CHECK_URL: lambda: self._look(way),
        }
        found = steps.get(action)
        if found is None:
            return None

        async def do() -> None:
            if way is self.current:
                await found()

        return do

    async def _restart(self, way: ProviderRoute, starts: int) -> None:
        await way.restart(starts)
        way.carry(self._serving)

    async def _rotate(self, way: ProviderRoute) -> None:
        try:
            await self.plane.call(
                requests.rotate_tunnel(
                    local_host=HOST, local_port=way.gateway_port, reason="a heartbeat's answer"
                )
            )
        except TunnelError as error:
            if not is_gone(error):  # there may be a lease without a tunnel of this API
                raise
        await way.renew()
        way.carry(self._serving)

    async def _recreate(self, way: ProviderRoute) -> None:
        fresh, request = self._new(way.lease.books), self._create_request()
        self._former.append(fresh.lease)
        try:
            await fresh.create(request)
            await fresh.connect()
        except BaseException:
            fresh.leave()
            spawn(_give_back(fresh.lease))
            raise
        self._former.remove(fresh.lease)
        self._former.append(way.lease)
        way.leave()  # an agent has one link at a time
        self.current = fresh
        fresh.carry(self._serving)
        spawn(_give_back(way.lease))

    async def _look(self, way: ProviderRoute) -> None:
        """See whether a connector that makes its own URL has made another one."""
        if await way.follow():
            way.carry(self._serving)

    # --- the end

    async def give_back(self) -> None:
        """Give all leases back, for as long as the caller waits, and let nobody through."""
        leases = list(self._former)
        if self.current is not None:
            self.current.shut()
            leases.append(self.current.lease)
        await asyncio.gather(*(lease.give_back() for lease in leases))

    @property
    def owed(self) -> list[BackendLeaseRecord]:
        """The leases that were not given back so far."""
        leases = [*self._former, *([self.current.lease] if self.current is not None else [])]
        return [lease for lease in leases if lease.lease_id and not lease.released]

    def leave(self) -> None:
        """Do without a connector."""
        if self.current is not None:
            self.current.leave()


async def _give_back(lease: BackendLeaseRecord) -> None:
    """Give a lease back at once; what does not succeed is tried again at the end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_GIVE_BACK_TIMEOUT_S):
            await lease.give_back()
