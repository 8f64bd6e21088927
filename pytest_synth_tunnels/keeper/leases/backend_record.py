"""One lease at the backend: created, written into the ledger, and released."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from ...aio.backoff import Backoff
from ...aio.tasks import spawn
from ...sdk.errors import TunnelError
from ...sdk.requests import Request
from ..backend_client import BackendClient
from ..errors import KeeperRequestError
from .spec import is_gone, parse_rfc3339, release_requests

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder

__all__ = ["BackendLeaseRecord", "CreatedLease"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.2
_MAX_PAUSE_S: Final = 2.0


class CreatedLease(msgspec.Struct):
    """The part that the answers to all kinds of creates have in common."""

    expires_at: str


_M = TypeVar("_M", bound=CreatedLease)


class BackendLeaseRecord:
    """What the keeper knows of a lease at the backend, from the create until the release.

    Args:
        backend_client: the backend.
        provider: what carries the lease's traffic.
        ledger_recorder: where a hosted lease is written down; ``None`` for the embedded backend.

    Attributes:
        ledger_recorder: see above.
        lease_id: the backend's name for the lease; empty until the backend has created it.
        answered: set once the backend has answered the create, with a lease or without.
        released: whether the backend has taken the lease back.
        release_error: why the lease could not be released so far.
    """

    def __init__(
        self,
        backend_client: BackendClient,
        provider: str,
        ledger_recorder: "LedgerRecorder | None",
    ) -> None:
        self.lease_id = ""
        self.answered = asyncio.Event()
        self.released = False
        self.release_error = "the backend did not answer in time"
        self.ledger_recorder = ledger_recorder
        self._backend_client = backend_client
        self._provider = provider
        self._release_lock = asyncio.Lock()

    async def create(self, request: Request, kind: type[_M]) -> tuple[_M, dict[str, Any]]:
        """Ask the backend for the lease.

        Args:
            request: the create.
            kind: what the answer must be.

        Returns:
            The answer as ``kind``, and the whole of it.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: its answer cannot be used.
        """
        # The caller may give up waiting, and the backend may create the lease all the same.
        return await asyncio.shield(spawn(self._create(request, kind)))

    async def _create(self, request: Request, kind: type[_M]) -> tuple[_M, dict[str, Any]]:
        try:
            answer = await self._backend_client.call(request)
            # Known before anything else can fail, so that the lease is released in any case.
            if isinstance(answer, dict):
                self.lease_id = str(answer.get("lease_id") or "")
            created = self.read(answer, kind)
            if self.ledger_recorder is not None:
                expires_at = parse_rfc3339(created.expires_at)
                await self.ledger_recorder.add(self.lease_id, self._provider, expires_at)
        finally:
            self.answered.set()
        # Not the URL: where callers need no token it is the only secret.
        _log.info("lease %s: created", self.lease_id)
        return created, answer

    def read(self, answer: Any, kind: type[_M]) -> _M:
        """Read an answer of the backend that describes the lease.

        Raises:
            KeeperRequestError: the answer cannot be used.
        """
        where = "" if self._backend_client.embedded else f" at {self._backend_client.url}"
        try:
            created = msgspec.convert(answer, kind)
            parse_rfc3339(created.expires_at)
        except (msgspec.ValidationError, ValueError) as error:
            raise KeeperRequestError(
                "TUNNEL_INTERNAL",
                f"the backend{where} answered with a lease that cannot be used: {error}",
                "Check that the URL is that of a Synth backend",
            ) from None
        if not self.lease_id:
            raise KeeperRequestError(
                "TUNNEL_INTERNAL", f"the backend{where} gave a lease without an id"
            )
        return created

    async def release(self) -> None:
        """Release the lease, if there is one; tried again for as long as the caller waits."""
        # A create in flight may still make a lease, and only its answer tells which.
        await self.answered.wait()
        async with self._release_lock:
            await self._release()

    async def _release(self) -> None:
        if not self.lease_id or self.released:
            return
        for request in release_requests(self._provider, self.lease_id):
            await self._call_until_done(request)
        self.released = True
        _log.info("lease %s: released", self.lease_id)
        if self.ledger_recorder is not None:
            await self.ledger_recorder.remove(self.lease_id)

    async def release_another(self, answer: Any) -> None:
        """Release a lease that the backend created where it should have found this one.

        Args:
            answer: the backend's, which has the other lease's id.
        """
        another = BackendLeaseRecord(self._backend_client, self._provider, self.ledger_recorder)
        another.lease_id = str(answer.get("lease_id") or "")
        another.answered.set()
        await another.release()

    async def _call_until_done(self, request: Request) -> None:
        backoff = Backoff(_FIRST_PAUSE_S, _MAX_PAUSE_S)
        while True:
            try:
                await self._backend_client.call(request)
                return
            except TunnelError as error:
                if is_gone(error):
                    return
                self.release_error = error.message
                _log.info("releasing lease %s failed: %s", self.lease_id, error.message)
            await asyncio.sleep(backoff.next_s())
