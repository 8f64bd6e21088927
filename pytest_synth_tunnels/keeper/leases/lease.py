"""One lease in the keeper and its life: made, watched, given back."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from ...sdk.errors import TunnelError
from ..errors import KeeperRequestError
from ..ipc.messages import LeaseInfo
from ..transports.base import LeaseTransport
from ..transports.targets import AgentTargets
from .heartbeat import Heartbeat, HeartbeatSchedule, Notice, NoticeKind
from .spec import parse_rfc3339
from .state import LeaseState, LeaseStateMachine

__all__ = ["HeldLease", "Tell"]

_log = logging.getLogger(__name__)

_GIVEN_UP = "LEASE_GIVEN_UP"

Tell = Callable[["HeldLease", str, str], None]
"""Takes a tunnel, the kind of an :class:`~..ipc.messages.Event`, and its message."""


class HeldLease:
    """A lease, what carries it, and its heartbeat.

    Args:
        carrier: a new one.
        started: what must be done before a lease is asked for; if it fails, there is none.
        tell: takes what happens to the lease.
        now: unix seconds.

    Attributes:
        carrier: what carries the lease.
        life: the lease's state.
    """

    def __init__(
        self,
        carrier: LeaseTransport,
        *,
        started: "asyncio.Future[None]",
        tell: Tell,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.carrier = carrier
        self.life = LeaseStateMachine()
        carrier.tell = self._noticed
        self._started = started
        self._tell = tell
        self._now = now
        self._failure: KeeperRequestError | None = None
        self._asked = False
        """The backend was asked for a lease, or is about to be."""
        self._opened = asyncio.Event()
        """Set once the lease is active or has failed."""
        self._heartbeat: Heartbeat | None = None
        self._opening = asyncio.create_task(self._open())
        self._release: asyncio.Task[None] | None = None

    # --- opening

    async def refused(self) -> KeeperRequestError | None:
        """Wait for the outcome, and return why there can be no lease; ``None`` if there was one,
        or if nobody wanted it any more before that was known."""
        await self._opened.wait()
        finishing = self._failure is None or self._failure.failure.code == _GIVEN_UP
        return None if finishing else self._failure

    async def ready(self) -> None:
        """Wait until the lease is active.

        Raises:
            KeeperRequestError: it failed, or is over; the same cause for everybody who asks.
        """
        await self._opened.wait()
        if self._failure is not None:
            raise KeeperRequestError.of(self._failure.failure)
        if self.life.is_over:
            raise KeeperRequestError(
                "LEASE_OVER", f"lease {self.lease_id} is {self.life.state}: {self.life.reason}"
            )

    async def _open(self) -> None:
        try:
            await asyncio.shield(self._started)
            self._asked = True
            await self.carrier.open()
        except TunnelError as error:
            where = "" if self.carrier.embedded else f" at {self.carrier.backend_url}"
            message = f"the backend{where} gave no lease: {error.message}"
            self._fail(KeeperRequestError(error.code, message, error.hint))
        except KeeperRequestError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(KeeperRequestError(_GIVEN_UP, "the lease was given up"))
            raise
        except Exception as error:
            _log.exception("opening a lease failed")
            self._fail(
                KeeperRequestError("TUNNEL_INTERNAL", f"opening the lease failed: {error!r}")
            )
        else:
            if self.life.move(LeaseState.ACTIVE):
                self._watch()
        finally:
            self._opened.set()

    def _fail(self, error: KeeperRequestError) -> None:
        self._failure = error
        self.life.move(LeaseState.FAILED, error.failure.message)
        _log.warning("lease %s failed: %s", self.lease_id or "(none)", error.failure.message)

    # --- watching

    def _watch(self) -> None:
        now = self._now()
        expires_at = parse_rfc3339(self.carrier.expires_at)
        loop = asyncio.get_running_loop()

        def tell(notice: Notice) -> None:
            with suppress(RuntimeError):  # the loop is closed: the keeper has ended
                loop.call_soon_threadsafe(self._noticed, notice)

        self._heartbeat = Heartbeat(
            self.lease_id,
            pulse=HeartbeatSchedule(
                ttl_s=max(1.0, expires_at - now),
                expires_at=expires_at,
                interval_s=max(1.0, self.carrier.interval_s),
                now=now,
            ),
            beat=self.carrier.beat,
            tell=tell,
            now=self._now,
        )
        self._heartbeat.start()

    def _noticed(self, notice: Notice) -> None:
        message = f"lease {self.lease_id}: {notice.message}"
        if notice.kind not in (NoticeKind.EXPIRED, NoticeKind.LOST):
            if not self.life.is_over:
                self._tell(self, notice.kind.value, message)
            return
        expired = notice.kind is NoticeKind.EXPIRED
        if self.life.move(LeaseState.EXPIRED if expired else LeaseState.LOST, notice.message):
            verb = "has expired" if expired else "is lost"
            self._tell(self, "lost", f"lease {self.lease_id} {verb}: {notice.message}")

    # --- in use

    @property
    def lease_id(self) -> str:
        """The backend's name for the lease; empty until it is made."""
        return self.carrier.lease_id

    @property
    def serving(self) -> AgentTargets:
        """Its agent and its targets."""
        return self.carrier.serving

    def url(self, address: str) -> str:
        """Return the public URL of an address."""
        url = self.carrier.public_url
        return f"{url}/~{address}" if address else url

    def info(self, address: str) -> LeaseInfo:
        """Return what a test may know of the lease."""
        carrier = self.carrier
        target = carrier.serving.target(address)
        return LeaseInfo(
            lease_id=self.lease_id,
            public_url=self.url(address),
            worker_token=carrier.worker_token,
            headers=carrier.headers,
            local_host=target.host,
            local_port=target.port,
            expires_at=carrier.expires_at,
            provider=carrier.provider,
            backend=carrier.backend_url,
        )

    # --- the end

    async def release(self, timeout_s: float) -> str | None:
        """Give the lease back, if there is one; a second call waits for the first.

        Args:
            timeout_s: how long to try, in seconds.

        Returns:
            Why it could not be given back, or ``None``.
        """
        if self._release is None:
            self._release = asyncio.create_task(self._release_within(timeout_s))
        await asyncio.shield(self._release)
        if not self.lease_id or self.carrier.released:
            return None
        return self.carrier.release_error

    async def _release_within(self, timeout_s: float) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if not self._asked:
            self._opening.cancel()
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.carrier.give_back()
        self._opening.cancel()
        if self.lease_id and self.carrier.released:
            self.life.move(LeaseState.RELEASED, "released")
        await self.carrier.close()
