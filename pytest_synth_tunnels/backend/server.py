"""The embedded backend as a whole: control plane, relay and public ingress on one port."""

import asyncio
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

import msgspec

from ..http.connection import HttpLimits
from ..http.errors import error_response
from ..http.exchange import IGNORE, Exchange, RequestHandler
from ..http.headers import Headers
from ..http.refusal_log import log_refusal
from ..http.server import HttpServer
from ..in_process import attach_in_process
from ..relay.agent_session import AgentSession
from ..relay.ingress import Ingress
from ..relay.relay import Relay
from ..relay.route import Limits
from ..sdk.errors import TunnelError, from_status
from ..sdk.requests import Request
from ..traffic.recorder import Recorder
from .binding import Binding
from .common import Clock, RefusedError, make_token
from .control import control
from .edge import PublicEdge
from .origins import Origins, OriginUrls
from .routes import Routes
from .store import Store

if TYPE_CHECKING:
    from ..agent.agent import Agent
    from ..wire.websocket_link import WebSocketLink

__all__ = ["AGENT_PATH", "Backend"]

AGENT_PATH: Final = "/api/v1/synthtunnel/agent"
"""The path that agents dial."""

_ATTACH_TIMEOUT_S: Final = 10.0
"""How long an agent may take to say which leases it serves."""
_SWEEP_S: Final = 5.0
"""The longest time by which the end of a lease may be noticed late, after a jump of the clock."""
_BACKLOG: Final = 1_024
_PUBLIC: Final = ("/s/", "/t/", "/m/")
"""How the paths of SynthTunnel leases, tunnels and managed leases begin."""

Control = Callable[[Exchange, Routes], RequestHandler]
"""Answers the requests of the control plane."""


class _Running(NamedTuple):
    """The parts of a backend that listens."""

    server: asyncio.Server
    http: HttpServer
    relay: Relay
    ingress: Ingress
    origins: Origins
    edge: PublicEdge
    store: Store
    routes: Routes


