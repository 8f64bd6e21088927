"""Keeps an agent attached to a relay by WebSocket for as long as its lease lives.

Theory of operation. From :meth:`Dialer.start` on one task goes through these states, again and
again: *dialling* (:func:`connect`), *attaching* (:class:`_AttachHandler` has the link until the
relay has accepted the leases), *attached* (the agent is the link's handler), and *waiting* before
the next attempt. A failure in any of the first three leads to waiting, whose pauses grow until an
attempt has succeeded; :meth:`Dialer.update` and the end of a sleep of this machine cut a pause
short. Two things end the task: :meth:`Dialer.close`, and a failure that trying again cannot help,
which is told once. There is never more than one link that is not being closed.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ..aio.backoff import Backoff
from ..aio.suspend import SuspendDetector
from ..wire.frames import AttachAck, Frame, FrameError
from ..wire.handshake import HandshakeError, client_protocol, read_url
from ..wire.link import LinkHandler
from ..wire.websocket_link import WebSocketLink
from .agent import Agent

__all__ = ["Dialer", "connect"]

_TIMEOUT_S: Final = 10.0
"""For the connection, and then again for ``ATTACH_ACK``."""

_CLOSE_TIMEOUT_S = 0.5
"""How long the relay may take to close too, in seconds; nobody waits for longer."""


async def connect(
    url: str, *, token: str, handler: LinkHandler, timeout_s: float = 10.0
) -> WebSocketLink:
    """Dial a relay.

    Args:
        url: ``ws://`` (to this machine only) or ``wss://``.
        token: sent as ``Authorization: Bearer``.
        handler: takes what arrives.
        timeout_s: for connection and handshake together, in seconds.

    Returns:
        The open link.

    Raises:
        HandshakeError: the other end answered something else than 101.
        OSError: no connection (``TimeoutError`` is one).
        ValueError: ``url`` is no WebSocket URL, or a token for it would travel in clear text.
    """
    uri = read_url(url)
    link = WebSocketLink(client_protocol(uri, token), handler)
    tls = ssl.create_default_context() if uri.secure else None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            await loop.create_connection(lambda: link, uri.host, uri.port, ssl=tls)
            await link.opened
    except TimeoutError:
        link.abort()
        raise TimeoutError(f"no WebSocket handshake within {timeout_s:g} s") from None
    except BaseException:
        link.abort()
        raise
    return link


class _FatalError(Exception):
    """Trying again cannot help."""


class Dialer:
    """Attaches an agent, and attaches it again whenever the link is lost.

    Args:
        agent: what to attach. It must serve its leases already.
        url: ``agent_connect.url`` of the lease.
        token: ``agent_connect.agent_token``.
        on_change: called with true once attached, and with false and the reason when that ends or
            does not come about; the same news is told once.
        on_fatal: called with the reason when trying again cannot help; ``on_change`` was told.
        backoff_s: the shortest and the longest pause between attempts, in seconds; half of each
            pause is left to chance.
        timeout_s: for the connection, and again for the relay's acknowledgement, in seconds.
        uniform: draws a number between two others.
        now: unix seconds, which go on while this machine sleeps.
    """

    def __init__(
        self,
        agent: Agent,
        url: str,
        token: str,
        *,
        on_change: Callable[[bool, str], None],
        on_fatal: Callable[[str], None] | None = None,
        backoff_s: tuple[float, float] = (0.25, 5.0),
        timeout_s: float = _TIMEOUT_S,
        uniform: Callable[[float, float], float] = random.uniform,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._agent = agent
        self._url = url
        self._token = token
        self._on_change = on_change
        self._on_fatal = on_fatal
        shortest_s, longest_s = backoff_s
        self._backoff = Backoff(2 * shortest_s, longest_s, spread=0.5, uniform=uniform)
        self._timeout_s = timeout_s
        self._link: WebSocketLink | None = None
        self._open: set[WebSocketLink] = set()
        """The links that have a connection, also those that are being closed."""
        self._told: tuple[bool, str] | None = None
        """What ``on_change`` was called with last."""
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        """Set when there is a reason not to wait for the next attempt."""
        self._suspend = SuspendDetector(asyncio.get_running_loop(), self._woke, now=now)

    async def start(self) -> None:
        """Begin to dial, without waiting for the outcome."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._suspend.start()

    def update(self, url: str, token: str) -> None:
        """Use another URL and token, from the next attempt on, which comes at once."""
        self._url, self._token = url, token
        self._hurry.set()

    async def close(self) -> None:
        """Detach, stop dialling, and wait for the connections to end. Nothing is told."""
        self._suspend.stop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        link, self._link = self._link, None
        if link is not None:
            link.close(1000, "the agent is leaving")
            self._agent.link_lost("closed from this end")
        await self._wait_for_closes()

    async def _wait_for_closes(self) -> None:
        """Wait for the relay to close too, but not for long."""
        ends = [link.closed for link in self._open]
        if not ends:
            return
        try:
            await asyncio.wait(ends, timeout=_CLOSE_TIMEOUT_S)
        finally:
            for link in self._open:
                link.abort()
        await asyncio.wait(ends)

    async def _run(self) -> None:
        while True:
            self._hurry.clear()
            try:
                self._link = await self._attach()
                self._backoff.reset()
                self._tell(True, "")
                reason = await self._link.gone
            except (HandshakeError, OSError) as error:
                reason = str(error) or type(error).__name__
            except (_FatalError, ValueError) as error:
                self._suspend.stop()
                self._tell(False, str(error))
                if self._on_fatal is not None:
                    self._on_fatal(str(error))
                return
            self._link = None
            self._tell(False, reason)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._backoff.next_s()):
                    await self._hurry.wait()

    async def _attach(self) -> WebSocketLink:
        """Return a link over which the relay has accepted the agent's leases."""
        attaching = _AttachHandler(self._agent)
        link = await connect(
            self._url, token=self._token, handler=attaching, timeout_s=self._timeout_s
        )
        self._open.add(link)
        link.closed.add_done_callback(lambda _: self._open.discard(link))
        try:
            attaching.begin(link)
            async with asyncio.timeout(self._timeout_s):
                await attaching.accepted
        except TimeoutError:
            link.close(1002, "no ATTACH_ACK")
            raise TimeoutError(
                f"the relay sent no ATTACH_ACK within {self._timeout_s:g} s"
            ) from None
        except BaseException:
            link.close(1000)
            raise
        return link

    def _woke(self, lost_s: float) -> None:
        """Ask the link whether it is still there, or try at once to have one."""
        if self._link is not None:
            self._link.probe()
        else:
            self._hurry.set()

    def _tell(self, attached: bool, reason: str) -> None:
        if self._told != (attached, reason):
            self._told = attached, reason
            self._on_change(attached, reason)


