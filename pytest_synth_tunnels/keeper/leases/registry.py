"""All leases of a run: opened once, found by their users, released, and counted.

Theory of operation. A lease is in one of two tables: *shared* (one for the run, or one for each
address, as ``synth_tunnels_share`` says) or *exposed* (opened by one process for itself). It comes
in with :meth:`LeaseRegistry.shared` or :meth:`LeaseRegistry.expose` and goes out through
:meth:`LeaseRegistry.drop`, which releases it once, whoever asks and however often; while that is
going on the lease is in ``_dropping`` too. An exposed lease leaves its table when it is released;
a shared one leaves it with the last process of its address, or not before the end of the run, so
that a second one is never opened.

All leases wait until the backend is started. The first shared lease of a provider is asked for
alone, and the others wait for its outcome: what refuses one lease refuses all of them, and is
asked once.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from ...agent.target import Target
from ...aio.tasks import spawn
from ...settings import Settings
from ..errors import KeeperRequestError
from ..ports import HOST
from ..transports.factory import TransportFactory
from .journal import Journal
from .lease import HeldLease, LeaseListener
from .spec import LeaseSpec, UrlStyle, choose_url_style
from .state import LeaseState

__all__ = ["COMMON", "RELEASE_TIMEOUT_S", "LeaseRegistry"]

RELEASE_TIMEOUT_S: Final = 8.0
"""How long a lease's release is tried."""

COMMON: Final = ""
"""The address without a name, and the lease that all processes share."""

_MAX_EXPOSED: Final = 256
_CLOSE_TIMEOUT_S: Final = 8.0
"""For connectors and backends to end; those of a run without connectors need milliseconds."""


