"""One lease in the keeper: opened, watched by its heartbeat, and released.

Theory of operation. A :class:`HeldLease` begins to open itself when it is made. Its *opening* task
waits until a lease may be asked for, has the transport open it, and then sets ``_opened``, with a
failure or without; everybody who waits for the lease gets that one outcome. An active lease has a
heartbeat thread, whose notices come to the event loop; a notice of the end (lost, expired) moves
the state (:mod:`.state`), all others are only passed on. Releasing happens once, in a task of its
own: it stops the heartbeat, has the transport release the lease (which waits for a create in
flight, since that may still make a lease), ends the opening task, and closes the transport. A
released lease passes no notice on. A lease that could not be released keeps its state.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from ...agent.target import Target
from ...sdk.errors import TunnelError
from ..errors import KeeperRequestError
from ..ipc.messages import LeaseInfo
from ..transports.base import LeaseTransport
from ..transports.targets import AgentTargets
from .heartbeat import Heartbeat, HeartbeatSchedule, Notice, NoticeKind
from .spec import parse_rfc3339
from .state import LeaseState, LeaseStateMachine

__all__ = ["HeldLease", "LeaseListener"]

_log = logging.getLogger(__name__)

_GIVEN_UP = "LEASE_GIVEN_UP"

LeaseListener = Callable[["HeldLease", str, str], None]
"""Takes a lease, the kind of an :class:`~..ipc.messages.Event`, and its message."""


class HeldLease:
    """A lease with its state, its transport and its heartbeat.

    Args:
        transport: a new one.
        started: what must be done before a lease is asked for; if it fails, there is none.
        on_event: called, on the event loop, with what happens to the lease.
        now: unix seconds.

    Attributes:
        transport: what carries the lease's traffic.
    """

    def __init__(
        self,
        transport: LeaseTransport,
        *,
        started: "asyncio.Future[None]",
        on_event: LeaseListener,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.transport = transport
        self._state_machine = LeaseStateMachine()
        self._started = started
        self._on_event = on_event
        self._now = now
        self._failure: KeeperRequestError | None = None
        self._asked = False
        """Whether the backend was asked for a lease, or is about to be."""
        self._opened = asyncio.Event()
        """Set once the lease is active or has failed."""
        self._heartbeat: Heartbeat | None = None
        self._opening = asyncio.create_task(self._open())
        self._release: asyncio.Task[None] | None = None

    @property
    def state(self) -> LeaseState:
        """The lease's state."""
        return self._state_machine.state

    # --- opening

    async def refusal(self) -> KeeperRequestError | None:
        """Wait for the outcome of opening the lease.

        Returns:
            Why there can be no lease; ``None`` if there was one, or if the lease was released
            before that was known.
        """
        await self._opened.wait()
        was_given_up = self._failure is not None and self._failure.code == _GIVEN_UP
        return None if was_given_up else self._failure

    async def ready(self) -> None:
        """Wait until the lease is active.

        Raises:
            KeeperRequestError: it failed, or is over; the same cause for everybody who asks.
        """
        await self._opened.wait()
        if self._failure is not None:
            raise self._failure.renewed()
        if self._state_machine.is_over:
            raise KeeperRequestError(
                "LEASE_OVER",
                f"lease {self.lease_id} is {self.state}: {self._state_machine.reason}",
            )

    async def _open(self) -> None:
        try:
            await asyncio.shield(self._started)
            self._asked = True
            await self.transport.open(self._take_notice)
        except TunnelError as error:
            where = "" if self.transport.embedded else f" at {self.transport.backend_url}"
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
            if self._state_machine.transition(LeaseState.ACTIVE):
                self._start_heartbeat()
        finally:
            self._opened.set()

    def _fail(self, error: KeeperRequestError) -> None:
        self._failure = error
        self._state_machine.transition(LeaseState.FAILED, error.message)
        _log.warning("lease %s failed: %s", self.lease_id or "(none)", error.message)

    # --- watching

    def _start_heartbeat(self) -> None:
        now = self._now()
        expires_at = parse_rfc3339(self.transport.expires_at)
        loop = asyncio.get_running_loop()

        def on_notice(notice: Notice) -> None:
            with suppress(RuntimeError):  # the loop is closed: the keeper has ended
                loop.call_soon_threadsafe(self._take_notice, notice)

        self._heartbeat = Heartbeat(
            self.lease_id,
            schedule=HeartbeatSchedule(
                ttl_s=max(1.0, expires_at - now),
                expires_at=expires_at,
                interval_s=max(1.0, self.transport.interval_s),
                now=now,
            ),
            beat=self.transport.beat,
            on_notice=on_notice,
            now=self._now,
        )
        self._heartbeat.start()

    def _take_notice(self, notice: Notice) -> None:
        if notice.kind not in (NoticeKind.EXPIRED, NoticeKind.LOST):
            if not self._state_machine.is_over:
                self._on_event(self, notice.kind.value, f"lease {self.lease_id}: {notice.message}")
            return
        expired = notice.kind is NoticeKind.EXPIRED
        state = LeaseState.EXPIRED if expired else LeaseState.LOST
        if self._state_machine.transition(state, notice.message):
            verb = "has expired" if expired else "is lost"
            self._on_event(self, "lost", f"lease {self.lease_id} {verb}: {notice.message}")

    # --- in use

    @property
    def lease_id(self) -> str:
        """The backend's name for the lease; empty until it is created."""
        return self.transport.lease_id

    @property
    def targets(self) -> AgentTargets:
        """The lease's agent and the targets that it serves."""
        return self.transport.targets

    async def open_address(self, address: str, target: Target, *, permanent: bool = True) -> str:
        """Have an address lead to a target, and give it a public URL.

        An address is a part of the lease with a target and a URL of its own: that of the lease
        itself (the empty one), of an xdist worker, or of a single test.

        Args:
            address: letters, digits, ``_`` and ``-``; one that is open already gets the target.
            target: where its traffic goes.
            permanent: see :meth:`~..transports.base.LeaseTransport.open_address`.

        Returns:
            The public URL, without a trailing slash.

        Raises:
            KeeperRequestError: there is no lease, or no room for another address.
        """
        # The agent is to know its target when it attaches.
        self.targets.set_target(address, target, private=not permanent)
        await self.ready()
        try:
            return await self.transport.open_address(address, permanent=permanent)
        except TunnelError as error:
            raise KeeperRequestError(error.code, error.message, error.hint) from None

    def url(self, address: str) -> str:
        """Return the public URL of an address that is open."""
        return self.transport.url(address)

    def end_address(self, address: str, reason: str) -> None:
        """Have an address lead nowhere.

        Args:
            address: one that is open.
            reason: for callers, as the end of a sentence.
        """
        self.targets.remove_target(address)
        self.transport.end_address(address, reason)

    def info(self, address: str) -> LeaseInfo:
        """Return what a test may know of the lease.

        Raises:
            KeeperRequestError: the lease has no target for the address.
        """
        transport = self.transport
        target = transport.targets.target(address)
        return LeaseInfo(
            lease_id=self.lease_id,
            public_url=self.url(address),
            loopback_url=transport.loopback_url(address),
            ca_file=transport.ca_file,
            url_secret=transport.url_secret,
            worker_token=transport.worker_token,
            headers=transport.headers,
            local_host=target.host,
            local_port=target.port,
            expires_at=transport.expires_at,
            provider=transport.provider,
            backend=transport.backend_url,
        )

    # --- the end

    async def release(self, timeout_s: float) -> str | None:
        """Release the lease, if there is one; a second call waits for the first.

        Args:
            timeout_s: how long to try, in seconds.

        Returns:
            Why it could not be released, or ``None``.
        """
        if self._release is None:
            self._release = asyncio.create_task(self._release_within(timeout_s))
        await asyncio.shield(self._release)
        if not self.lease_id or self.transport.released:
            return None
        return self.transport.release_error

    async def _release_within(self, timeout_s: float) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        if not self._asked:
            self._opening.cancel()
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.transport.release()
        self._opening.cancel()
        if self.lease_id and self.transport.released:
            self._state_machine.transition(LeaseState.RELEASED, "released")
        await self.transport.close()
