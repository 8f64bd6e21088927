"""A managed lease: a connector at a provider's edge, and a gateway in the keeper.

The connector brings the lease's traffic to the gateway, under a path of the lease's own, and the
gateway gives it to the lease's agent. Heartbeats report how that fares, and what their answers ask
for is done (protocol, section 4).
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any, Final

from ..relay.agent import Agent
from ..sdk import requests
from ..sdk.errors import TunnelError
from .backend_lease import BackendLease
from .backends import Backends
from .carrier import Told
from .connections import Connections
from .failures import FailureError
from .gateways import Gateways
from .heartbeat import Beat, Notice, NoticeKind
from .leases import LeaseRequest, is_gone, unix_s
from .orders import LOOK, Orders
from .plane import Plane
from .ports import HOST, accepts_now
from .ready import wait_ready
from .serving import Serving
from .tasks import in_thread, spawn
from .way import ACCOUNTS, Way, connector_name

__all__ = ["ManagedCarrier"]

_log = logging.getLogger(__name__)

_PROBED: Final = 8
_PROBE_TIMEOUT_S: Final = 0.5
_FIRST_BEAT_TIMEOUT_S: Final = 5.0
_GIVE_BACK_TIMEOUT_S: Final = 60.0
"""For a lease that was replaced; at the end of the run it is tried again."""
_MAX_ERROR_CHARS: Final = 1_000
"""Of ``last_error`` in a heartbeat."""


class ManagedCarrier:
    """See :class:`~.carrier.Carrier`.

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
        request: LeaseRequest,
        agent: Agent,
        *,
        backends: Backends,
        gateways: Gateways,
        connections: Connections,
        timeout_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self.serving = Serving(agent)
        self.worker_token: str | None = None
        self.interval_s = 30.0
        self.tell: Told = lambda notice: None
        self._request = request
        self._backends = backends
        self._gateways = gateways
        self._connections = connections
        self._timeout_s = timeout_s
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._plane: Plane = backends.plane
        self._ttl_s = request.ttl_s
        """As the backend grants it, once it has."""
        self._way: Way | None = None
        self._former: list[BackendLease] = []
        """Those that were replaced."""
        self._told_url = ""
        """The public URL that the lease's holders know of."""
        self.orders = Orders(timeout_s, self._done)

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

    def is_called(self, lease_id: str) -> bool:
        return lease_id in (self.lease_id, *(lease.lease_id for lease in self._former))

    # --- opening

    async def open(self) -> None:
        deadline = self._loop.time() + self._timeout_s
        try:
            await self._open(deadline)
        except BaseException:
            # The backend is given its lease back at the end, but nothing is to come by it.
            if self._way is not None:
                self._way.leave()
            raise
        await self._report()

    async def _open(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                name = connector_name(self.provider, embedded=self._plane.embedded)
                brings_url = self._connections.kind(name).brings_url
                needs_none = brings_url and self.provider not in ACCOUNTS
                self._plane, books = await self._backends.find(needs_none=needs_none)
                self._way = self._new_way(books)
                await self._way.create(self._create_request())
                self._ttl_s = unix_s(self._way.expires_at) - self._now()
                await self._way.connect()
                self._way.carry(self.serving)
                self._told_url = self.public_url
        except TimeoutError:
            raise FailureError(
                "TUNNEL_NOT_READY",
                f"the {self.provider} lease is not ready after {self._timeout_s:g} s: "
                f"{(self.lease_id and self.missing_link()) or 'the backend did not answer'}",
                "python -m pytest_synth_tunnels doctor looks at each link",
            ) from None
        await self._prove(deadline)

    def _new_way(self, books: Any) -> Way:
        return Way(
            self.provider,
            self._plane,
            books,
            gateways=self._gateways,
            connections=self._connections,
        )

    def _create_request(self) -> requests.Request:
        name = self._request.metadata.get("name") or "pytest-synth-tunnels"
        return requests.create_lease(
            client_instance_id=self._plane.client_id(),
            local_host=HOST,
            local_port=self._request.port,
            app_name=f"{name} ({self.provider})",
            provider_preference=self.provider if self.provider in ACCOUNTS else "cloudflared",
            requested_ttl_seconds=max(1, int(self._request.ttl_s)),
            idempotency_key=uuid.uuid4().hex,
        )

    async def _prove(self, deadline: float) -> None:
        """See a nonce come through the public URL."""
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
                    local_ready=self._local_ready(),
                    last_error=last_error[:_MAX_ERROR_CHARS] or None,
                )
            )
        except TunnelError as error:
            # A lease that is being replaced may be gone before its successor is there.
            is_current = way is self._way and self.orders.doing != "recreate_tunnel"
            if is_gone(error) and is_current:
                return Beat(alive=False, reason=error.message)
            raise
        action = str(answer.get("action") or LOOK)
        self._loop.call_soon_threadsafe(self._obey, action, way, starts)
        self._refresh_in_time(way)
        return Beat(
            alive=True,
            reason=status.error,
            attached=status.connected,
            next_s=_positive(answer.get("next_heartbeat_seconds")),
            expires_at=unix_s(way.expires_at),
        )

    def _local_ready(self) -> bool:
        return any(
            accepts_now(target.host, target.port, _PROBE_TIMEOUT_S)
            for target in self.serving.targets[:_PROBED]
        )

    def _refresh_in_time(self, way: Way) -> None:
        """Begin the lease's time anew once a third of it is over, which leaves room to fail."""
        left_s = unix_s(way.expires_at) - self._now()
        if left_s > self._ttl_s * 2 / 3:
            return
        try:
            answer = self._plane.call_from_thread(
                requests.refresh_lease(
                    way.lease.lease_id, requested_ttl_seconds=max(1, int(self._request.ttl_s))
                )
            )
            way.extend(answer.get("expires_at"))
        except TunnelError as error:
            # The heartbeat was answered all the same, and the next one tries this again.
            _log.warning("lease %s: not refreshed: %s", way.lease.lease_id, error.message)

    # --- what the backend asks for

    def _obey(self, action: str, way: Way, starts: int) -> None:
        """Do what a heartbeat's answer asks for.

        Args:
            action: what that is.
            way: of which lease it was asked.
            starts: those of its connector, when it was asked.
        """
        steps: dict[str, Callable[[], Awaitable[None]]] = {
            "restart_connector": lambda: self._restart(way, starts),
            "rotate_tunnel": lambda: self._rotate(way),
            "recreate_tunnel": lambda: self._recreate(way),
            LOOK: lambda: self._look(way),
        }
        step = steps.get(action)
        if step is None:
            _log.warning("lease %s: the backend asks for %.80r: unknown", self.lease_id, action)
            return
        if action != LOOK:
            _log.info("lease %s: the backend asks for %s", self.lease_id, action)
        # What was asked of a lease that has been replaced since is done by that.
        self.orders.take(action, lambda: step() if way is self._way else _nothing())

    def _done(self, action: str) -> None:
        if self.public_url != self._told_url:
            self._told_url = self.public_url
            reason = f"the backend asked for {action}" if action != LOOK else "its edge moved it"
            self.tell(Notice(NoticeKind.MOVED, f"it has another public URL now: {reason}"))

    async def _restart(self, way: Way, starts: int) -> None:
        await way.restart(starts)
        way.carry(self.serving)

    async def _rotate(self, way: Way) -> None:
        try:
            await self._plane.call(
                requests.rotate_tunnel(
                    local_host=HOST, local_port=way.gateway_port, reason="a heartbeat's answer"
                )
            )
        except TunnelError as error:
            if not is_gone(error):  # there may be a lease without a tunnel of this API
                raise
        await way.renew()
        way.carry(self.serving)

    async def _recreate(self, way: Way) -> None:
        fresh, request = self._new_way(way.lease.books), self._create_request()
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
        self._way = fresh
        fresh.carry(self.serving)
        spawn(_give_back(way.lease))

    async def _look(self, way: Way) -> None:
        """See whether a connector that makes its own URL has made another one."""
        if await way.follow():
            way.carry(self.serving)

    # --- in use

    async def status(self) -> dict[str, Any]:
        answer = await self._plane.call(
            requests.list_leases(client_instance_id=self._plane.client_id(), include_expired=True)
        )
        found = [lease for lease in answer if lease.get("lease_id") == self.lease_id]
        described = self._way.describe() if self._way is not None else {}
        return {**(found[0] if found else {}), **described}

    async def refresh_token(self) -> None:
        raise FailureError(
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
        # A replacement that is being made counts among the former ones already.
        self.orders.end()
        leases = list(self._former)
        if self._way is not None:
            self._way.shut()
            leases.append(self._way.lease)
        await asyncio.gather(*(lease.give_back() for lease in leases))

    @property
    def released(self) -> bool:
        return not self._owed()

    @property
    def release_error(self) -> str:
        owed = self._owed()
        return owed[0].release_error if owed else ""

    def _owed(self) -> list[BackendLease]:
        leases = [*self._former, *([self._way.lease] if self._way is not None else [])]
        return [lease for lease in leases if lease.lease_id and not lease.released]

    async def close(self) -> None:
        if self._way is not None:
            self._way.leave()
        await self.serving.close()


async def _give_back(lease: BackendLease) -> None:
    """Give a lease back at once; what does not succeed is tried again at the end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_GIVE_BACK_TIMEOUT_S):
            await lease.give_back()


async def _nothing() -> None:
    pass


def _positive(seconds: object) -> float | None:
    """Read what a backend says of a time; ``None`` if that makes no sense."""
    if not isinstance(seconds, int | float) or not 0 < seconds < inf:
        return None
    return float(seconds)
