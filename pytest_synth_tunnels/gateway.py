"""The gateway: one loopback port that connectors bring the traffic of managed leases to.

Each lease has a path of its own there, its route prefix, and everything else is 404, for where the
internet comes in by a provider's edge, that prefix is the only secret (protocol, section 4). The
traffic goes the way that SynthTunnel's goes: through a relay, over a link in memory, to the
lease's agent, so that it has the same streaming, WebSockets, limits and addresses.
"""

import asyncio
from typing import Final

from .agent.agent import Agent
from .agent.served_leases import READY_PATH
from .http.errors import error_response
from .http.exchange import IGNORE, Exchange, RequestHandler
from .http.refusal_log import log_refusal
from .http.server import HttpServer
from .in_process import attach_in_process
from .relay.ingress import Ingress
from .relay.relay import Relay
from .relay.route import Limits, Route
from .traffic.recorder import Recorder

__all__ = ["HOST", "MAX_INFLIGHT", "Gateway"]

HOST: Final = "127.0.0.1"
_HEALTH_PATH: Final = "/__synth/gateway/health"
_HEALTH: Final = b'{"status":"ok","gateway":"running"}'
MAX_INFLIGHT: Final = 1024
"""For each lease; all workers of a run share it."""
_BACKLOG: Final = 1_024
_AGENT_TOKEN: Final = "in this process"  # noqa: S105 - nobody else can attach
_JSON: Final = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


class Gateway:
    """A loopback HTTP server that knows leases by the beginnings of paths.

    Args:
        request_timeout_s: how long a caller waits for the app, in seconds.
        recorder: records what the gateway answers itself; ``None`` to record nothing.

    Attributes:
        port: where it listens; 0 while it does not.
    """

    def __init__(self, *, request_timeout_s: float, recorder: Recorder | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.port = 0
        self._recorder = recorder
        self._relay = Relay(
            loop=loop,
            request_timeout_s=request_timeout_s,
            shared_connections=True,
            recorder=recorder,
        )
        self._ingress = Ingress(self._relay, behind_edge=True)
        self._http = HttpServer(self._route, loop=loop)
        self._listening: asyncio.Server | None = None
        self._routes: dict[str, Route] = {}
        """The leases' routes, by prefix."""
        self._lengths: list[int] = []
        """The lengths of the prefixes, longest first."""
        self._ready_paths: dict[str, Route] = {}
        """Where the backend asks whether a lease is ready."""

    @property
    def url(self) -> str:
        """The gateway's origin."""
        return f"http://{HOST}:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listen.

        Args:
            port: 0 for any free one.

        Raises:
            OSError: somebody else has the port. It is left to them.
        """
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._http, HOST, port, backlog=_BACKLOG)
        self.port = self._listening.sockets[0].getsockname()[1]

    def add(
        self,
        lease_id: str,
        agent: Agent,
        *,
        public_url: str,
        prefix: str,
        ready_prefix: str | None = None,
    ) -> None:
        """Bring what comes under a prefix to an agent.

        Args:
            lease_id: the lease.
            agent: it serves the lease already, and no other.
            public_url: where callers reach the lease.
            prefix: the beginning of the paths that they ask for, such as ``/m/r_1``.
            ready_prefix: where the backend asks for :data:`.agent.served_leases.READY_PATH`, if
                elsewhere.
        """
        self.remove(lease_id)
        route = Route(
            lease_id=lease_id,
            route_token="",
            agent_token=_AGENT_TOKEN,
            public_base_url=public_url.removesuffix(prefix),
            limits=Limits(max_inflight=MAX_INFLIGHT),
            require_token=False,
            prefix=prefix,
        )
        self._relay.add(route)
        self._routes[prefix] = route
        self._note_lengths()
        asked_at = prefix if ready_prefix is None else ready_prefix
        self._ready_paths[asked_at + READY_PATH] = route
        attach_in_process(self._relay, agent, _AGENT_TOKEN)

    def remove(self, lease_id: str) -> None:
        """Forget a lease: its requests in flight end, and its paths are 404.

        Nothing happens where the lease is unknown.
        """
        self._relay.remove(lease_id)
        for table in (self._routes, self._ready_paths):
            for key in [key for key, route in table.items() if route.lease_id == lease_id]:
                del table[key]
        self._note_lengths()

    def _note_lengths(self) -> None:
        self._lengths = sorted({len(prefix) for prefix in self._routes}, reverse=True)

    async def close(self) -> None:
        """End everything: the port, and every connection."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        self.port = 0
        listening.close()
        self._relay.shut_down()
        self._http.close()
        # Let the transports write what they have, and close.
        await asyncio.sleep(0)
        for end in list(self._relay.ends):
            end.abort()
        await asyncio.sleep(0)

    def _route(self, exchange: Exchange) -> RequestHandler:
        """Say who takes a request."""
        path = exchange.head.path
        if path == _HEALTH_PATH:
            exchange.respond(200, _JSON, _HEALTH)
            return IGNORE
        if (route := self._ready_paths.get(path)) is not None:
            return self._ingress.forward(exchange, route, READY_PATH)
        # A prefix may have any number of segments; looked up whole, its time tells nothing. There
        # are few lengths, while a stranger's path may have a slash at each of 60,000 places.
        for end in self._lengths:
            if path[end : end + 1] in ("", "/") and (route := self._routes.get(path[:end])):
                return self._ingress.forward(exchange, route, path[end:] or "/")
        log_refusal(404, "route_not_found", peer=exchange.head.peer_host)
        # This port may be open to strangers, who learn of no prefix.
        message = (
            "no lease has this path. If a link, a form or a script of an app led here, it has lost "
            "the path of its lease's public URL: have the app put X-Forwarded-Prefix in front"
        )
        if self._recorder is not None:
            head = exchange.head
            self._recorder.refuse(
                "",
                head.method,
                path,
                head.query,
                head.headers,
                status=404,
                code="route_not_found",
                message=message,
            )
        exchange.respond(*error_response(404, "route_not_found", message))
        return IGNORE