class LeaseRegistry:
    """The leases of one run. Made on the event loop, where it starts the backend at once.

    Args:
        run_id: names the run, for the backend's listings.
        settings: of the run.
        transports: makes the leases' transports; its backend is not yet started.
        on_event: called with what happens to a lease.
        journal: where the creation and the release of each are noted.
        now: unix seconds.

    Attributes:
        created: leases that the backend created and that have been dropped since.
        released: those of them that were released.
        unreleased: a line for each of the others.
        public: lines about what was open to others than this machine.
    """

    def __init__(
        self,
        *,
        run_id: str,
        settings: Settings,
        transports: TransportFactory,
        on_event: LeaseListener,
        journal: Journal,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.created = 0
        self.released = 0
        self.unreleased: list[str] = []
        self.public: list[str] = []
        self._metadata = {"source": "pytest-synth-tunnels", "run_id": run_id}
        self._settings = settings
        self._transports = transports
        self._on_event = on_event
        self._journal = journal
        self._now = now
        self._shared: dict[str, HeldLease] = {}
        """By address; with one lease for the run there is only the common one."""
        self._exposed: dict[HeldLease, int] = {}
        """Leases of one process, and which process that is."""
        self._dropping: dict[HeldLease, asyncio.Task[str | None]] = {}
        """Leases that are being released."""
        self._first_outcome: dict[str, asyncio.Future[None]] = {}
        """By provider: the outcome of its first shared lease, which all others wait for."""
        self._backend_started = spawn(transports.backend_client.start())
        self._stale_released = spawn(self._release_stale())

    async def _release_stale(self) -> None:
        """Release what dead keepers left at the backend."""
        if self._transports.ledger_recorder is not None:
            await asyncio.shield(self._backend_started)
            await self._transports.ledger_recorder.release_stale()

    async def started(self) -> None:
        """Wait for the backend.

        Raises:
            TunnelError: it cannot be used.
        """
        await asyncio.shield(self._backend_started)

    # --- leases

    def shared(self, address: str, port: int) -> HeldLease:
        """Return the lease that a process shares with the run, or with its forked children.

        Args:
            address: of the process.
            port: what a new lease's ``local_target`` is.
        """
        key = COMMON if self._settings.share == "run" else address
        if key not in self._shared:
            provider = self._settings.provider
            lease = self._shared[key] = self._open(
                provider,
                port,
                require_token=self._settings.require_token,
                url_style=choose_url_style(
                    None,
                    self._settings.url_style,
                    provider=provider,
                    embedded=self._transports.backend_client.embedded,
                ),
                public_port=self._settings.public_port,
            )
            if provider not in self._first_outcome:
                self._first_outcome[provider] = spawn(_raise_if_refused(lease))
        return self._shared[key]

    def is_common(self, lease: HeldLease) -> bool:
        """Whether all processes of the run share a lease."""
        return self._settings.share == "run" and lease is self._shared.get(COMMON)

    def expose(
        self,
        pid: int,
        target: Target,
        *,
        provider: str,
        ttl_s: float | None,
        name: str | None,
        require_token: bool,
        url_style: UrlStyle,
    ) -> HeldLease:
        """Open a lease for one process alone.

        Args:
            pid: the process, with which the lease ends.
            target: where its traffic goes.
            provider: what carries it.
            ttl_s: how long it lasts, in seconds; the run's setting by default.
            name: what the backend's listings call it.
            require_token: whether callers must send the worker token.
            url_style: what its public URL is like.

        Raises:
            KeeperRequestError: there are too many.
        """
        if len(self._exposed) >= _MAX_EXPOSED:
            raise KeeperRequestError(
                "TOO_MANY_LEASES", f"{_MAX_EXPOSED} leases are open already", "Close some of them"
            )
        lease = self._open(
            provider,
            target.port,
            host=target.host,
            ttl_s=ttl_s,
            metadata={"name": name} if name else {},
            require_token=require_token,
            url_style=url_style,
        )
        self._exposed[lease] = pid
        lease.targets.set_target(COMMON, target)
        return lease

    def _open(
        self,
        provider: str,
        port: int,
        *,
        host: str = HOST,
        ttl_s: float | None = None,
        metadata: dict[str, Any] | None = None,
        require_token: bool,
        url_style: UrlStyle,
        public_port: int | None = None,
    ) -> HeldLease:
        spec = LeaseSpec(
            port=port,
            ttl_s=self._settings.ttl_s if ttl_s is None else ttl_s,
            metadata=self._metadata | (metadata or {}),
            require_token=require_token,
            url_style=url_style,
            public_port=public_port,
        )
        lease = HeldLease(
            self._transports.make(provider, spec),
            started=self._first_outcome.get(provider, self._backend_started),
            on_event=self._on_event,
            now=self._now,
        )
        spawn(self._note_creation(lease, host, port))
        return lease

    async def _note_creation(self, lease: HeldLease, host: str, port: int) -> None:
        """Write a lease into the journal once it carries traffic, if it ever does."""
        await lease.refusal()
        if lease.state is LeaseState.ACTIVE:
            transport = lease.transport
            self._journal.created(
                lease,
                lease_id=lease.lease_id,
                provider=transport.provider,
                backend=transport.backend_url,
                local_host=host,
                local_port=port,
                public_url=None if transport.url_secret else transport.public_url,
            )

    def find(self, lease_id: str) -> HeldLease:
        """Return a lease by its id.

        Raises:
            KeeperRequestError: this run does not hold it.
        """
        for lease in [*self._shared.values(), *self._exposed]:
            if lease_id and lease.transport.has_id(lease_id):
                return lease
        which = f"this run holds no lease {lease_id}, or no more"
        if not lease_id:  # such as that of a request to a URL which nothing has
            which = "there is no lease that this belongs to"
        raise KeeperRequestError("UNKNOWN_LEASE", which)

    def secrets(self) -> set[str]:
        """Return what lets callers in and agents attach: it belongs in nothing that is shown."""
        found = {self._transports.backend_client.api_key}
        for lease in [*self._shared.values(), *self._exposed]:
            transport = lease.transport
            if transport.lease_id:
                found |= {transport.url_secret, transport.worker_token or ""}
                found.update(transport.headers.values())
        return found - {""}

    def is_shared(self, lease: HeldLease) -> bool:
        """Whether a lease is the run's, or an address's, and not one that a process exposed."""
        return lease not in self._exposed

    def is_used_by(self, lease: HeldLease, pid: int, address: str) -> bool:
        """Whether what happens to a lease matters to a process."""
        if lease in self._exposed:
            return self._exposed[lease] == pid
        return self.is_common(lease) or self._shared.get(address) is lease

    # --- letting go

    async def close(self, lease_id: str, pid: int) -> None:
        """Release a lease that a process exposed; a second time is harmless.

        Raises:
            KeeperRequestError: it is not that process's to close, or could not be released.
        """
        if any(lease.transport.has_id(lease_id) for lease in self._shared.values()):
            raise KeeperRequestError(
                "LEASE_SHARED",
                "the run's lease is used by all its tests; it is released when the run ends",
            )
        for lease, owner in list(self._exposed.items()):
            if lease.transport.has_id(lease_id):
                if owner != pid:
                    raise KeeperRequestError("LEASE_FOREIGN", "another process opened this lease")
                error = await asyncio.shield(self.drop(lease))
                if error is not None:
                    raise KeeperRequestError("TUNNEL_NOT_RELEASED", error)

    def leave(self, pid: int) -> None:
        """Release what a process exposed."""
        for lease, owner in list(self._exposed.items()):
            if owner == pid:
                self.drop(lease)

    def vacate(self, address: str) -> None:
        """Release what the processes of an address had for themselves; the last of them left."""
        if self._settings.share == "worker":
            lease = self._shared.pop(address, None)
            if lease is not None:
                self.drop(lease)
        elif address != COMMON and COMMON in self._shared:
            self._shared[COMMON].end_address(address, f"the process {address} has ended")

    def drop(self, lease: HeldLease) -> asyncio.Task[str | None]:
        """Begin to release a lease, once; the task returns why that failed, if it did."""
        if lease not in self._dropping:
            self._dropping[lease] = spawn(self._release(lease))
        return self._dropping[lease]

    async def _release(self, lease: HeldLease) -> str | None:
        error = await lease.release(RELEASE_TIMEOUT_S)
        self._exposed.pop(lease, None)
        del self._dropping[lease]
        self.public += lease.transport.exposure()
        if lease.lease_id:
            self.created += 1
            if error is None:
                self.released += 1
                self._journal.released(lease)
            else:
                self.unreleased.append(self._unreleased_line(lease, error))
        return error

    def _unreleased_line(self, lease: HeldLease, error: str) -> str:
        message = f"lease {lease.lease_id} could not be released: {error}"
        if self._transports.ledger_recorder is None:
            return message
        return (
            f"{message}. The next run with this backend tries again, and so does "
            "python -m pytest_synth_tunnels leases --release-stale"
        )

    async def finish(self, timeout_s: float) -> None:
        """Release everything, and stop the backend.

        Args:
            timeout_s: how long that may take, in seconds.
        """
        for lease in [*self._shared.values(), *self._exposed]:
            self.drop(lease)
        # The backend too: one that is being started cannot be closed.
        ending = [*self._dropping.values(), self._stale_released, self._backend_started]
        await asyncio.wait(ending, timeout=timeout_s)
        await asyncio.wait([spawn(self._transports.close())], timeout=_CLOSE_TIMEOUT_S)


async def _raise_if_refused(first: HeldLease) -> None:
    refusal = await first.refusal()
    if refusal is not None:
        raise refusal.renewed()
