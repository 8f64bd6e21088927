"""All leases of a run: made once, found by their users, given back, and counted."""

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
from .lease import HeldLease, Tell
from .spec import LeaseSpec
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
    """The leases of one run.

    Args:
        run_id: names the run, for the backend's listings.
        settings: of the run.
        carriers: make what carries the leases; their backend is not yet started.
        tell: takes what happens to a lease.
        journal: where the creation and the release of each are noted.
        now: unix seconds.

    Attributes:
        created: leases that the backend made and that have been dropped since.
        released: those of them that were given back.
        unreleased: a line for each of the others.
        public: a line for each port that was open to the internet.
    """

    def __init__(
        self,
        *,
        run_id: str,
        settings: Settings,
        carriers: TransportFactory,
        tell: Tell,
        journal: Journal,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.created = 0
        self.released = 0
        self.unreleased: list[str] = []
        self.public: list[str] = []
        self._metadata = {"source": "pytest-synth-tunnels", "run_id": run_id}
        self._settings = settings
        self._carriers = carriers
        self._tell = tell
        self._journal = journal
        self._now = now
        self._shared: dict[str, HeldLease] = {}
        """By address; with one lease for the run there is only the common one."""
        self._exposed: dict[HeldLease, int] = {}
        """Leases of their own, and the process that each belongs to."""
        self._dropping: dict[HeldLease, asyncio.Task[str | None]] = {}

    def start(self) -> None:
        """Start the backend, and close what dead keepers left there."""
        self._started = spawn(self._carriers.plane.start())
        self._may_create: dict[str, asyncio.Future[None]] = {}
        """What leases of a provider wait for; the others' first one is not yet asked for."""
        self._sweeping = spawn(self._sweep())

    async def _sweep(self) -> None:
        if self._carriers.books is not None:
            await asyncio.shield(self._started)
            await self._carriers.books.sweep()

    async def started(self) -> None:
        """Wait for the backend.

        Raises:
            TunnelError: it cannot be used.
        """
        await asyncio.shield(self._started)

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
            tunnel = self._shared[key] = self._open(provider, port)
            # The others wait for the first: what refuses one lease refuses all, and is asked once.
            if provider not in self._may_create:
                self._may_create[provider] = spawn(_succeeded(tunnel))
        return self._shared[key]

    def is_common(self, tunnel: HeldLease) -> bool:
        """Whether all processes of the run share a lease."""
        return self._settings.share == "run" and tunnel is self._shared.get(COMMON)

    def expose(
        self,
        pid: int,
        target: Target,
        *,
        provider: str,
        ttl_s: float | None,
        name: str | None,
        token: bool,
    ) -> HeldLease:
        """Open a lease of its own for a process.

        Args:
            pid: the process, with which the lease ends.
            target: where its traffic goes.
            provider: what carries it.
            ttl_s: how long it lasts, in seconds; the run's setting by default.
            name: what the backend's listings call it.
            token: whether callers must send the worker token.

        Raises:
            KeeperRequestError: there are too many.
        """
        if len(self._exposed) >= _MAX_EXPOSED:
            raise KeeperRequestError(
                "TOO_MANY_LEASES", f"{_MAX_EXPOSED} leases are open already", "Close some of them"
            )
        metadata = {"name": name} if name else {}
        tunnel = self._open(
            provider,
            target.port,
            host=target.host,
            ttl_s=ttl_s,
            metadata=metadata,
            require_token=token,
        )
        self._exposed[tunnel] = pid
        tunnel.serving.set_target(COMMON, target)
        return tunnel

    def _open(
        self,
        provider: str,
        port: int,
        *,
        host: str = HOST,
        ttl_s: float | None = None,
        metadata: dict[str, Any] | None = None,
        require_token: bool = True,
    ) -> HeldLease:
        request = LeaseSpec(
            port=port,
            ttl_s=self._settings.ttl_s if ttl_s is None else ttl_s,
            metadata=self._metadata | (metadata or {}),
            require_token=require_token,
        )
        tunnel = HeldLease(
            self._carriers.make(provider, request),
            started=self._may_create.get(provider, self._started),
            tell=self._tell,
            now=self._now,
        )
        spawn(self._note(tunnel, host, port))
        return tunnel

    async def _note(self, tunnel: HeldLease, host: str, port: int) -> None:
        """Write a lease into the journal once it carries traffic, if it ever does."""
        await tunnel.refused()
        if tunnel.life.state is LeaseState.ACTIVE:
            self._journal.created(
                tunnel,
                lease_id=tunnel.lease_id,
                provider=tunnel.carrier.provider,
                backend=tunnel.carrier.backend_url,
                local_host=host,
                local_port=port,
                # Where callers need no token it is the only secret.
                public_url=tunnel.carrier.public_url if tunnel.carrier.worker_token else None,
            )

    def find(self, lease_id: str) -> HeldLease:
        """Return a lease by its id.

        Raises:
            KeeperRequestError: this run does not hold it.
        """
        for tunnel in [*self._shared.values(), *self._exposed]:
            if lease_id and tunnel.carrier.is_called(lease_id):
                return tunnel
        raise KeeperRequestError("UNKNOWN_LEASE", f"this run holds no lease {lease_id}, or no more")

    def is_shared(self, tunnel: HeldLease) -> bool:
        """Whether a lease is the run's, or an address's, and not one that a process exposed."""
        return tunnel not in self._exposed

    def is_used_by(self, tunnel: HeldLease, pid: int, address: str) -> bool:
        """Whether what happens to a lease matters to a process."""
        if tunnel in self._exposed:
            return self._exposed[tunnel] == pid
        return self.is_common(tunnel) or self._shared.get(address) is tunnel

    # --- letting go

    async def close(self, lease_id: str, pid: int) -> None:
        """Release a lease that a process exposed; a second time is harmless.

        Raises:
            KeeperRequestError: it is not that process's to close, or could not be released.
        """
        if any(tunnel.carrier.is_called(lease_id) for tunnel in self._shared.values()):
            raise KeeperRequestError(
                "LEASE_SHARED",
                "the run's lease is used by all its tests; it is released when the run ends",
            )
        for tunnel, owner in list(self._exposed.items()):
            if tunnel.carrier.is_called(lease_id):
                if owner != pid:
                    raise KeeperRequestError("LEASE_FOREIGN", "another process opened this lease")
                error = await asyncio.shield(self.drop(tunnel))
                if error is not None:
                    raise KeeperRequestError("TUNNEL_NOT_RELEASED", error)

    def leave(self, pid: int) -> None:
        """Release what a process exposed."""
        for tunnel, owner in list(self._exposed.items()):
            if owner == pid:
                self.drop(tunnel)

    def vacate(self, address: str) -> None:
        """Release what the processes of an address had for themselves; the last of them left."""
        if self._settings.share == "worker":
            tunnel = self._shared.pop(address, None)
            if tunnel is not None:
                self.drop(tunnel)
        elif address != COMMON and COMMON in self._shared:
            self._shared[COMMON].serving.remove_target(address)

    def drop(self, tunnel: HeldLease) -> asyncio.Task[str | None]:
        """Begin to release a lease, once; the task returns why that failed, if it did."""
        if tunnel not in self._dropping:
            self._dropping[tunnel] = spawn(self._release(tunnel))
        return self._dropping[tunnel]

    async def _release(self, tunnel: HeldLease) -> str | None:
        error = await tunnel.release(RELEASE_TIMEOUT_S)
        self._exposed.pop(tunnel, None)
        del self._dropping[tunnel]
        self.public += tunnel.carrier.exposure()
        if tunnel.lease_id:
            self.created += 1
            if error is None:
                self.released += 1
                self._journal.released(tunnel)
            else:
                self.unreleased.append(self._debt(tunnel, error))
        return error

    def _debt(self, tunnel: HeldLease, error: str) -> str:
        message = f"lease {tunnel.lease_id} could not be released: {error}"
        if self._carriers.books is None:
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
        for tunnel in [*self._shared.values(), *self._exposed]:
            self.drop(tunnel)
        await asyncio.wait([*self._dropping.values(), self._sweeping], timeout=timeout_s)
        await asyncio.wait([spawn(self._carriers.close())], timeout=_CLOSE_TIMEOUT_S)


async def _succeeded(first: HeldLease) -> None:
    refusal = await first.refused()
    if refusal is not None:
        raise KeeperRequestError.of(refusal.failure)
