"""The keeper's side of the ledger: what it writes down, and what it closes for dead keepers."""

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

_MAX_SWEPT: Final = 50
_AT_ONCE: Final = 5


class LedgerRecorder:
    """What this keeper owes to a hosted backend, and what others left.

    Args:
        ledger: of this user.
        plane: the backend; started before anything is called here.
        lock: the path of this keeper's lock.
        now: unix seconds.
    """

    def __init__(
        self, ledger: Ledger, plane: BackendClient, lock: str, now: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._plane = plane
        self._lock = lock
        self._now = now
        self._place = HostIdentity.here()

    async def add(self, lease_id: str, provider: str, expires_at: float) -> None:
        """Write down a lease that the backend just made. A ledger that cannot be written is worth
        a word in the log and no failed run."""
        entry = Entry(
            backend_url=self._plane.url,
            key_hash=hash_key(self._plane.api_key),
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

    async def sweep(self) -> None:
        """Close what dead keepers left at this backend with this key, up to 50 leases."""
        key_hash = hash_key(self._plane.api_key)
        try:
            stale = await in_thread(
                lambda: self._ledger.stale(self._plane.url, key_hash, self._place)
            )
        except OSError as error:
            _log.warning("cannot read the ledger: %s", error)
            return
        turns = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._close(entry, turns) for entry in stale[:_MAX_SWEPT]))

    async def _close(self, entry: Entry, turns: asyncio.Semaphore) -> None:
        async with turns:
            try:
                for request in release_requests(entry.provider, entry.lease_id):
                    await self._plane.call(request)
            except TunnelError as error:
                if not is_gone(error):
                    _log.warning("cannot close stale lease %s: %s", entry.lease_id, error)
                    return
            _log.info("closed lease %s, which a dead keeper had left", entry.lease_id)
            await self.remove(entry.lease_id)
            await in_thread(lambda: remove_traces(entry))
