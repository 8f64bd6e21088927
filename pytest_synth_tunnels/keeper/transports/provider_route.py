"""One managed lease's way: from its public URL through a connector to the gateway."""

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from ...connectors.base import ConnectorStatus
from ...sdk.models import GATEWAY_PORT
from ...sdk.requests import Request
from ..backend_client import BackendClient
from ..errors import KeeperRequestError
from ..leases.backend_record import BackendLeaseRecord, CreatedLease
from ..leases.spec import parse_rfc3339
from .connector_pool import ConnectorPool, SharedConnector
from .gateway_pool import ANY_PORT, GatewayPool
from .targets import AgentTargets

if TYPE_CHECKING:
    from ...gateway import Gateway
    from ..ledger.recorder import LedgerRecorder

__all__ = ["ACCOUNTS", "ProviderRoute", "connector_name"]

ACCOUNTS: Final = ("ngrok", "cloudflared")
"""Providers that a Synth backend has an account at: it gives their connectors what they need."""

_LOOPBACK: Final = "loopback"
_SECRET_BYTES: Final = 16


def connector_name(provider: str, *, embedded: bool) -> str:
    """Return which connector carries a provider's leases.

    The embedded backend is its own edge, which a provider's real program cannot reach.
    """
    return _LOOPBACK if embedded and provider in ACCOUNTS else provider


class _MadeManagedLease(CreatedLease, kw_only=True):
    """The answer to ``create_lease`` (protocol, section 1). What a provider has no use for may be
    missing or null."""

    route_prefix: str | None = None
    public_url: str | None = None
    hostname: str | None = None
    gateway_port: Annotated[int, msgspec.Meta(ge=ANY_PORT, le=65_535)] | None = None
    access_client_id: str | None = None
    access_client_secret: str | None = None


