"""A managed lease: a connector at a provider's edge, and a gateway in the keeper.

The connector brings the lease's traffic to the gateway, under a path of the lease's own, and the
gateway gives it to the lease's agent.

Theory of operation. :meth:`ManagedTransport.open` makes the first route
(:mod:`.route_manager`), waits until a nonce has come through the public URL, and beats once; all
of it has one deadline. From then on the heartbeat's thread calls :meth:`ManagedTransport.beat`,
which reports the state of connector, gateway and app to the backend, and refreshes the lease once
a third of its time is over. What the answer asks for is put into the action queue on the event
loop (:mod:`.action_queue`); whatever action changes the public URL is noticed as *moved*. The
lease is lost when the backend does not know the current route's lease, unless that lease is just
being replaced.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from math import inf
from typing import Any, Final
from urllib.parse import urlsplit

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
from .provider_route import ProviderRoute
from .route_manager import RouteContext, RouteManager
from .targets import AgentTargets

__all__ = ["ManagedTransport", "secret_part"]

_log = logging.getLogger(__name__)

_FIRST_BEAT_TIMEOUT_S: Final = 5.0
_SHORTEST_PAUSE_S: Final = 0.1
"""Between two beats, however many a backend wants."""
_SHORTEST_SECRET: Final = 16
"""A path that is shorter is an ordinary one, which reports need."""
_MAX_ERROR_CHARS: Final = 1_000
"""Of ``last_error`` in a heartbeat."""


class ManagedTransport:
    """See :class:`~.base.LeaseTransport`.

    Args:
        provider: whose connector carries the lease.
        spec: what is asked for.
        agent: a new one.
        context: of the run.
        timeout_s: how long it may take until traffic comes through, in seconds.
        now: unix seconds.

    Attributes:
        actions: what the backend asks for.
    """

    def __init__(
        self,
        provider: str,
        spec: LeaseSpec,
        agent: Agent,
        *,
        context: RouteContext,
        timeout_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider
        self.targets = AgentTargets(agent)
        self.worker_token: str | None = None
        self.interval_s = 30.0
        self.actions = ActionQueue(timeout_s, self._action_done)
        self._routes = RouteManager(provider, spec, self.targets, context)
        self._on_notice: Callable[[Notice], None] = lambda _: None
        self._timeout_s = timeout_s
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._wanted_s = spec.ttl_s
        self._ttl_s = spec.ttl_s
        """What the backend granted, once it has; before that, what was asked for."""
        self._announced_url = ""
        """The public URL that the lease's users know of."""

    @property
    def embedded(self) -> bool:
        return self._backend_client.embedded

    @property
    def backend_url(self) -> str:
        return self._backend_client.url

    @property
    def lease_id(self) -> str:
        return self._route.lease.lease_id if self._route is not None else ""

    @property
    def public_url(self) -> str:
        return self._route.public_url if self._route is not None else ""

    def url(self, address: str) -> str:
        return f"{self.public_url}/~{address}" if address else self.public_url

    def loopback_url(self, address: str) -> str:
        return ""

    @property
    def ca_file(self) -> str:
        return ""  # a provider's edge has a certificate that everybody trusts

    @property
    def ssl_context(self) -> None:
        return None

    @property
    def url_secret(self) -> str:
        return secret_part(self.public_url)

    async def open_address(self, address: str, *, permanent: bool) -> str:
        return self.url(address)

    def end_address(self, address: str, reason: str) -> None:
        pass  # the agent says that there is no such address

    @property
    def expires_at(self) -> str:
        return self._route.expires_at if self._route is not None else ""

    @property
    def headers(self) -> dict[str, str]:
        return self._route.headers if self._route is not None else {}

    @property
    def _route(self) -> ProviderRoute | None:
        return self._routes.current

    @property
    def _backend_client(self) -> BackendClient:
        return self._routes.backend_client

    def has_id(self, lease_id: str) -> bool:
        return self._routes.has_id(lease_id)

    # --- opening

    async def open(self, on_notice: Callable[[Notice], None]) -> None:
        self._on_notice = on_notice
        deadline = self._loop.time() + self._timeout_s
        try:
            await self._open(deadline)
        except BaseException:
            # The lease is released later, with all others; no traffic is to come by it until then.
            self._routes.disconnect()
            raise
        await self._beat_once()

    async def _open(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                route = await self._routes.open()
        except TimeoutError:
            raise KeeperRequestError(
                "TUNNEL_NOT_READY",
                f"the {self.provider} lease is not ready after {self._timeout_s:g} s: "
                f"{(self.lease_id and self.missing_link()) or 'the backend did not answer'}",
                "python -m pytest_synth_tunnels doctor looks at each link",
            ) from None
        self._ttl_s = parse_rfc3339(route.expires_at) - self._now()
        self._announced_url = route.public_url
        # See a nonce come through the public URL.
        await wait_ready(
            public_url=self.public_url,
            headers=self.headers,
            is_secret=True,
            missing_link=self.missing_link,
            target=None,
            timeout_s=max(1.0, deadline - self._loop.time()),
        )

    async def _beat_once(self) -> None:
        """Beat at once: without a heartbeat, the backend takes the lease for one that waits for
        its connector."""
        try:
            async with asyncio.timeout(_FIRST_BEAT_TIMEOUT_S):
                beat = await in_thread(self.beat)
        except (TunnelError, TimeoutError) as error:
            _log.info("lease %s: its first heartbeat failed: %s", self.lease_id, error)
        else:
            self.interval_s = beat.next_s or self.interval_s

    # --- heartbeats

    def beat(self) -> Beat:
        route = self._route
        if route is None:
            raise RuntimeError("there is no lease yet")
        status, starts = route.status(), route.starts
        last_error = self.actions.last_error or status.error
        try:
            answer = self._backend_client.call_from_thread(
                requests.heartbeat(
                    route.lease.lease_id,
                    connected_to_edge=status.connected,
                    gateway_ready=route.gateway_port > 0,
                    local_ready=self.targets.accepts_blocking(),
                    last_error=last_error[:_MAX_ERROR_CHARS] or None,
                )
            )
        except TunnelError as error:
            # A lease that is being replaced may be gone before its successor is there.
            is_current = route is self._route and self.actions.doing != "recreate_tunnel"
            if is_gone(error) and is_current:
                return Beat(alive=False, reason=error.message)
            raise
        action = str(answer.get("action") or CHECK_URL)
        self._loop.call_soon_threadsafe(self._put_action, action, route, starts)
        self._refresh_in_time(route)
        return Beat(
            alive=True,
            reason=status.error,
            attached=status.connected,
            next_s=_pause_s(answer.get("next_heartbeat_seconds")),
            expires_at=parse_rfc3339(route.expires_at),
        )

    def _refresh_in_time(self, route: ProviderRoute) -> None:
        """Begin the lease's time anew once a third of it is over, which leaves room to fail."""
        left_s = parse_rfc3339(route.expires_at) - self._now()
        if left_s > self._ttl_s * 2 / 3:
            return
        try:
            answer = self._backend_client.call_from_thread(
                requests.refresh_lease(
                    route.lease.lease_id, requested_ttl_seconds=max(1, int(self._wanted_s))
                )
            )
            route.extend(answer.get("expires_at"))
        except TunnelError as error:
            # The heartbeat was answered all the same, and the next one tries this again.
            _log.warning("lease %s: not refreshed: %s", route.lease.lease_id, error.message)

    def _put_action(self, action: str, route: ProviderRoute, starts: int) -> None:
        """Put what a heartbeat's answer asks for into the queue; see
        :meth:`~.route_manager.RouteManager.action_for`."""
        work = self._routes.action_for(action, route, starts)
        if work is None:
            _log.warning("lease %s: the backend asks for %.80r: unknown", self.lease_id, action)
            return
        if action != CHECK_URL:
            _log.info("lease %s: the backend asks for %s", self.lease_id, action)
        self.actions.put(action, work)

    def _action_done(self, action: str) -> None:
        if self.public_url != self._announced_url:
            self._announced_url = self.public_url
            reason = (
                f"the backend asked for {action}" if action != CHECK_URL else "its edge moved it"
            )
            self._on_notice(Notice(NoticeKind.MOVED, f"it has another public URL now: {reason}"))

    # --- in use

    async def status(self) -> dict[str, Any]:
        answer = await self._backend_client.call(
            requests.list_leases(
                client_instance_id=self._backend_client.client_id(), include_expired=True
            )
        )
        found = [lease for lease in answer if lease.get("lease_id") == self.lease_id]
        described = self._route.describe() if self._route is not None else {}
        return {**(found[0] if found else {}), **described}

    async def refresh_token(self) -> None:
        raise KeeperRequestError(
            "NO_WORKER_TOKEN",
            f"a {self.provider} lease has no worker token: anyone who knows its URL gets through",
        )

    def missing_link(self) -> str | None:
        return self._route.missing_link() if self._route is not None else None

    def exposure(self) -> list[str]:
        if self._route is None or not self._route.is_public:
            return []
        return [
            f"{target.name} was public through {self.provider} for {served_s:.0f} s"
            for target, served_s in self.targets.served().items()
        ]

    # --- the end

    async def release(self) -> None:
        # A lease that is to replace this one is released too.
        self.actions.end()
        await self._routes.release()

    @property
    def released(self) -> bool:
        return not self._routes.unreleased

    @property
    def release_error(self) -> str:
        unreleased = self._routes.unreleased
        if not unreleased:
            return ""
        lease = unreleased[0]
        former = f"{lease.lease_id}, which it replaced: " if lease.lease_id != self.lease_id else ""
        return former + lease.release_error

    async def close(self) -> None:
        self._routes.disconnect()
        await self.targets.close()


def secret_part(public_url: str) -> str:
    """Return what nobody can guess of a URL that needs no token: its path, else its host."""
    parts = urlsplit(public_url)
    path = parts.path.strip("/")
    return path if len(path) >= _SHORTEST_SECRET else parts.netloc


def _pause_s(said: object) -> float | None:
    """Read in how many seconds a backend wants the next beat; ``None`` if that makes no sense."""
    if not isinstance(said, int | float) or not 0 < said < inf:
        return None
    return max(float(said), _SHORTEST_PAUSE_S)
