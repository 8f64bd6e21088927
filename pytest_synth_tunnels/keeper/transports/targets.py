"""A lease's agent in the keeper, and the targets that it serves."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ...agent.agent import Agent
from ...agent.target import Target
from ..errors import KeeperRequestError
from ..ports import accepts_blocking

__all__ = ["AgentTargets"]

_CLOSE_TIMEOUT_S: Final = 1.0
_PROBED: Final = 8
_PROBE_TIMEOUT_S: Final = 0.5


class AgentTargets:
    """Serves one lease at a time.

    Args:
        agent: a new one, which serves nothing else.
        now: seconds, from any moment on.

    Attributes:
        agent: the agent.
    """

    def __init__(self, agent: Agent, now: Callable[[], float] = time.monotonic) -> None:
        self.agent = agent
        self._now = now
        self._since: dict[Target, float] = {}
        """Since when each target that is served now has been."""
        self._served_s: dict[Target, float] = {}
        """For how many seconds other targets were served."""
        self._targets: dict[str, Target] = {}
        """By address."""
        self._private: set[str] = set()
        """The addresses of single tests."""
        self._origins: dict[str, tuple[str, str]] = {}
        """The origins of the addresses that have one, as all callers and as those on this machine
        name them."""
        self._lease_id = ""
        """Set while the agent serves the lease."""
        self.first_lease_id = ""
        """The id of the lease before it was made anew for the first time, by which its traffic is
        found."""

    def begin(self, lease_id: str, public_url: str, *, max_inflight: int) -> None:
        """Serve a lease from now on, instead of the one before it.

        Args:
            lease_id: the lease.
            public_url: where its callers come.
            max_inflight: how many requests may be in flight at the same time.
        """
        if self._lease_id not in ("", lease_id):
            self.agent.drop(self._lease_id)
        recorder = self.agent.uplink.recorder
        if not self.first_lease_id:
            self.first_lease_id = lease_id
        elif recorder is not None:
            recorder.log.rename(lease_id, self.first_lease_id)
        self.agent.leases.serve(lease_id, public_url, max_inflight=max_inflight)
        self._lease_id = lease_id
        for address, target in self._targets.items():
            self._apply(address, target)

    def _apply(self, address: str, target: Target) -> None:
        origin, loopback_origin = self._origins.get(address, ("", ""))
        self.agent.leases.set_target(
            self._lease_id,
            address,
            target,
            origin=origin,
            loopback_origin=loopback_origin,
            private=address in self._private,
        )
        self._since.setdefault(target, self._now())

    @property
    def all_targets(self) -> list[Target]:
        """All targets."""
        return list(self._targets.values())

    def accepts_blocking(self) -> bool:
        """Whether one of the first few targets accepts connections. For a thread, which it
        blocks for some seconds at most."""
        return any(
            accepts_blocking(target.host, target.port, _PROBE_TIMEOUT_S)
            for target in self.all_targets[:_PROBED]
        )

    def set_target(self, address: str, target: Target, *, private: bool = False) -> None:
        """Have an address lead to a target, now or as soon as the agent serves a lease.

        Args:
            address: the address.
            target: where its traffic goes.
            private: whether it is a single test's, which nobody is told of.
        """
        if self._targets.get(address) == target:
            return
        self.remove_target(address)
        self._targets[address] = target
        if private:
            self._private.add(address)
        if self._lease_id:
            self._apply(address, target)

    def set_origin(self, address: str, origin: str, loopback_origin: str = "") -> None:
        """Note the origin at whose root an address answers.

        Args:
            address: the address.
            origin: its origin; empty where it answers at its path.
            loopback_origin: the same as callers on this machine name it.
        """
        self._origins[address] = origin, loopback_origin
        if self._lease_id and address in self._targets:
            self._apply(address, self._targets[address])

    def remove_target(self, address: str) -> None:
        """Have an address lead nowhere."""
        target = self._targets.pop(address, None)
        self._private.discard(address)
        if target is not None and self._lease_id:
            self.agent.leases.remove_target(self._lease_id, address)
            if target not in self._targets.values():
                self._stop_clock(target)

    def _stop_clock(self, target: Target) -> None:
        if target in self._since:
            served_s = self._now() - self._since.pop(target)
            self._served_s[target] = self._served_s.get(target, 0.0) + served_s

    def served(self) -> dict[Target, float]:
        """Return for how many seconds each target was served, and stop all clocks."""
        for target in list(self._since):
            self._stop_clock(target)
        return self._served_s

    def target(self, address: str) -> Target:
        """Return where an address leads.

        Raises:
            KeeperRequestError: nowhere.
        """
        if address not in self._targets:
            raise KeeperRequestError("UNKNOWN_ADDRESS", f"the lease has no target for {address!r}")
        return self._targets[address]

    async def close(self) -> None:
        """End the agent, within a second."""
        self._lease_id = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.agent.close()