class ProviderRoute:
    """A lease at the backend, and what brings its traffic here.

    Args:
        provider: the lease's.
        plane: the backend.
        books: where a hosted lease is written down; ``None`` for the embedded backend.
        gateways: of the run.
        connections: of the run.

    Attributes:
        lease: the lease.
        public_url: where its callers come; empty until :meth:`connect`.
        expires_at: when it ends, RFC 3339; empty until :meth:`create`.
    """

    def __init__(
        self,
        provider: str,
        plane: BackendClient,
        books: "LedgerRecorder | None",
        *,
        gateways: GatewayPool,
        connections: ConnectorPool,
    ) -> None:
        self.lease = BackendLeaseRecord(plane, provider, books)
        self.public_url = ""
        self.expires_at = ""
        self._plane = plane
        self._gateways = gateways
        self._connections = connections
        self._connector = connector_name(provider, embedded=plane.embedded)
        self._request: Request | None = None
        self._made: _MadeManagedLease
        self._answer: dict[str, Any] = {}
        self._secret = ""
        """What the way's path has behind the prefix, unless that is the keeper's own backend's."""
        self._gateway: Gateway | None = None
        self._connection: SharedConnector | None = None

    async def create(self, request: Request) -> None:
        """Ask the backend for the lease.

        Args:
            request: the create, with an idempotency key.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: its answer cannot be used.
        """
        self._request = request
        self._made, self._answer = await self.lease.create(request, _MadeManagedLease)
        self.expires_at = self._made.expires_at
        if not self._plane.embedded:
            # How random another backend's prefix is cannot be seen.
            self._secret = f"/{secrets.token_hex(_SECRET_BYTES)}"

    async def connect(self) -> None:
        """Have the traffic come to the gateway, which lets nobody through before :meth:`carry`.

        Raises:
            KeeperRequestError: what cannot be had, and why.
        """
        port = ANY_PORT
        # One that makes its own URL takes any port; another's edge knows the lease's alone.
        brings_url = self._connections.kind(self._connector).brings_url
        if not (self._plane.embedded or brings_url):
            named = self._made.gateway_port
            port = GATEWAY_PORT if named is None else named
        self._gateway = await self._gateways.find(port)
        previous = self._connection
        self._connection = self._connections.use(self._connector, self._gateway.url, self._answer)
        if previous is not None:
            self._connections.leave(previous)
        self._move(await self._connection.ready())

    @property
    def starts(self) -> int:
        """How often its connector was started."""
        return self._connection.starts if self._connection is not None else 0

    async def restart(self, seen: int) -> None:
        """Restart the connector, unless that was done meanwhile.

        Args:
            seen: its :attr:`starts` when it did not work.

        Raises:
            KeeperRequestError: it is not connected again, and why.
        """
        if self._connection is not None:
            self._move(await self._connection.restart(seen))

    async def renew(self) -> None:
        """Ask again for what the connector needs, which has changed, and connect with that.

        The create is sent again: with the same idempotency key it answers with the same lease, as
        that is now (protocol, section 1).

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: its answer cannot be used, or the connector failed.
        """
        if self._request is None:
            raise RuntimeError("there is no lease yet")
        answer = await self._plane.call(self._request)
        if answer.get("lease_id") != self.lease.lease_id:
            await self.lease.give_back_another(answer)
            raise KeeperRequestError(
                "TUNNEL_INTERNAL", "the backend forgot the lease's idempotency key"
            )
        self._made, self._answer = self.lease.read(answer, _MadeManagedLease), answer
        before, seen = self._connection, self.starts
        await self.connect()
        if self._connection is before:
            await self.restart(seen)

    async def follow(self) -> bool:
        """Take the origin that the connector has now, which a restart may have changed; return
        whether the public URL is another one by that."""
        before = self.public_url
        if self._connection is not None and self._connection.kind.brings_url:
            self._move(await self._connection.ready())
        return self.public_url != before

    def _move(self, origin: str | None) -> None:
        public = urlsplit(self._made.public_url or "")
        if origin is None and public.netloc:
            origin = f"{public.scheme}://{public.netloc}"
        if origin is None and self._made.hostname:
            origin = f"https://{self._made.hostname}"
        if origin is None:
            raise KeeperRequestError(
                "TUNNEL_INTERNAL", "the backend's lease has neither a public_url nor a hostname"
            )
        self.public_url = origin.rstrip("/") + self._prefix

    def extend(self, expires_at: object) -> None:
        """Take it that the lease ends at another moment, if the backend's answer is one."""
        with suppress(ValueError):
            parse_rfc3339(str(expires_at))
            self.expires_at = str(expires_at)

    @property
    def _named_prefix(self) -> str:
        """The backend's."""
        prefix = (self._made.route_prefix or "").strip("/")
        return f"/{prefix}" if prefix else ""

    @property
    def _prefix(self) -> str:
        return self._named_prefix + self._secret

    @property
    def headers(self) -> dict[str, str]:
        """What callers must send along: the service token, where Cloudflare Access guards the
        hostname, in the headers of Cloudflare's own documentation."""
        made = self._made
        if not (made.access_client_id and made.access_client_secret):
            return {}
        return {
            "CF-Access-Client-Id": made.access_client_id,
            "CF-Access-Client-Secret": made.access_client_secret,
        }

    def carry(self, serving: AgentTargets) -> None:
        """Let callers through to an agent."""
        from ...gateway import MAX_INFLIGHT

        if self._gateway is None:
            raise RuntimeError("the way is not connected")
        lease_id = self.lease.lease_id
        self._gateway.remove(lease_id)
        serving.begin(lease_id, self.public_url, max_inflight=MAX_INFLIGHT)
        self._gateway.add(
            lease_id,
            serving.agent,
            public_url=self.public_url,
            prefix=self._prefix,
            ready_prefix=self._named_prefix,
        )

    def shut(self) -> None:
        """Let nobody through any more."""
        if self._gateway is not None:
            self._gateway.remove(self.lease.lease_id)

    def leave(self) -> None:
        """Do without the connector. Harmless when repeated."""
        self.shut()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._connections.leave(connection)

    # --- how it fares

    @property
    def gateway_port(self) -> int:
        """Where the gateway listens; 0 while it does not."""
        return self._gateway.port if self._gateway is not None else 0

    @property
    def is_public(self) -> bool:
        """Whether the internet gets in by it, or did."""
        return self._connections.kind(self._connector).is_public

    def status(self) -> ConnectorStatus:
        """Return how the connector fares. May be called from any thread."""
        connection = self._connection
        if connection is None:
            return ConnectorStatus(connected=False, error="there is no connector")
        return connection.status()

    def describe(self) -> dict[str, Any]:
        """Return the state of connector and gateway."""
        status = self.status()
        connector = {"name": self._connector, "connected": status.connected}
        connector["error"] = status.error or None
        connector["starts"] = self.starts
        return {"connector": connector, "gateway": {"port": self.gateway_port}}

    def missing_link(self) -> str | None:
        """Return which of its links is known to be missing."""
        if not self.gateway_port:
            return "the gateway is not running"
        status = self.status()
        if status.connected or self._connection is None:
            return None
        reason = f": {status.error}" if status.error else ""
        lines = self._connection.quoted_lines()
        return f"the {self._connector} connector has no connection to its edge{reason}{lines}"