class _AttachHandler:
    """Takes what arrives until the relay has accepted the agent (a
    :class:`~..wire.link.LinkHandler`)."""

    def __init__(self, agent: Agent) -> None:
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._agent = agent
        self._link: WebSocketLink | None = None
        self._attach = agent.attach_frame()

    def begin(self, link: WebSocketLink) -> None:
        """Offer the leases."""
        if link.gone.done():
            raise ConnectionResetError(link.gone.result())
        self._link = link
        link.send(self._attach)

    def frame_received(self, frame: Frame) -> None:
        """Wait for the acknowledgement; requests may follow it in the same read."""
        if not isinstance(frame, AttachAck) or self._link is None or self.accepted.done():
            return
        accepted = set(frame.accepted_leases)
        missing = [x.lease_id for x in self._attach.leases if x.lease_id not in accepted]
        if missing:
            self.accepted.set_exception(
                _FatalError(f"the relay does not take this agent for lease {', '.join(missing)}")
            )
            return
        self._link.handler = self._agent
        self._agent.connected(self._link, frame.capabilities)
        self.accepted.set_result(None)

    def frame_failed(self, error: FrameError) -> None:
        """Take a malformed acknowledgement for none: the time limit ends the attempt."""

    def link_lost(self, reason: str) -> None:
        """End the attempt."""
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionResetError(reason))

    def pause_writing(self) -> None:
        """Nothing is being written yet."""

    def resume_writing(self) -> None:
        """Nothing waits."""
