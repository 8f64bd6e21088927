"""One lease at the backend: asked for, written into the books, and given back."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

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
    """What is needed of the answer to any create."""

    expires_at: str


_M = TypeVar("_M", bound=CreatedLease)


class BackendLeaseRecord:
    """A lease from the moment it is asked for until it is given back.

    Args:
        plane: the backend.
        provider: what carries it.
        books: where a hosted lease is written down; ``None`` for the embedded backend.

    Attributes:
        books: see above.
        lease_id: the backend's name for it; empty until it is made.
        answered: set once the backend has answered the create, with a lease or without.
        released: whether it was given back.
        release_error: why it could not be given back so far.
    """

    def __init__(self, plane: BackendClient, provider: str, books: "LedgerRecorder | None") -> None:
        self.lease_id = ""
        self.answered = asyncio.Event()
        self.released = False
        self.release_error = "the backend did not answer in time"
        self._plane = plane
        self._provider = provider
        self._turn = asyncio.Lock()
        self.books = books

    async def create(self, request: Request, kind: type[_M]) -> tuple[_M, dict[str, Any]]:
        """Ask for the lease.

        Args:
            request: the create.
            kind: what the answer must be.

        Returns:
            What is needed of the answer, and the whole of it.

        Raises:
            TunnelError: the backend refused.
            KeeperRequestError: its answer cannot be used.
        """
        # Whoever asked may not wait any longer, and yet the backend may make the lease.
        return await asyncio.shield(spawn(self._create(request, kind)))

    async def _create(self, request: Request, kind: type[_M]) -> tuple[_M, dict[str, Any]]:
        try:
            answer = await self._plane.call(request)
            # Known before anything else may fail, so that it is given back in any case.
            if isinstance(answer, dict):
                self.lease_id = str(answer.get("lease_id") or "")
            made = self.read(answer, kind)
            if self.books is not None:
                await self.books.add(self.lease_id, self._provider, parse_rfc3339(made.expires_at))
        finally:
            self.answered.set()
        # Not the URL: where callers need no token it is the only secret.
        _log.info("lease %s: made", self.lease_id)
        return made, answer

    def read(self, answer: Any, kind: type[_M]) -> _M:
        """Read what the backend says of the lease.

        Raises:
            KeeperRequestError: it cannot be used.
        """
        where = "" if self._plane.embedded else f" at {self._plane.url}"
        try:
            made = msgspec.convert(answer, kind)
            parse_rfc3339(made.expires_at)
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
        return made

    async def give_back(self) -> None:
        """Give it back, if there is one; tried again for as long as the caller waits."""
        # A create that is under way may still make a lease, and only its answer tells which.
        await self.answered.wait()
        async with self._turn:
            await self._give_back()

    async def _give_back(self) -> None:
        if not self.lease_id or self.released:
            return
        for request in release_requests(self._provider, self.lease_id):
            await self._ask_until_done(request)
        self.released = True
        _log.info("lease %s: released", self.lease_id)
        if self.books is not None:
            await self.books.remove(self.lease_id)

    async def give_back_another(self, answer: Any) -> None:
        """Give back a lease that the backend made where it should have found this one.

        Args:
            answer: with its id.
        """
        another = BackendLeaseRecord(self._plane, self._provider, self.books)
        another.lease_id = str(answer.get("lease_id") or "")
        another.answered.set()
        await another.give_back()

    async def _ask_until_done(self, request: Request) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._plane.call(request)
                return
            except TunnelError as error:
                if is_gone(error):
                    return
                self.release_error = error.message
                _log.info("releasing lease %s failed: %s", self.lease_id, error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
