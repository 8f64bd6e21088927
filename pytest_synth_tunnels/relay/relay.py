"""The relay's hub: which lease is whose, and which agent serves it.

No sockets: callers come through :mod:`.ingress`, agents through a :class:`~..wire.link.Link`.
"""

import asyncio
import os
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from ..aio.deadlines import Deadlines
from ..wire.link import Link
from .agent_session import AgentSession
from .auth import same_secret
from .failures import over, rotated
from .route import Route

if TYPE_CHECKING:
    from ..websocket.tunnelled import TunnelledWebSocket

__all__ = ["Relay"]


class Relay:
    """Knows every route, and finds it.

    Args:
        loop: for deadlines.
        now: unix seconds, against which leases expire.
        request_timeout_s: how long a caller waits for the beginning of an answer, in seconds,
            after the last piece of its request.
        idle_timeout_s: how long an answer may stand still once it has begun, in seconds. It is
            noticed by the double of it.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float] = time.time,
        request_timeout_s: float = 30.0,
        idle_timeout_s: float = 300.0,
    ) -> None:
        self.loop = loop
        self.now = now
        self.request_timeout_s = request_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.deadlines = Deadlines(loop)
        self.ends: set[TunnelledWebSocket] = set()
        """Callers' WebSockets that have a connection, those that are closing included."""
        self.held_bytes = 0
        """Of bodies whose requests wait for an agent."""
        self._by_prefix: dict[str, Route] = {}
        self._by_lease: dict[str, Route] = {}
        self._rid_prefix = os.urandom(4).hex()
        self._rids = count(1)

    def add(self, route: Route) -> None:
        """Carry this route's traffic from now on."""
        if route.prefix:
            self._by_prefix[route.prefix] = route
        self._by_lease[route.lease_id] = route

    def remove(self, lease_id: str) -> None:
        """Forget a lease: its URL is unknown from now on."""
        self.close(lease_id, "it was removed")
        route = self._by_lease.pop(lease_id, None)
        if route is not None:
            for prefix in [prefix for prefix, to in self._by_prefix.items() if to is route]:
                del self._by_prefix[prefix]

    def close(self, lease_id: str, reason: str) -> None:
        """Fail the lease's live traffic, let its agent go, and answer 410 from now on.

        Args:
            lease_id: closing it again, or one that is unknown, changes nothing.
            reason: for the caller, as the end of a sentence.
        """
        route = self._by_lease.get(lease_id)
        if route is None or route.closed:
            return
        route.closed = True
        route.closed_because = reason
        if route.session is not None:
            route.session.detach(route, over(reason), "lease closed")
        for call in list(route.held):
            call.fail(over(reason))

    def rotate_agent(self, lease_id: str, agent_token: str) -> None:
        """Let agents serve a lease with another token only; the one that serves it now is cut off.

        Args:
            lease_id: one that is unknown or closed stays as it is.
            agent_token: what agents must show from now on.
        """
        route = self.by_lease(lease_id)
        if route is None or route.closed:
            return
        route.agent_token = agent_token
        if route.session is not None:
            route.session.detach(route, None, "the agent token was rotated")

    def rotate_worker(self, lease_id: str, worker_token: str) -> None:
        """Let callers in with another token only.

        WebSockets that were opened with the old one are closed, and whoever waits for an agent is
        refused. Requests that the agent has go on: their answers are due to who asked in time.

        Args:
            lease_id: one that is unknown or closed stays as it is.
            worker_token: what callers must show from now on.
        """
        route = self.by_lease(lease_id)
        if route is None or route.closed:
            return
        route.worker_token = worker_token
        if not route.require_token:
            return
        for held in list(route.held):
            held.fail(rotated())
        if route.session is not None:
            route.session.fail_websockets(route, rotated())

    def shut_down(self) -> None:
        """Close every lease, and drop the timer."""
        for lease_id in list(self._by_lease):
            self.close(lease_id, "the relay has ended")
        self.deadlines.close()

    def lead(self, prefix: str, lease_id: str | None) -> None:
        """Lead callers of another path to a lease too, or nowhere any more.

        Args:
            prefix: two segments, such as ``/m/r_1``.
            lease_id: one that is carried; ``None`` for nowhere.
        """
        if lease_id is None:
            self._by_prefix.pop(prefix, None)
        else:
            self._by_prefix[prefix] = self._by_lease[lease_id]

    def by_prefix(self, prefix: str) -> Route | None:
        """Return the route that callers name so; one whose time is over is closed first."""
        return self._current(self._by_prefix.get(prefix))

    def by_lease(self, lease_id: str) -> Route | None:
        """Return a lease's route; one whose time is over is closed first."""
        return self._current(self._by_lease.get(lease_id))

    def admits(self, agent_token: str) -> bool:
        """Whether an agent with this token may attach at all, asked before its handshake."""
        found = False
        for route in list(self._by_lease.values()):
            if same_secret(agent_token, route.agent_token) and not route.closed:
                found = self._current(route) is route and not route.closed
        return found

    def session(self, link: Link, agent_token: str) -> AgentSession:
        """Return the handler of a new agent's link.

        Over a WebSocket it answers the ``ATTACH`` that comes first by itself. In memory,
        :meth:`AgentSession.attach` is called instead.
        """
        return AgentSession(self, link, agent_token)

    def new_rid(self) -> str:
        """Return a name for a request that this relay has not used."""
        return f"{self._rid_prefix}-{next(self._rids)}"

    def _current(self, route: Route | None) -> Route | None:
        if route is not None and not route.closed and route.expires_at <= self.now():
            self.close(route.lease_id, "the lease expired")
        return route
