"""A lease's agent in the keeper: its targets, and its connection to the relay."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ..relay.agent import Agent
from ..relay.target import Target
from .failures import FailureError
from .leases import MadeLease
from .plane import Attachment, Plane

__all__ = ["Serving"]

_log = logging.getLogger(__name__)

_ATTACH_TIMEOUT_S: Final = 15.0
_CLOSE_TIMEOUT_S: Final = 1.0


class Serving:
    """Serves one lease.

    Args:
        plane: whose relay the agent attaches to.
        agent: a new one, which serves this lease alone.
        refused: told why the relay will not take the agent back, once it had taken it.

    Attributes:
        connected: whether the agent is connected to the relay.
        reason: why not.
    """

    def __init__(self, plane: Plane, agent: Agent, refused: Callable[[str], None]) -> None:
        self.connected = False
        self.reason = ""
        self._plane = plane
        self._agent = agent
        self._refused = refused
        self._targets: dict[str, Target] = {}
        """By address."""
        self._lease_id = ""
        """Set while the agent serves the lease."""
        self._attachment: Attachment | None = None
        self._answered = asyncio.Event()
        """Set once the relay has taken the agent, or refused it for good."""
        self._refusal: str | None = None

    async def attach(self, lease_id: str, public_url: str, made: MadeLease) -> None:
        """Attach the agent to the relay, and keep it attached.

        Args:
            lease_id: the lease.
            public_url: where its callers come.
            made: what else the backend said of it.

        Raises:
            FailureError: the relay did not take it in time, or not at all.
        """
        self._agent.serve(lease_id, public_url, max_inflight=made.limits.max_inflight)
        self._lease_id = lease_id
        for address, target in self._targets.items():
            self._agent.set_target(lease_id, address, target)
        self._attachment = await self._plane.attach(
            lease_id,
            self._agent,
            made.agent_connect.url,
            made.agent_connect.agent_token,
            on_change=self._changed,
            on_refused=self._was_refused,
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_ATTACH_TIMEOUT_S):
                await self._answered.wait()
        if self._refusal is not None or not self._answered.is_set():
            raise FailureError(
                "TUNNEL_AGENT_OFFLINE",
                f"the relay of lease {lease_id} did not take its agent: "
                f"{self._refusal or self.reason or 'no answer'}",
                "Check that WebSocket connections to the backend's relay are possible from here",
            )

    def _changed(self, connected: bool, reason: str) -> None:
        self.connected, self.reason = connected, reason
        if connected:
            self._answered.set()
        else:
            _log.info("lease %s: its agent is offline: %s", self._lease_id, reason)

    def _was_refused(self, reason: str) -> None:
        if self._answered.is_set():
            self._refused(reason)
        else:
            self._refusal = reason
            self._answered.set()

    def set_target(self, address: str, target: Target) -> None:
        """Lead an address to a target, now or as soon as the lease is there."""
        self._targets[address] = target
        if self._lease_id:
            self._agent.set_target(self._lease_id, address, target)

    def remove_target(self, address: str) -> None:
        """Lead an address nowhere any more."""
        if self._targets.pop(address, None) is not None and self._lease_id:
            self._agent.remove_target(self._lease_id, address)

    def target(self, address: str) -> Target:
        """Return where an address leads.

        Raises:
            FailureError: nowhere.
        """
        if address not in self._targets:
            raise FailureError("UNKNOWN_ADDRESS", f"the lease has no target for {address!r}")
        return self._targets[address]

    async def close(self) -> None:
        """Detach the agent, within a second."""
        self._lease_id = ""
        attachment, self._attachment = self._attachment, None
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                if attachment is not None:
                    await attachment.close()
                await self._agent.close()
