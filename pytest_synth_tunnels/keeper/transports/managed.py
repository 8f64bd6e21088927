"""A managed lease: a connector at a provider's edge, and a gateway in the keeper.

The connector brings the lease's traffic to the gateway, under a path of the lease's own, and the
gateway gives it to the lease's agent. Heartbeats report how that fares, and what their answers ask
for is done (protocol, section 4).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from math import inf
from typing import Any, Final

from ...agent.agent import Agent
from ...aio.tasks import in_thread
from ...sdk import requests
from ...sdk.errors import TunnelError
from ..backend_client import BackendClient
from ..errors import KeeperRequestError
from ..leases.heartbeat import Beat, Notice, NoticeKind
from ..leases.spec import LeaseSpec, is_gone, parse_rfc3339
from ..readiness import wait_ready
from .action_queue import CHECK_URL, ActionQueue
from .backends import Backends
from .base import Told
from .connector_pool import ConnectorPool
from .gateway_pool import GatewayPool
from .provider_route import ProviderRoute
from .route_manager import RouteManager
from .targets import AgentTargets

__all__ = ["ManagedTransport"]

_log = logging.getLogger(__name__)

_FIRST_BEAT_TIMEOUT_S: Final = 5.0
_SHORTEST_PAUSE_S: Final = 0.1
"""Between two beats, however many a backend wants."""
_MAX_ERROR_CHARS: Final = 1_000
"""Of ``last_error`` in a heartbeat."""


class ManagedTransport:
    """See :class:`~.base.LeaseTransport`.

    Args:
        provider: whose connector carries the lease.
        request: what is asked for.
        agent: a new one.
        backends: the run's.
        gateways: the run's.
        connections: the run's.
        timeout_s: how long it may take until traffic comes through, in seconds.
        now: unix seconds.

    Attributes:
        orders: what the backend asks for.
    """

    def __init__(
        self,
        provider: str,
        request: LeaseSpec,
        agent: Agent,
        *,
        backends: Backends,
        gateways: GatewayPool,
        connections: ConnectorPool,
        timeout_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self.serving = AgentTargets(agent)
        self.worker_token: str | None = None
        self.interval_s = 30.0
        self.tell: Told = lambda notice: None
        self._ways = RouteManager(
            provider,
            request,
            self.serving,
            backends=backends,
            gateways=gateways,
            connections=connections,
        )
        self.orders = ActionQueue(timeout_s, self._done)
        self._timeout_s = timeout_s
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._wanted_s = request.ttl_s
        self._ttl_s = request.ttl_s
        """As the backend grants it, once it has."""
        self._told_url = ""
        """The public URL that the lease's holders know of."""

    @property
    def embedded(self) -> bool:
        return self._plane.embedded

    @property
    def backend_url(self) -> str:
        return self._plane.url

    @property
    def lease_id(self) -> str:
        return self._way.lease.lease_id if self._way is not None else ""

    @property
    def public_url(self) -> str:
        return self._way.public_url if self._way is not None else ""

    @property
    def expires_at(self) -> str:
        return self._way.expires_at if self._way is not None else ""

    @property
    def headers(self) -> dict[str, str]:
        return self._way.headers if self._way is not None else {}

    @property
    def _way(self) -> ProviderRoute | None:
        return self._ways.current

    @property
    def _plane(self) -> BackendClient:
        return self._ways.plane

    def is_called(self, lease_id: str) -> bool:
        return self._ways.is_called(lease_id)

    # --- opening

    async def open(self) -> None:
        deadline = self._loop.time() + self._timeout_s
        try:
            await self._open(deadline)
        except BaseException:
            # The backend is given its lease back at the end, but nothing is to come by it.
            self._ways.leave()
            raise
        await self._report()

    async def _open(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                way = await self._ways.open()
        except TimeoutError:
            raise KeeperRequestError(
                "TUNNEL_NOT_READY",
                f"the {self.provider} lease is not ready after {self._timeout_s:g} s: "
                f"{(self.lease_id and self.missing_link()) or 'the backend did not answer'}",
                "python -m pytest_synth_tunnels doctor looks at each link",
            ) from None
        self._ttl_s = parse_rfc3339(way.expires_at) - self._now()
        self._told_url = way.public_url
        # See a nonce come through the public URL.
        await wait_ready(
            public_url=self.public_url,
            headers=self.headers,
            is_secret=True,
            missing_link=self.missing_link,
            target=None,
            timeout_s=max(1.0, deadline - self._loop.time()),
        )

    async def _report(self) -> None:
        """Beat at once: until a heartbeat says otherwise, the backend takes the lease for one
        that waits for its connector."""
        try:
            async with asyncio.timeout(_FIRST_BEAT_TIMEOUT_S):
                beat = await in_thread(self.beat)
        except (TunnelError, TimeoutError) as error:
            _log.info("lease %s: its first heartbeat failed: %s", self.lease_id, error)
        else:
            self.interval_s = beat.next_s or self.interval_s

    # --- heartbeats

    def beat(self) -> Beat:
        way = self._way
        if way is None:
            raise RuntimeError("there is no lease yet")
        status, starts = way.status(), way.starts
        last_error = self.orders.last_error or status.error
        try:
            answer = self._plane.call_from_thread(
                requests.heartbeat(
                    way.lease.lease_id,
                    connected_to_edge=status.connected,
                    gateway_ready=way.gateway_port > 0,
                    local_ready=self.serving.accepts_now(),
                    last_error=last_error[:_MAX_ERROR_CHARS] or None,
                )
            )
        except TunnelError as error:
            # A lease that is being replaced may be gone before its successor is there.
            is_current = way is self._way and self.orders.doing != "recreate_tunnel"
            if is_gone(error) and is_current:
                return Beat(alive=False, reason=error.message)
            raise
        action = str(answer.get("action") or CHECK_URL)
        self._loop.call_soon_threadsafe(self._obey, action, way, starts)
        self._refresh_in_time(way)
        return Beat(
            alive=True,
            reason=status.error,
            attached=status.connected,
            next_s=_pause_s(answer.get("next_heartbeat_seconds")),
            expires_at=parse_rfc3339(way.expires_at),
        )

    def _refresh_in_time(self, way: ProviderRoute) -> None:
        """Begin the lease's time anew once a third of it is over, which leaves room to fail."""
        left_s = parse_rfc3339(way.expires_at) - self._now()
        if left_s > self._ttl_s * 2 / 3:
            return
        try:
            answer = self._plane.call_from_thread(
                requests.refresh_lease(
                    way.lease.lease_id, requested_ttl_seconds=max(1, int(self._wanted_s))
                )
            )
            way.extend(answer.get("expires_at"))
        except TunnelError as error:
            # The heartbeat was answered all the same, and the next one tries this again.
            _log.warning("lease %s: not refreshed: %s", way.lease.lease_id, error.message)

    def _obey(self, action: str, way: ProviderRoute, starts: int) -> None:
        """Do what a heartbeat's answer asks for; see :meth:`...RouteManager.step`."""
        step = self._ways.step(action, way, starts)
        if step is None:
            _log.warning("lease %s: the backend asks for %.80r: unknown", self.lease_id, action)
            return
        if action != CHECK_URL:
            _log.info("lease %s: the backend asks for %s", self.lease_id, action)
        self.orders.take(action, step)

    def _done(self, action: str) -> None:
        if self.public_url != self._told_url:
            self._told_url = self.public_url
            reason = (
                f"the backend asked for {action}" if action != CHECK_URL else "its edge moved it"
            )
            self.tell(Notice(NoticeKind.MOVED, f"it has another public URL now: {reason}"))

    # --- in use

    async def status(self) -> dict[str, Any]:
        answer = await self._plane.call(
            requests.list_leases(client_instance_id=self._plane.client_id(), include_expired=True)
        )
        found = [lease for lease in answer if lease.get("lease_id") == self.lease_id]
        described = self._way.describe() if self._way is not None else {}
        return {**(found[0] if found else {}), **described}

    async def refresh_token(self) -> None:
        raise KeeperRequestError(
            "NO_WORKER_TOKEN",
            f"a {self.provider} lease has no worker token: whoever knows its URL gets through",
        )

    def missing_link(self) -> str | None:
        return self._way.missing_link() if self._way is not None else None

    def exposure(self) -> list[str]:
        if self._way is None or not self._way.is_public:
            return []
        return [
            f"{target.name} was public through {self.provider} for {served_s:.0f} s"
            for target, served_s in self.serving.served().items()
        ]

    # --- the end

    async def give_back(self) -> None:
        # A replacement that is being made is given back with the others.
        self.orders.end()
        await self._ways.give_back()

    @property
    def released(self) -> bool:
        return not self._ways.owed

    @property
    def release_error(self) -> str:
        owed = next(iter(self._ways.owed), None)
        if owed is None:
            return ""
        former = f"{owed.lease_id}, which it replaced: " if owed.lease_id != self.lease_id else ""
        return former + owed.release_error

    async def close(self) -> None:
        self._ways.leave()
        await self.serving.close()


def _pause_s(said: object) -> float | None:
    """Read when a backend wants the next beat; ``None`` if what it says makes no sense."""
    if not isinstance(said, int | float) or not 0 < said < inf:
        return None
    return max(float(said), _SHORTEST_PAUSE_S)
