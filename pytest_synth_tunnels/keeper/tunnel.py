"""One lease in the keeper: made, served, watched, given back."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..relay.agent import Agent
from ..sdk import requests
from ..sdk.errors import TunnelError
from .failures import FailureError
from .heartbeat import Beat, Heartbeat, Notice, NoticeKind, Pulse
from .leases import LeaseRequest, MadeLease, is_gone, release_request, unix_s
from .life import LeaseState, Life
from .messages import LeaseInfo
from .plane import Plane
from .serving import Serving

if TYPE_CHECKING:
    from .books import Books

__all__ = ["Tell", "Tunnel"]

_log = logging.getLogger(__name__)

_PROVIDER: Final = "synthtunnel"
_GIVEN_UP: Final = "LEASE_GIVEN_UP"
_MAX_INFLIGHT: Final = 1024
"""What is asked for; all workers of a run share it."""
_FIRST_PAUSE_S: Final = 0.2
_MAX_PAUSE_S: Final = 2.0

Tell = Callable[["Tunnel", str, str], None]
"""Takes a tunnel, the kind of an :class:`~.messages.Event`, and its message."""


class Tunnel:
    """A lease, its agent and its heartbeat.

    Args:
        plane: the backend.
        request: what is asked for.
        agent: a new one, which serves this lease alone.
        started: what must be done before a lease is asked for; if it fails, there is none.
        tell: takes what happens to the lease.
        books: where a hosted lease is written down; ``None`` for the embedded backend.
        now: unix seconds.

    Attributes:
        life: the lease's state.
        serving: its agent.
        lease_id: the backend's name for it; empty until it is made.
        public_url: where its callers come; empty until it is made.
        worker_token: what callers must send; ``None`` where the URL is enough.
    """

    def __init__(
        self,
        plane: Plane,
        request: LeaseRequest,
        agent: Agent,
        *,
        started: "asyncio.Future[None]",
        tell: Tell,
        books: "Books | None" = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.life = Life()
        self.serving = Serving(
            plane, agent, lambda reason: self._noticed(Notice(NoticeKind.LOST, reason))
        )
        self.lease_id = ""
        self.public_url = ""
        self.worker_token: str | None = None
        self._plane = plane
        self._request = request
        self._started = started
        self._tell = tell
        self._books = books
        self._now = now
        self._expires_at = ""
        self._failure: FailureError | None = None
        self._made = asyncio.Event()
        """Set once the backend has answered the create, with a lease or without."""
        self._opened = asyncio.Event()
        """Set once the lease is active or has failed."""
        self._heartbeat: Heartbeat | None = None
        self._opening = asyncio.create_task(self._open())
        self._release: asyncio.Task[None] | None = None
        self._release_error = "the backend did not answer in time"

    # --- opening

    async def refused(self) -> FailureError | None:
        """Wait for the outcome, and return why there can be no lease; ``None`` if there was one,
        or if nobody wanted it any more before that was known."""
        await self._opened.wait()
        finishing = self._failure is None or self._failure.failure.code == _GIVEN_UP
        return None if finishing else self._failure

    async def ready(self) -> None:
        """Wait until the lease is active.

        Raises:
            FailureError: it failed, or is over; the same cause for everybody who asks.
        """
        await self._opened.wait()
        if self._failure is not None:
            raise FailureError.of(self._failure.failure)
        if self.life.is_over:
            raise FailureError(
                "LEASE_OVER", f"lease {self.lease_id} is {self.life.state}: {self.life.reason}"
            )

    async def _open(self) -> None:
        try:
            await asyncio.shield(self._started)
            made = await self._create()
            await self.serving.attach(self.lease_id, self.public_url, made)
        except TunnelError as error:
            message = f"the backend{self._backend_name} gave no lease: {error.message}"
            self._fail(FailureError(error.code, message, error.hint))
        except FailureError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(FailureError(_GIVEN_UP, "the lease was given up"))
            raise
        except Exception as error:
            _log.exception("opening a lease failed")
            self._fail(FailureError("TUNNEL_INTERNAL", f"opening the lease failed: {error!r}"))
        else:
            if self.life.move(LeaseState.ACTIVE):
                self._watch(made)
        finally:
            self._made.set()
            self._opened.set()

    @property
    def _backend_name(self) -> str:
        return "" if self._plane.embedded else f" at {self._plane.url}"

    def _fail(self, error: FailureError) -> None:
        self._failure = error
        self.life.move(LeaseState.FAILED, error.failure.message)
        _log.warning("lease %s failed: %s", self.lease_id or "(none)", error.failure.message)

    async def _create(self) -> MadeLease:
        metadata = dict(self._request.metadata)
        if not self._request.require_token:
            metadata["require_token"] = False
        answer = await self._plane.call(
            requests.create_synth_lease(
                client_instance_id=self._plane.client_id(),
                local_host="127.0.0.1",
                local_port=self._request.port,
                requested_ttl_seconds=max(1, int(self._request.ttl_s)),
                metadata=metadata,
                capabilities={"max_inflight": _MAX_INFLIGHT},
            )
        )
        self.lease_id = str(answer.get("lease_id") or "")
        try:
            made = msgspec.convert(answer, MadeLease)
            expires_at = unix_s(made.expires_at)
        except (msgspec.ValidationError, ValueError) as error:
            raise FailureError(
                "TUNNEL_INTERNAL",
                f"the backend{self._backend_name} answered with a lease that cannot be used: "
                f"{error}",
                "Check that the URL is that of a Synth backend",
            ) from None
        if not self.lease_id:
            raise FailureError(
                "TUNNEL_INTERNAL", f"the backend{self._backend_name} gave a lease without an id"
            )
        if self._books is not None:
            await self._books.add(self.lease_id, _PROVIDER, expires_at)
        self._made.set()
        self.public_url = made.public_url.rstrip("/")
        self._expires_at = made.expires_at
        self.worker_token = made.worker_token if self._request.require_token else None
        # Not the URL: where callers need no token it is the only secret.
        _log.info("lease %s: made", self.lease_id)
        return made

    # --- watching

    def _watch(self, made: MadeLease) -> None:
        now = self._now()
        expires_at = unix_s(made.expires_at)
        loop = asyncio.get_running_loop()

        def tell(notice: Notice) -> None:
            with suppress(RuntimeError):  # the loop is closed: the keeper has ended
                loop.call_soon_threadsafe(self._noticed, notice)

        self._heartbeat = Heartbeat(
            self.lease_id,
            pulse=Pulse(
                ttl_s=max(1.0, expires_at - now),
                expires_at=expires_at,
                interval_s=max(1.0, made.heartbeat.recommended_interval_seconds),
                now=now,
            ),
            beat=self._beat,
            tell=tell,
            now=self._now,
        )
        self._heartbeat.start()

    def _beat(self) -> Beat:
        """Ask how the lease is. Runs in the heartbeat's thread."""
        try:
            answer = self._plane.call_from_thread(requests.get_synth_lease(self.lease_id))
        except TunnelError as error:
            if is_gone(error):
                return Beat(alive=False, reason=error.message)
            raise
        expired = answer.get("status") == "EXPIRED"
        return Beat(
            alive=not expired,
            reason="the backend says that it is over" if expired else self.serving.reason,
            attached=self.serving.connected and answer.get("connected", True) is not False,
        )

    def _noticed(self, notice: Notice) -> None:
        message = f"lease {self.lease_id}: {notice.message}"
        if notice.kind is NoticeKind.EXPIRING or notice.kind is NoticeKind.OFFLINE:
            if not self.life.is_over:
                self._tell(self, notice.kind.value, message)
            return
        expired = notice.kind is NoticeKind.EXPIRED
        if self.life.move(LeaseState.EXPIRED if expired else LeaseState.LOST, notice.message):
            verb = "has expired" if expired else "is lost"
            self._tell(self, "lost", f"lease {self.lease_id} {verb}: {notice.message}")

    # --- in use

    def url(self, address: str) -> str:
        """Return the public URL of an address."""
        return f"{self.public_url}/~{address}" if address else self.public_url

    def info(self, address: str) -> LeaseInfo:
        """Return what a test may know of the lease."""
        target = self.serving.target(address)
        return LeaseInfo(
            lease_id=self.lease_id,
            public_url=self.url(address),
            worker_token=self.worker_token,
            local_host=target.host,
            local_port=target.port,
            expires_at=self._expires_at,
            provider=_PROVIDER,
            backend=self._plane.url,
        )

    async def status(self) -> dict[str, Any]:
        """Return the backend's own words about the lease.

        Raises:
            TunnelError: it has none.
        """
        answer: dict[str, Any] = await self._plane.call(requests.get_synth_lease(self.lease_id))
        return answer

    async def refresh_token(self) -> None:
        """Rotate the worker token.

        Raises:
            TunnelError: the backend refused.
        """
        answer = await self._plane.call(requests.refresh_synth_worker_token(self.lease_id))
        if self._request.require_token:
            self.worker_token = answer.get("worker_token")

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
        if not self.lease_id or self.life.state is LeaseState.RELEASED:
            return None
        return self._release_error

    async def _release_within(self, timeout_s: float) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                # A create that is under way may still make a lease, and only its answer tells
                # which; what comes after it is not needed any more.
                await self._made.wait()
                self._opening.cancel()
                if self.lease_id:
                    await self._give_back()
        self._opening.cancel()
        await self.serving.close()

    async def _give_back(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._plane.call(release_request(_PROVIDER, self.lease_id))
                break
            except TunnelError as error:
                if is_gone(error):
                    break
                self._release_error = error.message
                _log.info("releasing lease %s failed: %s", self.lease_id, error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
        self.life.move(LeaseState.RELEASED, "released")
        _log.info("lease %s: released", self.lease_id)
        if self._books is not None:
            await self._books.remove(self.lease_id)
