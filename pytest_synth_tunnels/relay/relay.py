"""The relay's hub: it knows every lease's route, and which agent's session serves it.

No sockets: callers come through :mod:`.ingress`, agents through a :class:`~..wire.link.Link`.

A route is open from :meth:`Relay.add` to :meth:`Relay.close`, or to its ``expires_at``, which is
noticed when the route is looked up. ``sessions`` has an entry for a lease exactly while an agent
serves it. A request that finds none is among ``held`` until an agent comes.
"""

import asyncio
import os
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final

from ..aio.clock import clock_of
from ..aio.deadlines import Deadlines
from ..http.exchange import Exchange, RequestHandler
from ..traffic.recorder import Recorder
from ..wire.link import Link
from .agent_session import AgentSession
from .auth import same_secret
from .failures import RelayFailure, over, refuse, rotated
from .held_requests import HeldRequests
from .route import Route
from .slow_readers import SlowReaders

if TYPE_CHECKING:  # most runs have no WebSockets, and never need the library
    from ..websocket.tunnelled import TunnelledWebSocket

__all__ = ["OWN_PATH", "Relay"]

OWN_PATH: Final = "/__synth/"
"""A part of the paths that ask whether the tunnel is up now."""


class Relay:
    """Knows every route and every agent's session, and finds them.

    Args:
        loop: for deadlines.
        now: unix seconds, against which leases expire.
        request_timeout_s: how long a caller waits for the beginning of an answer, in seconds,
            after the last piece of its request.
        idle_timeout_s: how long an answer may stand still once it has begun, in seconds. It is
            noticed by the double of it.
        shared_connections: callers' connections carry the requests of many, as those of a
            provider's edge do. No connection to an app is tied to them.
        recorder: records what the relay answers itself; ``None`` to record nothing.

    Attributes:
        sessions: the session of the agent that serves a lease, by lease id.
        held: the requests and WebSockets that wait for an agent.
        slow_readers: the requests whose callers read slowly, from agents that cannot be made to
            wait.
        ends: the callers' WebSockets that have a connection, those that are closing included.
        time: the loop's clock, in seconds.
        deadlines: of requests and WebSockets.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float] = time.time,
        request_timeout_s: float = 30.0,
        idle_timeout_s: float = 300.0,
        shared_connections: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        self.loop = loop
        self.now = now
        self.request_timeout_s = request_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.shared_connections = shared_connections
        self.recorder = recorder
        self.time: Callable[[], float] = clock_of(loop)
        self.deadlines = Deadlines(loop)
        self.sessions: dict[str, AgentSession] = {}
        self.held = HeldRequests()
        self.slow_readers = SlowReaders()
        self.ends: set[TunnelledWebSocket] = set()
        self._by_prefix: dict[str, Route] = {}
        self._by_lease: dict[str, Route] = {}
        self._rid_prefix = os.urandom(4).hex()
        self._rids = count(1)
        self._conns = count(1)

    def refuse(
        self,
        exchange: Exchange,
        rid: str,
        failure: RelayFailure,
        lease_id: str = "",
        path: str = "",
    ) -> RequestHandler:
        """Answer a request with a failure, and record that.

        Args:
            exchange: the request, no answer to which has begun.
            rid: its id, which the answer and the log name.
            failure: what the answer says.
            lease_id: the lease that the request was for; empty if it was for none.
            path: its path below the lease's URL.

        Returns:
            The handler that takes what the caller still sends.
        """
        if self.recorder is not None and not failure.recorded and OWN_PATH not in path:
            head = exchange.head
            self.recorder.refuse(
                lease_id,
                head.method,
                path or head.path,
                head.query,
                head.headers,
                status=failure.status,
                code=failure.code,
                message=failure.message,
            )
        return refuse(exchange, rid, failure)

    # --- the backend's side: which routes there are

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
        session = self.sessions.get(lease_id)
        if session is not None:
            session.detach(route, over(reason), "lease closed")
        for held in self.held.of(lease_id):
            held.fail(over(reason))

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
        session = self.sessions.get(lease_id)
        if session is not None:
            session.detach(route, None, "the agent token was rotated")

    def rotate_worker(self, lease_id: str, worker_token: str) -> None:
        """Let callers in with another token only.

        WebSockets that were opened with the old one are closed, and requests that wait for an
        agent are refused. Requests that the agent has go on: their answers are due to callers who
        asked in time.

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
        for held in self.held.of(lease_id):
            held.fail(rotated())
        session = self.sessions.get(lease_id)
        if session is not None:
            session.fail_websockets(route, rotated())

    def alias_prefix(self, prefix: str, lease_id: str | None) -> None:
        """Bring callers of a further path to a lease, or to none.

        Args:
            prefix: two segments, such as ``/m/r_1``.
            lease_id: a lease whose route was added; ``None`` to forget the path.
        """
        if lease_id is None:
            self._by_prefix.pop(prefix, None)
        else:
            self._by_prefix[prefix] = self._by_lease[lease_id]

    def shut_down(self) -> None:
        """Close every lease, and drop the timer."""
        for lease_id in list(self._by_lease):
            self.close(lease_id, "the relay has ended")
        self.deadlines.close()

    # --- the callers' side

    def by_prefix(self, prefix: str) -> Route | None:
        """Return the route that callers name so; one whose time is over is closed first."""
        return self._current(self._by_prefix.get(prefix))

    def new_rid(self) -> str:
        """Return a name for a request that this relay has not used."""
        return f"{self._rid_prefix}-{next(self._rids)}"

    def new_conn(self) -> str:
        """Return a name for a caller's connection that this relay has not used."""
        return f"{self._rid_prefix}-c{next(self._conns)}"

    # --- the agents' side (a :class:`~.agent_session.RouteLookup`)

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

    def by_lease(self, lease_id: str) -> Route | None:
        """Return a lease's route; one whose time is over is closed first."""
        return self._current(self._by_lease.get(lease_id))

    def session_began(self, route: Route, session: AgentSession) -> None:
        """Lead a route's requests to this session, those that wait for an agent first.

        A session that served the route until now is detached from it.
        """
        previous = self.sessions.get(route.lease_id)
        if previous is not None:
            previous.detach(route, None, "another agent took over")
        self.sessions[route.lease_id] = session
        route.connected = True
        route.last_seen_at = self.now()
        if self.held.count(route.lease_id):
            # Behind the acknowledgement of ATTACH, which is the first message on the link
            # (protocol, section 3).
            self.loop.call_soon(self._release, route.lease_id, session)

    def session_ended(self, route: Route) -> None:
        """Lead a route's requests nowhere until another session begins."""
        del self.sessions[route.lease_id]
        route.connected = False
        route.last_seen_at = self.now()

    # --- inside

    def _release(self, lease_id: str, session: AgentSession) -> None:
        """Give an agent what has waited for it."""
        while self.sessions.get(lease_id) is session and (held := self.held.of(lease_id)):
            held[0].release(session)

    def _current(self, route: Route | None) -> Route | None:
        if route is not None and not route.closed and route.expires_at <= self.now():
            self.close(route.lease_id, "the lease expired")
        return route
