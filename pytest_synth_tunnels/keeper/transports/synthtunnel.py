"""A SynthTunnel lease: an agent in the keeper, attached to the backend's relay."""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

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
from .base import Told
from .targets import AgentTargets

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder

__all__ = ["SynthTunnelTransport"]

_log = logging.getLogger(__name__)

_MAX_INFLIGHT: Final = 1024
"""What is asked for; all workers of a run share it."""
_ATTACH_TIMEOUT_S: Final = 15.0
_DETACH_TIMEOUT_S: Final = 1.0


class _AgentConnect(msgspec.Struct):
    url: str
    agent_token: str


class _Limits(msgspec.Struct):
    max_inflight: int = 128


class _Pace(msgspec.Struct):
    recommended_interval_seconds: float = 25.0


class _MadeSynthLease(CreatedLease, kw_only=True):
    """The answer to ``create_synth_lease`` (protocol, section 1)."""

    public_url: str
    agent_connect: _AgentConnect
    worker_token: str | None = None
    limits: _Limits = msgspec.field(default_factory=_Limits)
    heartbeat: _Pace = msgspec.field(default_factory=_Pace)


class SynthTunnelTransport:
    """See :class:`~.base.LeaseTransport`.

    Args:
        plane: the backend.
        books: where a hosted lease is written down; ``None`` for the embedded backend.
        request: what is asked for.
        agent: a new one.
    """

    provider = SYNTHTUNNEL

    def __init__(
        self, plane: BackendClient, books: "LedgerRecorder | None", request: LeaseSpec, agent: Agent
    ) -> None:
        self.embedded = plane.embedded
        self.serving = AgentTargets(agent)
        self.public_url = ""
        self.worker_token: str | None = None
        self.expires_at = ""
        self.interval_s = 25.0
        self.tell: Told = lambda notice: None
        self._plane = plane
        self._request = request
        self._lease = BackendLeaseRecord(plane, SYNTHTUNNEL, books)
        self._connected = False
        self._reason = ""
        """Why not."""
        self._attachment: Attachment | None = None
        self._answered = asyncio.Event()
        """Set once the relay has taken the agent, or refused it for good."""
        self._refusal: str | None = None

    @property
    def backend_url(self) -> str:
        return self._plane.url

    @property
    def lease_id(self) -> str:
        return self._lease.lease_id

    @property
    def headers(self) -> dict[str, str]:
        return {WORKER_TOKEN_HEADER: self.worker_token} if self.worker_token else {}

    def is_called(self, lease_id: str) -> bool:
        return self.lease_id == lease_id

    async def open(self) -> None:
        request = self._request
        metadata = dict(request.metadata)
        if not request.require_token:
            metadata["require_token"] = False
        made, _ = await self._lease.create(
            requests.create_synth_lease(
                client_instance_id=self._plane.client_id(),
                local_host=HOST,
                local_port=request.port,
                requested_ttl_seconds=max(1, int(request.ttl_s)),
                metadata=metadata,
                capabilities={"max_inflight": _MAX_INFLIGHT},
            ),
            _MadeSynthLease,
        )
        self.public_url = made.public_url.rstrip("/")
        self.expires_at = made.expires_at
        self.interval_s = made.heartbeat.recommended_interval_seconds
        self.worker_token = made.worker_token if request.require_token else None
        await self._attach(made)

    async def _attach(self, made: _MadeSynthLease) -> None:
        self.serving.begin(self.lease_id, self.public_url, max_inflight=made.limits.max_inflight)
        self._attachment = await self._plane.attach(
            self.lease_id,
            self.serving.agent,
            made.agent_connect.url,
            made.agent_connect.agent_token,
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
                f"{self._refusal or self._reason or 'no answer'}",
                "Check that WebSocket connections to the backend's relay are possible from here",
            )

    def _changed(self, connected: bool, reason: str) -> None:
        self._connected, self._reason = connected, reason
        if connected:
            self._answered.set()
        else:
            _log.info("lease %s: its agent is offline: %s", self.lease_id, reason)

    def _was_refused(self, reason: str) -> None:
        if self._answered.is_set():
            self.tell(Notice(NoticeKind.LOST, reason))
        else:
            self._refusal = reason
            self._answered.set()

    def beat(self) -> Beat:
        try:
            answer = self._plane.call_from_thread(requests.get_synth_lease(self.lease_id))
        except TunnelError as error:
            if is_gone(error):
                return Beat(alive=False, reason=error.message)
            raise
        expired = answer.get("status") == "EXPIRED"
        return Beat(
            alive=not expired,
            reason="the backend says that it is over" if expired else self._reason,
            attached=self._connected and answer.get("connected", True) is not False,
        )

    async def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._plane.call(requests.get_synth_lease(self.lease_id))
        return answer

    async def refresh_token(self) -> None:
        answer = await self._plane.call(requests.refresh_synth_worker_token(self.lease_id))
        if self._request.require_token:
            self.worker_token = answer.get("worker_token")

    def missing_link(self) -> str | None:
        return None  # the relay itself answers for the agent, and knows more

    def exposure(self) -> list[str]:
        return []  # callers show a token, or come from this machine

    async def give_back(self) -> None:
        await self._lease.give_back()

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
        await self.serving.close()
