"""How a lease's traffic comes to its targets: what :class:`~..leases.lease.HeldLease` uses.

A SynthTunnel lease (:mod:`.synthtunnel`) has an agent at the backend's relay; a managed lease
(:mod:`.managed`) has a connector at a provider's edge, and a gateway.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..leases.heartbeat import Beat, Notice
from .targets import AgentTargets

if TYPE_CHECKING:
    import ssl

__all__ = ["LeaseTransport"]


class LeaseTransport(Protocol):
    """Creates one lease of a kind at the backend, carries its traffic, and releases it.

    It knows nothing of the lease's state, which is :class:`~..leases.lease.HeldLease`'s.
    """

    @property
    def provider(self) -> str:
        """The kind, as the settings call it."""

    @property
    def embedded(self) -> bool:
        """Whether the lease's backend is in this process."""

    @property
    def backend_url(self) -> str:
        """The backend's origin; empty until the backend is started."""

    @property
    def targets(self) -> AgentTargets:
        """The agent and its targets."""

    @property
    def lease_id(self) -> str:
        """The backend's name for the lease; empty until the lease is created."""

    @property
    def public_url(self) -> str:
        """Where callers come; empty until the lease is created."""

    @property
    def url_secret(self) -> str:
        """The part of the public URL that alone lets callers in; empty where they need a token, or
        where the URL is an origin that only this machine reaches."""

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
        """How often the backend wants a beat, in seconds, until an answer says otherwise."""

    def has_id(self, lease_id: str) -> bool:
        """Whether this is, or ever was, the lease's id."""

    async def open(self, on_notice: Callable[[Notice], None]) -> None:
        """Create the lease, and have it carry traffic.

        Args:
            on_notice: called, on the event loop, with what happens to the lease afterwards.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: the lease carries no traffic, and why.
        """

    async def open_address(self, address: str, *, permanent: bool) -> str:
        """Give an address of the lease a public URL. To be called after :meth:`open`.

        Where the addresses of a lease have origins of their own, this opens one, which stays until
        the end of the run and answers 410 from the end of the lease on. The agent's target for the
        address is the caller's affair (:attr:`targets`).

        Args:
            address: as in the agent's targets; one that is open already stays as it is.
            permanent: whether its origin is kept while the lease lives. Others are closed, the
                oldest first, when there are too many.

        Returns:
            The URL, without a trailing slash.

        Raises:
            TunnelError: there is no room for another origin.
        """

    def end_address(self, address: str, reason: str) -> None:
        """Have nothing but 410 at the URL of an address, if that is an origin of its own.

        Args:
            address: one that :meth:`open_address` opened, or any other, with which nothing happens.
            reason: for callers, as the end of a sentence.
        """

    def url(self, address: str) -> str:
        """Return the public URL of an address that is open."""

    def loopback_url(self, address: str) -> str:
        """Return the URL of an open address for callers on this machine, who need not know the
        public host; empty where only the public URL leads to it."""

    @property
    def ca_file(self) -> str:
        """A file with the certificate of the authority that vouches for the lease's https; empty
        for http, and where the authority is one that everybody trusts."""

    @property
    def ssl_context(self) -> "ssl.SSLContext | None":
        """What the certificate of :meth:`loopback_url` is checked with; ``None`` for http."""

    def beat(self) -> Beat:
        """Ask the backend for the state of the lease. Called in the heartbeat's thread.

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
            KeeperRequestError: the lease has no worker token.
        """

    def missing_link(self) -> str | None:
        """Return which link between the public URL and this process is known to be missing."""

    def exposure(self) -> list[str]:
        """Return lines for the run's report about what was open to others than this machine."""

    async def release(self) -> None:
        """Release the lease, for as long as the caller waits. Harmless when repeated."""

    @property
    def released(self) -> bool:
        """Whether the backend holds no lease of this transport."""

    @property
    def release_error(self) -> str:
        """Why the lease could not be released so far."""

    async def close(self) -> None:
        """Stop what carries the traffic, within a second or two."""
