"""A SynthTunnel lease: an agent in the keeper, attached to the backend's relay."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from ...agent.agent import Agent
from ...sdk import requests
from ...sdk.errors import TunnelError
from ...wire.frames import WORKER_TOKEN_HEADER
from ..backend_client import Attachment, BackendClient
from ..errors import KeeperRequestError
from ..leases.backend_record import BackendLeaseRecord, CreatedLease
from ..leases.heartbeat import Beat, Notice, NoticeKind
from ..leases.spec import SYNTHTUNNEL, LeaseSpec, is_gone
from ..ports import HOST
from .targets import AgentTargets

if TYPE_CHECKING:
    import ssl

    from ...backend.origins import OriginUrls
    from ..ledger.recorder import LedgerRecorder

__all__ = ["SynthTunnelTransport"]

_log = logging.getLogger(__name__)

_MAX_INFLIGHT: Final = 1024
"""Requests in flight that are asked for; all workers of a run share them."""
_ATTACH_TIMEOUT_S: Final = 15.0
_DETACH_TIMEOUT_S: Final = 1.0


class _AgentConnect(msgspec.Struct):
    url: str
    agent_token: str


class _Limits(msgspec.Struct):
    max_inflight: int = 128


class _HeartbeatAdvice(msgspec.Struct):
    recommended_interval_seconds: float = 25.0


class _CreatedSynthLease(CreatedLease, kw_only=True):
    """The answer to ``create_synth_lease`` (protocol, section 1)."""

    public_url: str
    agent_connect: _AgentConnect
    worker_token: str | None = None
    limits: _Limits = msgspec.field(default_factory=_Limits)
    heartbeat: _HeartbeatAdvice = msgspec.field(default_factory=_HeartbeatAdvice)


class SynthTunnelTransport:
    """See :class:`~.base.LeaseTransport`.

    Args:
        backend_client: the backend.
        ledger_recorder: where a hosted lease is written down; ``None`` for the embedded backend.
        spec: what is asked for.
        agent: a new one.
        now: seconds, from any moment on.
    """

    provider = SYNTHTUNNEL

    def __init__(
        self,
        backend_client: BackendClient,
        ledger_recorder: "LedgerRecorder | None",
        spec: LeaseSpec,
        agent: Agent,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self.embedded = backend_client.embedded
        self.targets = AgentTargets(agent)
        self.public_url = ""
        self._path_url = ""
        """Where the lease's path at the backend is."""
        self._origins: dict[str, OriginUrls] = {}
        """The origins of open addresses, where those have some."""
        self._exposed: dict[str, float] = {}
        """The addresses and ports on which callers from elsewhere reach the lease, and since when
        each has been open."""
        self.worker_token: str | None = None
        self.expires_at = ""
        self.interval_s = 25.0
        self._backend_client = backend_client
        self._spec = spec
        self._lease = BackendLeaseRecord(backend_client, SYNTHTUNNEL, ledger_recorder)
        self._connected = False
        self._offline_reason = ""
        """Why the agent is not connected."""
        self._on_notice: Callable[[Notice], None] = lambda _: None
        self._attachment: Attachment | None = None
        self._answered = asyncio.Event()
        """Set once the relay has taken the agent, or refused it for good."""
        self._refusal: str | None = None

    @property
    def backend_url(self) -> str:
        return self._backend_client.url

    @property
    def lease_id(self) -> str:
        return self._lease.lease_id

    @property
    def headers(self) -> dict[str, str]:
        return {WORKER_TOKEN_HEADER: self.worker_token} if self.worker_token else {}

    def has_id(self, lease_id: str) -> bool:
        return self.lease_id == lease_id

    async def open(self, on_notice: Callable[[Notice], None]) -> None:
        self._on_notice = on_notice
        spec = self._spec
        metadata = dict(spec.metadata)
        if not spec.require_token:
            metadata["require_token"] = False
        created, _ = await self._lease.create(
            requests.create_synth_lease(
                client_instance_id=self._backend_client.client_id(),
                local_host=HOST,
                local_port=spec.port,
                requested_ttl_seconds=max(1, int(spec.ttl_s)),
                metadata=metadata,
                capabilities={"max_inflight": _MAX_INFLIGHT},
            ),
            _CreatedSynthLease,
        )
        self._path_url = created.public_url.rstrip("/")
        self.expires_at = created.expires_at
        self.interval_s = created.heartbeat.recommended_interval_seconds
        self.worker_token = created.worker_token if spec.require_token else None
        self.public_url = await self.open_address("", permanent=True)
        await self._attach(created)

    async def open_address(self, address: str, *, permanent: bool) -> str:
        if self._spec.url_style == "root" and address not in self._origins:
            origin = await self._backend_client.open_origin(
                self.lease_id,
                address,
                permanent=permanent,
                port=self._spec.public_port if address == "" else None,
            )
            self._origins[address] = origin
            if origin.listens_on:
                self._exposed[origin.listens_on] = self._now()
            self.targets.set_origin(address, origin.public_url, origin.loopback_url)
        return self.url(address)

    def end_address(self, address: str, reason: str) -> None:
        if self._origins.pop(address, None) is not None:
            self.targets.set_origin(address, "")
            self._backend_client.end_origin(self.lease_id, address, reason)

    def url(self, address: str) -> str:
        if self._spec.url_style == "root":
            return self._origins[address].public_url
        return f"{self._path_url}/~{address}" if address else self._path_url

    def loopback_url(self, address: str) -> str:
        if self._spec.url_style == "root":
            return self._origins[address].loopback_url
        return self.url(address) if self.embedded else ""

    @property
    def ca_file(self) -> str:
        return self._backend_client.ca_file

    @property
    def ssl_context(self) -> "ssl.SSLContext | None":
        return self._backend_client.ssl_context

    @property
    def url_secret(self) -> str:
        if self._spec.url_style == "root":
            return self._origins[""].secret_path if "" in self._origins else ""
        return urlsplit(self._path_url).path if self.worker_token is None else ""

    async def _attach(self, created: _CreatedSynthLease) -> None:
        self.targets.begin(self.lease_id, self._path_url, max_inflight=created.limits.max_inflight)
        self._attachment = await self._backend_client.attach(
            self.lease_id,
            self.targets.agent,
            created.agent_connect.url,
            created.agent_connect.agent_token,
            on_change=self._changed,
            on_refused=self._was_refused,
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_ATTACH_TIMEOUT_S):
                await self._answered.wait()
        if self._refusal is not None or not self._answered.is_set():
            raise KeeperRequestError(
                "TUNNEL_AGENT_OFFLINE",
                f"the relay of lease {self.lease_id} did not take its agent: "
                f"{self._refusal or self._offline_reason or 'no answer'}",
                "Check that WebSocket connections to the backend's relay are possible from here",
            )

    def _changed(self, connected: bool, reason: str) -> None:
        self._connected, self._offline_reason = connected, reason
        if connected:
            self._answered.set()
        else:
            _log.info("lease %s: its agent is offline: %s", self.lease_id, reason)

    def _was_refused(self, reason: str) -> None:
        if self._answered.is_set():
            self._on_notice(Notice(NoticeKind.LOST, reason))
        else:
            self._refusal = reason
            self._answered.set()

    def beat(self) -> Beat:
        try:
            answer = self._backend_client.call_from_thread(requests.get_synth_lease(self.lease_id))
        except TunnelError as error:
            if is_gone(error):
                return Beat(alive=False, reason=error.message)
            raise
        expired = answer.get("status") == "EXPIRED"
        return Beat(
            alive=not expired,
            reason="the backend says that it is over" if expired else self._offline_reason,
            attached=self._connected and answer.get("connected", True) is not False,
        )

    async def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._backend_client.call(
            requests.get_synth_lease(self.lease_id)
        )
        return answer

    async def refresh_token(self) -> None:
        answer = await self._backend_client.call(requests.refresh_synth_worker_token(self.lease_id))
        if self._spec.require_token:
            self.worker_token = answer.get("worker_token")

    def missing_link(self) -> str | None:
        return None  # the relay knows whether the agent is attached, and its answer says so

    def exposure(self) -> list[str]:
        if not self._exposed:
            return []  # callers come from this machine, or show the hosted relay a token
        where, since_s = next(iter(self._exposed.items()))
        others = len(self._exposed) - 1
        more = f" (and {others} more there)" if others else ""
        key = "the worker token" if self._spec.require_token else "the path of its URL"
        open_s = self._now() - since_s
        line = f"{where}{more} was open beyond this machine for {open_s:.0f} s"
        return [f"{line}, to callers with {key}"]

    async def release(self) -> None:
        await self._lease.release()

    @property
    def released(self) -> bool:
        return self._lease.released

    @property
    def release_error(self) -> str:
        return self._lease.release_error

    async def close(self) -> None:
        attachment, self._attachment = self._attachment, None
        with suppress(TimeoutError):
            async with asyncio.timeout(_DETACH_TIMEOUT_S):
                if attachment is not None:
                    await attachment.close()
        await self.targets.close()