class Backend:
    """A backend inside this process, which needs no account and no internet.

    Args:
        api_key: the key that clients must show; made unless given.
        request_timeout_s: how long a caller waits for the app, in seconds.
        limits: what a SynthTunnel lease may use.
        now: returns unix seconds, by which leases expire.
        control: answers the requests of the control plane.
        recorder: records what the relay answers itself; ``None`` to record nothing.
        binding: where the origins of leases listen; on loopback unless given. The backend's own
            port is another one (:meth:`start`).
        public_url: the origin by which clients, agents and callers reach the backend through a
            proxy in front of it, which says in ``X-Forwarded-`` headers who they are; ``None``
            where there is none.

    Attributes:
        api_key: the key that clients must show.
        url: where it listens, as an origin; empty until it is started.
        public_url: the origin for clients, agents and callers; the same without a proxy.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        request_timeout_s: float = 120.0,
        limits: Limits | None = None,
        now: Clock = time.time,
        control: Control = control,
        recorder: Recorder | None = None,
        binding: Binding | None = None,
        public_url: str | None = None,
    ) -> None:
        self.api_key = api_key or make_token("sk")
        self.url = ""
        self.public_url = public_url or ""
        self._is_behind_proxy = public_url is not None
        self._request_timeout_s = request_timeout_s
        self._limits = limits or Limits()
        self._now = now
        self._control = control
        self._recorder = recorder
        self._binding = binding
        self._parts: _Running | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._links: set[WebSocketLink] = set()
        """The connections of agents."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen.

        Args:
            host: an address of this machine; one that means all of them makes :attr:`url` name
                the loopback one.
            port: 0 for any free one.

        Raises:
            OSError: it cannot listen there.
        """
        loop = asyncio.get_running_loop()
        limits = self._limits
        http_limits = HttpLimits(
            max_unauthenticated=limits.max_unauthenticated_connections,
            max_head_bytes=limits.max_header_bytes,
            max_headers=limits.max_headers,
            head_timeout_s=limits.header_timeout_s,
            idle_timeout_s=limits.idle_timeout_s,
        )
        relay = Relay(
            loop=loop,
            now=self._now,
            request_timeout_s=self._request_timeout_s,
            recorder=self._recorder,
        )
        ingress = Ingress(relay, self._route, behind_edge=self._is_behind_proxy)
        http = HttpServer(ingress, loop=loop, limits=http_limits)
        # "localhost" may mean two addresses, and with port 0 that would be two ports.
        server = await loop.create_server(
            http,
            "127.0.0.1" if host == "localhost" else host,
            port,
            backlog=_BACKLOG,
            start_serving=False,
        )
        netloc = _netloc(host, server.sockets[0].getsockname()[1])
        self.url = f"http://{netloc}"
        self.public_url = self.public_url or self.url
        edge = PublicEdge(relay, self.public_url)
        store = Store(
            relay=relay,
            edge=edge,
            public_base_url=self.public_url,
            agent_url=self.public_url.replace("http", "ws", 1) + AGENT_PATH,
            limits=limits,
            now=self._now,
        )
        self._parts = _Running(
            server=server,
            http=http,
            relay=relay,
            ingress=ingress,
            origins=Origins(ingress, http, binding=self._binding),
            edge=edge,
            store=store,
            routes=Routes(store, api_key=self.api_key),
        )
        self._sweep(store)
        await server.start_serving()

    async def close(self) -> None:
        """End everything: the port, the leases, and every connection."""
        parts = self._parts
        if parts is None or not parts.server.is_serving():
            return
        parts.server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        parts.edge.close()
        parts.relay.shut_down()
        for link in list(self._links):
            link.close(1001, "the backend is closing")
        parts.origins.close_all()
        parts.http.close()
        # Let the transports write what they have, and close.
        await asyncio.sleep(0)
        for end in (*self._links, *parts.relay.ends):
            end.abort()
        await asyncio.sleep(0)

    @property
    def _running(self) -> _Running:
        """The parts, which are there from the start on."""
        if self._parts is None:
            raise RuntimeError("the backend was not started")
        return self._parts

    def call(self, request: Request) -> Any:
        """Carry out a call in this process, as a client would make it by HTTP.

        Args:
            request: from :mod:`pytest_synth_tunnels.sdk.requests`.

        Returns:
            The answer that the client would get.

        Raises:
            TunnelError: as the client would raise it.
        """
        query = urlencode({name: _text(value) for name, value in request.params.items()})
        body = b"" if request.body is None else msgspec.json.encode(request.body)
        status, _, answer = self._running.routes.handle(
            request.method, request.path, query, f"Bearer {self.api_key}", body
        )
        payload = msgspec.json.decode(answer)
        if status >= 400:
            raise from_status(status, payload, where=f"{request} of the embedded backend")
        return payload

    def agent_token(self, lease_id: str) -> str | None:
        """Return the token that lets an agent of this process serve a lease; ``None`` if the lease
        is over or unknown."""
        route = self._running.relay.by_lease(lease_id)
        return None if route is None or route.closed else route.agent_token

    def attach(
        self,
        lease_id: str,
        agent: "Agent",
        agent_token: str,
        *,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Let an agent of this process serve a lease, over a link in memory.

        Args:
            lease_id: the lease, which the agent serves already.
            agent: it has no other link.
            agent_token: ``agent_connect.agent_token`` of the lease.
            on_lost: called with the reason when the relay lets the agent go, while that happens.

        Raises:
            TunnelError: the lease is over, unknown, or another token's.
        """
        if lease_id not in attach_in_process(
            self._running.relay, agent, agent_token, on_lost=on_lost
        ):
            raise TunnelError(f"the relay does not let this agent serve lease {lease_id}")

    async def open_origin(
        self,
        lease_id: str,
        address: str = "",
        *,
        permanent: bool = True,
        port: int | None = None,
    ) -> OriginUrls:
        """Open an origin of a SynthTunnel lease's own: a port at whose root the lease, or one
        address of it, answers.

        Args:
            lease_id: the lease.
            address: the address that the lease's agent has for the app; empty for the lease itself.
            permanent: keep it while the lease lives, whatever else needs room.
            port: the port that it is to have; ``None`` for any free one.

        Returns:
            Its URLs. Where it is open already, they are the same.

        Raises:
            TunnelError: the lease is over or unknown, there is no room for another origin, or it
                cannot listen.
        """
        running = self._running
        route = running.relay.by_lease(lease_id)
        try:
            if route is None or route.closed:
                raise RefusedError(410, "lease_expired", f"lease_expired: {lease_id} is over")
            return await running.origins.open(route, address, permanent=permanent, port=port)
        except RefusedError as error:
            raise from_status(
                error.status,
                {"code": error.code, "detail": error.message},
                where=f"an origin of lease {lease_id}",
            ) from None

    def end_origin(self, lease_id: str, address: str, reason: str) -> None:
        """Answer 410 at an origin that :meth:`open_origin` opened. Harmless if there is none.

        Args:
            lease_id: the lease.
            address: as in :meth:`open_origin`.
            reason: for callers, as the end of a sentence.
        """
        self._running.origins.end(lease_id, address, reason)

    def _route(self, exchange: Exchange) -> RequestHandler:
        """Return the handler of a request that names no lease's route."""
        running = self._running
        path = exchange.head.path
        if path[:3] in _PUBLIC:
            return running.ingress.refuse_unknown(exchange)
        if path == AGENT_PATH:
            self._accept_agent(exchange)
            return IGNORE
        if self._recorder is not None and not running.routes.has(path):
            # Most likely it was meant for a tunnel, and lost the tunnel's part of the path.
            head = exchange.head
            self._recorder.refuse(
                "",
                head.method,
                path,
                head.query,
                head.headers,
                status=404,
                code="not_found",
                message="the URL names no tunnel: has it lost the beginning of its path?",
            )
        return self._control(exchange, running.routes)

    def _accept_agent(self, exchange: Exchange) -> None:
        """Turn an agent's request into a link, if it shows a token of a live lease."""
        # The agents of a keeper are in memory, so most runs never need the WebSocket library.
        from ..wire.handshake import HandshakeError, accept
        from ..wire.websocket_link import WebSocketLink

        relay = self._running.relay
        head = exchange.head
        scheme, _, token = (head.get("authorization") or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not relay.admits(token):
            _refuse_agent(exchange, 401, "unauthorized", "this agent token serves no live lease")
            return
        try:
            answer = accept(head.headers)
        except HandshakeError as error:
            _refuse_agent(exchange, error.status, "bad_request", str(error), error.headers)
            return
        transport, received = exchange.upgrade()
        transport.write(answer)
        link = WebSocketLink()
        session = link.handler = relay.session(link, token)
        self._links.add(link)
        link.closed.add_done_callback(lambda _: self._links.discard(link))
        link.adopt(transport, received)
        loop = asyncio.get_running_loop()
        loop.call_later(_ATTACH_TIMEOUT_S, _expect_attached, link, session)

    def _sweep(self, store: Store) -> None:
        """End the leases whose time is over, now and later."""
        ends = [store.synth.expire(), store.leases.expire()]
        ends_at = min((end for end in ends if end is not None), default=inf)
        wait_s = min(max(ends_at - self._now(), 0.05), _SWEEP_S)
        self._sweeper = asyncio.get_running_loop().call_later(wait_s, self._sweep, store)


def _refuse_agent(
    exchange: Exchange, status: int, code: str, message: str, headers: Headers | None = None
) -> None:
    """Answer an agent whose link is refused."""
    log_refusal(status, code, "an agent", exchange.head.peer_host)
    exchange.respond(*error_response(status, code, message, headers=headers))


def _expect_attached(link: "WebSocketLink", session: AgentSession) -> None:
    """Close the link of an agent that has not said which leases it serves."""
    if not session.attached and not link.gone.done():
        log_refusal(1002, "NO_ATTACH", "an agent")
        link.close(1002, "no ATTACH")


def _netloc(host: str, port: int) -> str:
    """Return the host and port by which this machine reaches a server that listens on
    ``host``."""
    if host in ("", "0.0.0.0", "localhost"):
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value
