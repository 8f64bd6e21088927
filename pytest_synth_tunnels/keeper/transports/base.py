"""How a lease's traffic comes to its targets: what :class:`~..leases.lease.HeldLease` needs to
know of it.

A SynthTunnel lease (:mod:`.synthtunnel`) has an agent at the backend's relay; a managed one
(:mod:`.managed`) has a connector at a provider's edge, and a gateway.
"""

from collections.abc import Callable
from typing import Any, Protocol

from ..leases.heartbeat import Beat, Notice
from .targets import AgentTargets

__all__ = ["LeaseTransport", "Told"]

Told = Callable[[Notice], None]
"""Takes what a carrier has to tell of its lease, on the event loop."""


class LeaseTransport(Protocol):
    """A lease of one kind, without its life.

    Attributes:
        tell: takes what happens to the lease; to be set before :meth:`open`.
    """

    tell: Told

    @property
    def provider(self) -> str:
        """The kind, as the settings call it."""

    @property
    def embedded(self) -> bool:
        """Whether its backend lives in this process."""

    @property
    def backend_url(self) -> str:
        """Its backend's origin; empty until that is started."""

    @property
    def serving(self) -> AgentTargets:
        """The agent and its targets."""

    @property
    def lease_id(self) -> str:
        """The backend's name for the lease; empty until it is made."""

    @property
    def public_url(self) -> str:
        """Where callers come; empty until the lease is there."""

    @property
    def worker_token(self) -> str | None:
        """What callers must send; ``None`` where the URL is enough."""

    @property
    def headers(self) -> dict[str, str]:
        """What callers must send along, secrets all of it; empty where the URL is enough."""

    @property
    def expires_at(self) -> str:
        """When the lease ends, RFC 3339."""

    @property
    def interval_s(self) -> float:
        """How often the backend likes a beat, in seconds, until an answer says otherwise."""

    def is_called(self, lease_id: str) -> bool:
        """Whether this is, or ever was, the lease's id."""

    async def open(self) -> None:
        """Make the lease, and have it carry traffic.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: it carries nothing, and why.
        """

    def beat(self) -> Beat:
        """Ask how the lease is. Called in the heartbeat's thread.

        Raises:
            TunnelError: the backend gave no answer.
        """

    async def status(self) -> dict[str, Any]:
        """Return what the backend, and what carries the traffic, say of the lease.

        Raises:
            TunnelError: the backend does not know it, or gave no answer.
        """

    async def refresh_token(self) -> None:
        """Rotate the worker token.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: there is none.
        """

    def missing_link(self) -> str | None:
        """Return what, on the way from the public URL to here, is known not to be there."""

    def exposure(self) -> list[str]:
        """Return a line for each port that was open to the internet, for the run's report."""

    async def give_back(self) -> None:
        """Give the lease back, for as long as the caller waits. Harmless when repeated."""

    @property
    def released(self) -> bool:
        """Whether nothing is owed to the backend any more."""

    @property
    def release_error(self) -> str:
        """Why it could not be given back so far."""

    async def close(self) -> None:
        """Let go of what carries the traffic, within a second or two."""
