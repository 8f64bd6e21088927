"""The keeper's side of the ledger: leases that it writes down, and releases for dead keepers."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from ...aio.tasks import in_thread
from ...sdk.errors import TunnelError
from ..backend_client import BackendClient
from ..leases.spec import is_gone, release_requests
from .ledger import Entry, HostIdentity, Ledger, hash_key, remove_traces

__all__ = ["LedgerRecorder"]

_log = logging.getLogger(__name__)

_MAX_STALE: Final = 50
_MAX_CONCURRENT: Final = 5


class LedgerRecorder:
    """Records this keeper's leases of a hosted backend, and releases those of dead keepers.

    Args:
        ledger: of this user.
        backend_client: the backend; started before anything is called here.
        lock: the path of this keeper's lock.
        now: unix seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        backend_client: BackendClient,
        lock: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._backend_client = backend_client
        self._lock = lock
        self._now = now
        self._place = HostIdentity.here()

    async def add(self, lease_id: str, provider: str, expires_at: float) -> None:
        """Write down a lease that the backend has just created. If the ledger cannot be written,
        that is logged, and the run goes on."""
        entry = Entry(
            backend_url=self._backend_client.url,
            key_hash=hash_key(self._backend_client.api_key),
            lease_id=lease_id,
            provider=provider,
            host=self._place.host,
            boot=self._place.boot,
            lock=self._lock,
            created_at=self._now(),
            expires_at=expires_at,
        )
        try:
            await in_thread(lambda: self._ledger.add(entry))
        except OSError as error:
            _log.warning("cannot write lease %s into the ledger: %s", lease_id, error)

    async def remove(self, lease_id: str) -> None:
        """Cross out a lease that is released."""
        try:
            await in_thread(lambda: self._ledger.remove([lease_id]))
        except OSError as error:
            _log.warning("cannot cross lease %s out of the ledger: %s", lease_id, error)

    async def release_stale(self) -> None:
        """Release the leases that dead keepers left at this backend with this key, up to 50."""
        key_hash = hash_key(self._backend_client.api_key)
        try:
            stale = await in_thread(
                lambda: self._ledger.stale(self._backend_client.url, key_hash, self._place)
            )
        except OSError as error:
            _log.warning("cannot read the ledger: %s", error)
            return
        slots = asyncio.Semaphore(_MAX_CONCURRENT)
        await asyncio.gather(*(self._release(entry, slots) for entry in stale[:_MAX_STALE]))

    async def _release(self, entry: Entry, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                for request in release_requests(entry.provider, entry.lease_id):
                    await self._backend_client.call(request)
            except TunnelError as error:
                if not is_gone(error):
                    _log.warning("cannot release stale lease %s: %s", entry.lease_id, error)
                    return
            _log.info("released lease %s, which a dead keeper had left", entry.lease_id)
            await self.remove(entry.lease_id)
            await in_thread(lambda: remove_traces(entry))
