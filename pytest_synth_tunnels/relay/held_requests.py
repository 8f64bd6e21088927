"""The requests and WebSockets that wait for an agent, by lease, oldest first.

What waits keeps its own deadline and its own end: it takes itself out by :meth:`discard`, whether
an agent came, the caller left or the time was over.
"""

from typing import Protocol

from .agent_session import AgentSession
from .failures import RelayFailure

__all__ = ["Held", "HeldRequests"]


class Held(Protocol):
    """A request or a WebSocket that waits for an agent."""

    def release(self, session: AgentSession) -> None:
        """Go on with the agent that has come, and so wait no more."""

    def fail(self, failure: RelayFailure) -> None:
        """End with an error, and so wait no more."""


class HeldRequests:
    """Everything that waits for an agent at one relay.

    Attributes:
        body_bytes: what is kept of the bodies of requests that wait, in bytes.
    """

    def __init__(self) -> None:
        self.body_bytes = 0
        self._by_lease: dict[str, dict[Held, None]] = {}

    def of(self, lease_id: str) -> list[Held]:
        """Return what waits for an agent of this lease, oldest first."""
        return list(self._by_lease.get(lease_id, ()))

    def count(self, lease_id: str) -> int:
        """Return how many wait for an agent of this lease."""
        return len(self._by_lease.get(lease_id, ()))

    def add(self, lease_id: str, held: Held) -> None:
        """Note that it waits for an agent of this lease."""
        self._by_lease.setdefault(lease_id, {})[held] = None

    def discard(self, lease_id: str, held: Held) -> None:
        """Note that it waits no more, if it did."""
        waiting = self._by_lease.get(lease_id)
        if waiting is not None:
            waiting.pop(held, None)
            if not waiting:
                del self._by_lease[lease_id]
