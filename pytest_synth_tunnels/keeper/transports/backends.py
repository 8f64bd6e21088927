"""Which backend a lease is asked from."""

import asyncio
from typing import TYPE_CHECKING

from ...aio.tasks import spawn
from ..backend_client import BackendClient, EmbeddedBackendClient

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder

__all__ = ["Backends"]


class Backends:
    """The run's backend, and one of the keeper's own for providers that need none.

    A connector that makes its public URL itself (cloudflared's quick tunnels, or somebody's own)
    has no use for an account. Where the run's backend is a hosted one, its leases are kept by an
    embedded one beside it, so that every lease has the same life.

    Args:
        plane: the run's backend, not yet started.
        books: for what a hosted backend is owed; ``None`` for the embedded one.
        request_timeout_s: how long a caller waits for the app, in seconds.
    """

    def __init__(
        self, plane: BackendClient, books: "LedgerRecorder | None", request_timeout_s: float
    ) -> None:
        self.plane = plane
        self.books = books
        self._own: BackendClient = (
            plane if plane.embedded else EmbeddedBackendClient(request_timeout_s)
        )
        self._own_started: asyncio.Task[None] | None = None

    async def find(self, *, needs_none: bool) -> "tuple[BackendClient, LedgerRecorder | None]":
        """Return the backend for a connector's leases, started, and its books.

        Args:
            needs_none: whether the connector could do without a backend.

        Raises:
            TunnelError: it cannot be used.
        """
        if not needs_none or self._own is self.plane:
            return self.plane, self.books
        if self._own_started is None:
            self._own_started = spawn(self._own.start())
        await asyncio.shield(self._own_started)
        return self._own, None

    async def close(self) -> None:
        """Let go of them."""
        await self.plane.close()
        if self._own is not self.plane:
            await self._own.close()
