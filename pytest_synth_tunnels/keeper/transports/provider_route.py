"""The route of one managed lease: from its public URL through a connector to the gateway."""

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


class _CreatedManagedLease(CreatedLease, kw_only=True):
    """The answer to ``create_lease`` (protocol, section 1). What a provider has no use for may be
    missing or null."""

    route_prefix: str | None = None
    public_url: str | None = None
    hostname: str | None = None
    gateway_port: Annotated[int, msgspec.Meta(ge=ANY_PORT, le=65_535)] | None = None
    access_client_id: str | None = None
    access_client_secret: str | None = None


class ProviderRoute:
    """A lease at the backend, and the connector and the gateway that bring its traffic here.

    Its methods are called in this order: :meth:`create`, :meth:`connect`, :meth:`accept_callers`;
    then any of the others, and :meth:`disconnect` last.

    Args:
        provider: the lease's.
        backend_client: the backend.
        ledger_recorder: where a hosted lease is written down; ``None`` for the embedded backend.
        gateway_pool: of the run.
        connector_pool: of the run.
        at_root: the lease has a gateway and a connector of its own, and its public URL is the
            connector's origin, without a path.

    Attributes:
        lease: the lease.
        public_url: where its callers come; empty until :meth:`connect`.
        expires_at: when it ends, RFC 3339; empty until :meth:`create`.
    """

    def __init__(
        self,
        provider: str,
        backend_client: BackendClient,
        ledger_recorder: "LedgerRecorder | None",
        *,
        gateway_pool: GatewayPool,
        connector_pool: ConnectorPool,
        at_root: bool = False,
    ) -> None:
        self._at_root = at_root
        self.lease = BackendLeaseRecord(backend_client, provider, ledger_recorder)
        self.public_url = ""
        self.expires_at = ""
        self._backend_client = backend_client
        self._gateway_pool = gateway_pool
        self._connector_pool = connector_pool
        self._connector_name = connector_name(provider, embedded=backend_client.embedded)
        self._request: Request | None = None
        """The create, once it was sent."""
        self._created: _CreatedManagedLease | None = None
        """What is needed of the backend's last answer to it."""
        self._answer: dict[str, Any] = {}
        """The whole of that answer, for the connector."""
        self._secret = ""
        """The end of the route's path, which a hosted backend does not know; empty for the
        keeper's own backend, whose prefix is a secret itself."""
        self._gateway: Gateway | None = None
        self._connector: SharedConnector | None = None

    async def create(self, request: Request) -> None:
        """Ask the backend for the lease.

        Args:
            request: the create, with an idempotency key.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: its answer cannot be used.
        """
        self._request = request
        self._created, self._answer = await self.lease.create(request, _CreatedManagedLease)
        self.expires_at = self._created.expires_at
        if not self._backend_client.embedded:
            # How random another backend's prefix is cannot be seen.
            self._secret = f"/{secrets.token_hex(_SECRET_BYTES)}"

    @property
    def _lease_facts(self) -> _CreatedManagedLease:
        if self._created is None:
            raise RuntimeError("the route's lease is not created yet")
        return self._created

    async def connect(self) -> None:
        """Have the traffic come to the gateway, which refuses all callers before
        :meth:`accept_callers`.

        Raises:
            KeeperRequestError: the connector or the gateway's port cannot be had, and why.
        """
        port = ANY_PORT
        # A connector that makes its own URL takes any port; a foreign edge knows the lease's alone.
        brings_url = self._connector_pool.kind(self._connector_name).brings_url
        if not (self._backend_client.embedded or brings_url):
            named = self._lease_facts.gateway_port
            port = GATEWAY_PORT if named is None else named
        if not self._at_root:
            self._gateway = await self._gateway_pool.find(port)
        elif self._gateway is None:
            self._gateway = await self._gateway_pool.open_own()
        previous = self._connector
        self._connector = self._connector_pool.use(
            self._connector_name, self._gateway.url, self._answer
        )
        if previous is not None:
            self._connector_pool.leave(previous)
        self._set_origin(await self._connector.ready())

    @property
    def starts(self) -> int:
        """How often its connector was started."""
        return self._connector.starts if self._connector is not None else 0

    async def restart(self, seen: int) -> None:
        """Restart the connector, unless that was done meanwhile.

        Args:
            seen: its :attr:`starts` when it did not work.

        Raises:
            KeeperRequestError: it is not connected again, and why.
        """
        if self._connector is not None:
            self._set_origin(await self._connector.restart(seen))

    async def renew(self) -> None:
        """Ask again for what the connector needs, which has changed, and connect with that.

        The create is sent again: with the same idempotency key it answers with the same lease, as
        that is now (protocol, section 1).

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: its answer cannot be used, or the connector failed.
        """
        if self._request is None:
            raise RuntimeError("the route's lease is not created yet")
        answer = await self._backend_client.call(self._request)
        if answer.get("lease_id") != self.lease.lease_id:
            await self.lease.release_another(answer)
            raise KeeperRequestError(
                "TUNNEL_INTERNAL", "the backend forgot the lease's idempotency key"
            )
        self._created, self._answer = self.lease.read(answer, _CreatedManagedLease), answer
        before, seen = self._connector, self.starts
        await self.connect()
        if self._connector is before:
            await self.restart(seen)

    async def follow(self) -> bool:
        """Take the origin that the connector has now, which its restart may have changed.

        Returns:
            Whether the public URL has changed by that.
        """
        before = self.public_url
        if self._connector is not None and self._connector.kind.brings_url:
            self._set_origin(await self._connector.ready())
        return self.public_url != before

    def _set_origin(self, origin: str | None) -> None:
        """Set the public URL.

        Args:
            origin: the connector's; ``None`` for the one that the backend's answer has.
        """
        created = self._lease_facts
        public = urlsplit(created.public_url or "")
        if origin is None and public.netloc:
            origin = f"{public.scheme}://{public.netloc}"
        if origin is None and created.hostname:
            origin = f"https://{created.hostname}"
        if origin is None:
            raise KeeperRequestError(
                "TUNNEL_INTERNAL", "the backend's lease has neither a public_url nor a hostname"
            )
        self.public_url = origin.rstrip("/") + self._prefix

    def extend(self, expires_at: object) -> None:
        """Note that the lease ends at another moment, if the backend's answer is one."""
        with suppress(ValueError):
            parse_rfc3339(str(expires_at))
            self.expires_at = str(expires_at)

    @property
    def _named_prefix(self) -> str:
        """The path prefix that the backend gave, without the secret."""
        prefix = (self._lease_facts.route_prefix or "").strip("/")
        return f"/{prefix}" if prefix and not self._at_root else ""

    @property
    def _prefix(self) -> str:
        return self._named_prefix + self._secret

    @property
    def headers(self) -> dict[str, str]:
        """What callers must send along: the service token, where Cloudflare Access guards the
        hostname, in the headers of Cloudflare's own documentation."""
        created = self._created
        if created is None or not (created.access_client_id and created.access_client_secret):
            return {}
        return {
            "CF-Access-Client-Id": created.access_client_id,
            "CF-Access-Client-Secret": created.access_client_secret,
        }

    def accept_callers(self, targets: AgentTargets) -> None:
        """Let the gateway give callers to an agent."""
        from ...gateway import MAX_INFLIGHT

        if self._gateway is None:
            raise RuntimeError("the route is not connected")
        lease_id = self.lease.lease_id
        self._gateway.remove(lease_id)
        targets.begin(lease_id, self.public_url, max_inflight=MAX_INFLIGHT)
        self._gateway.add(
            lease_id,
            targets.agent,
            public_url=self.public_url,
            prefix=self._prefix,
            ready_prefix=self._named_prefix,
        )

    def refuse_callers(self) -> None:
        """Let no caller through until :meth:`accept_callers`."""
        if self._gateway is not None:
            self._gateway.remove(self.lease.lease_id)

    def disconnect(self) -> None:
        """Refuse callers, and let the connector go. Harmless when repeated."""
        self.refuse_callers()
        connector, self._connector = self._connector, None
        if connector is not None:
            self._connector_pool.leave(connector, keep=not self._at_root)
        if self._at_root and self._gateway is not None:
            self._gateway_pool.close_own(self._gateway)
            self._gateway = None

    # --- its state, for people and heartbeats

    @property
    def gateway_port(self) -> int:
        """Where the gateway listens; 0 while it does not."""
        return self._gateway.port if self._gateway is not None else 0

    @property
    def is_public(self) -> bool:
        """Whether the route is open to the internet, or was."""
        return self._connector_pool.kind(self._connector_name).is_public

    def status(self) -> ConnectorStatus:
        """Return the state of the connector. May be called from any thread."""
        connector = self._connector
        if connector is None:
            return ConnectorStatus(connected=False, error="there is no connector")
        return connector.status()

    def describe(self) -> dict[str, Any]:
        """Return the state of the connector and the gateway, for ``Lease.status()``."""
        status = self.status()
        return {
            "connector": {
                "name": self._connector_name,
                "connected": status.connected,
                "error": status.error or None,
                "starts": self.starts,
            },
            "gateway": {"port": self.gateway_port},
        }

    def missing_link(self) -> str | None:
        """Return which link of the route is known to be missing."""
        if not self.gateway_port:
            return "the gateway is not running"
        status = self.status()
        if status.connected or self._connector is None:
            return None
        reason = f": {status.error}" if status.error else ""
        lines = self._connector.quoted_lines()
        return f"the {self._connector_name} connector has no connection to its edge{reason}{lines}"
