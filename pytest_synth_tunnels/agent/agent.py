"""The agent: takes requests off a link and brings them to the local app."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from ..aio.deadlines import Deadlines
from ..http.refusal_log import log_refusal
from ..wire.flow_control import FairResume
from ..wire.frames import (
    MAX_CHUNK_BYTES,
    AgentCapabilities,
    Attach,
    Cancel,
    Frame,
    FrameError,
    Headers,
    RelayCapabilities,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
    WsClose,
    WsFrame,
    WsOpen,
)
from ..wire.link import Link
from .app_answer import answer
from .directory import Directory
from .forwarded_request import STALL_S, ForwardedRequest
from .readiness import Probes
from .served_leases import OWN_PATH, READY_PATH, ServedLease, read_nonce
from .target import Target, split_address
from .websocket_table import AppWebSockets

__all__ = ["Agent", "Target"]


class Agent(Directory):
    """Serves leases over one link (a :class:`~..wire.link.LinkHandler`), with their own targets
    only.

    A relay takes one attachment for each agent token, and a token belongs to one lease: leases
    with tokens of their own have an agent each.

    Args:
        agent_id: what it calls itself; a random name unless given.
        timeout_s: the longest wait for the beginning of an app's answer, in seconds, where the
            relay sets no shorter one.
        patience_s: how long a refused connection is tried again while the app has never accepted
            one, in seconds.
    """

    def __init__(
        self,
        *,
        agent_id: str | None = None,
        timeout_s: float = 3600.0,
        patience_s: float = 5.0,
    ) -> None:
        self.agent_id = agent_id or f"agent-{uuid4().hex[:12]}"
        self.flow_control = False
        """The relay knows windows."""
        self.whole_messages = False
        """The relay takes a whole response in one frame."""
        self.link_paused = False
        """The link takes no bodies now."""
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        super().__init__(Deadlines(self._loop), patience_s)
        self.now: Callable[[], float] = self._loop.time
        """The loop's time."""
        self._link: Link | None = None
        self._forwards: dict[str, ForwardedRequest] = {}
        """What is under way, by rid."""
        self._held: list[ForwardedRequest] = []
        """Requests that wait until the end of this tick for more of themselves."""
        self._stalled: set[ForwardedRequest] = set()
        """Requests for which the link waits."""
        self._probes = Probes(self)
        self._websockets = AppWebSockets(self, self._leases, timeout_s)
        under_way = self._websockets.under_way
        self._turns = FairResume(self._loop, self._forwards, under_way, lambda: self.link_paused)
        self._takes: dict[type[Any], Callable[[Any], None]] = {
            ReqHeaders: self._request,
            ReqBody: self._body,
            ReqEnd: self._end,
            Cancel: self._cancel,
            Window: self._window,
            WsOpen: self._websockets.open,
            WsFrame: self._websockets.message,
            WsClose: self._websockets.close,
        }

    # --- what is served

    def drop(self, lease_id: str) -> None:
        """Stop serving a lease; its requests under way fail."""
        if lease_id in self._leases:
            for forward in [f for f in self._forwards.values() if f.lease_id == lease_id]:
                forward.abort("LEASE_NOT_SERVED", "the lease is over")
            self._websockets.drop(lease_id)
            super().drop(lease_id)

    # --- the link

    @property
    def attached(self) -> bool:
        """Whether a link is there."""
        return self._link is not None

    @property
    def inflight(self) -> int:
        """Requests under way."""
        return len(self._forwards)

    def attach_frame(self) -> Attach:
        """Return the first frame: the leases served, and what this agent can do."""
        leases = [lease.attach() for lease in self._leases.values()]
        return Attach(
            leases,
            agent_id=self.agent_id,
            capabilities=AgentCapabilities(
                streaming=True,
                max_inflight=max((x.max_inflight for x in self._leases.values()), default=None),
                max_body_chunk_bytes=MAX_CHUNK_BYTES,
                supports_cancel=True,
                websocket=True,
                flow_control=True,
                whole_messages=True,
            ),
        )

    def connected(self, link: Link, capabilities: RelayCapabilities) -> None:
        """Begin to serve over a link whose relay has accepted the leases.

        Args:
            link: its handler is this agent.
            capabilities: what ``ATTACH_ACK`` announced.
        """
        self._forget_all()
        self._link = link
        self.flow_control = capabilities.flow_control
        self.whole_messages = capabilities.whole_messages
        self.link_paused = False

    def link_lost(self, reason: str) -> None:
        """Forget the link and whatever was under way on it."""
        self._link = None
        self.link_paused = False
        self._forget_all()

    async def close(self) -> None:
        """End everything: the link, the requests, the connections to the apps."""
        link, self._link = self._link, None
        self._forget_all()
        if link is not None:
            link.close(1001, "the agent is closing")
        for lease_id in list(self._leases):
            self.drop(lease_id)
        await self._close_origins()
        await self._websockets.aclose()
        self.deadlines.close()

    def frame_received(self, frame: Frame) -> None:
        """Take a frame; what an agent does not understand it ignores."""
        take = self._takes.get(type(frame))
        if take is not None:
            take(frame)

    def frame_failed(self, error: FrameError) -> None:
        """Fail the request that the frame names."""
        log_refusal(400, "BAD_FRAME", "a frame of the relay")
        if error.rid is None:
            return
        forward = self._forwards.get(error.rid)
        websocket = self._websockets.get(error.rid)
        if forward is not None:
            forward.abort("BAD_REQUEST_FRAME", str(error))
        elif websocket is not None:
            websocket.end(1002, str(error))
        else:
            self.send(RespError(error.rid, "BAD_REQUEST_FRAME", str(error)))

    def pause_writing(self) -> None:
        """Let all apps wait."""
        self.link_paused = True
        self._turns.pause()

    def resume_writing(self) -> None:
        """Go on after :meth:`pause_writing`."""
        self.link_paused = False
        self._turns.resume()

    # --- frames

    def _request(self, frame: ReqHeaders) -> None:
        rid, lease_id = frame.rid, frame.lease_id
        lease = self._leases.get(lease_id)
        if lease is None:
            self._refuse(rid, lease_id, "LEASE_NOT_SERVED", "this agent does not serve the lease")
            return
        if rid in self._forwards:
            self._forwards[rid].abort("BAD_REQUEST_FRAME", "two requests with the same rid")
            return
        if lease.inflight >= lease.max_inflight:
            message = f"{lease.inflight} requests are under way, which is the lease's limit"
            self._refuse(rid, lease_id, "TOO_MANY_IN_FLIGHT_REQUESTS", message)
            return
        if OWN_PATH in frame.path and self._answer_itself(frame, lease):
            return
        found = lease.resolve(frame.path)
        if found is None:
            head_only = frame.method == "HEAD"
            message = lease.explain(frame.path)
            answer(self, rid, lease_id, 404, "UNKNOWN_ADDRESS", message, head_only)
            return
        mount, origin, path = found
        timeout_s = self._timeout_s
        if frame.deadline_ms > 0:
            timeout_s = min(timeout_s, frame.deadline_ms / 1000)
        forward = ForwardedRequest(self, frame, mount, origin, path, timeout_s)
        self._forwards[rid] = forward
        lease.inflight += 1
        self.deadlines.set(forward, self.now() + timeout_s)
        if frame.end:
            forward.whole(frame.body)
        elif forward.waits_for_body:
            self.hold(forward)

    def _answer_itself(self, frame: ReqHeaders, lease: ServedLease) -> bool:
        """Answer what is asked of the tunnel and not of the app; return whether it was that."""
        address, path = split_address(frame.path)
        if address and address not in lease.mounts:
            return False
        if path == READY_PATH:
            self._probes.ask(frame, lease.ready_targets(address))
            return True
        nonce = read_nonce(path)
        if nonce:
            headers = [("Content-Type", "text/plain"), ("X-Synth-Tunnels-Agent", self.agent_id)]
            body = b"" if frame.method == "HEAD" else nonce
            self.respond(frame.rid, frame.lease_id, 200, headers, body)
        return bool(nonce)

    def _body(self, frame: ReqBody) -> None:
        forward = self._forwards.get(frame.rid)
        if forward is not None:
            forward.body(frame.chunk)

    def _end(self, frame: ReqEnd) -> None:
        forward = self._forwards.get(frame.rid)
        if forward is not None:
            forward.end()

    def _cancel(self, frame: Cancel) -> None:
        forward = self._forwards.get(frame.rid)
        if forward is not None:
            forward.cancel()

    def _window(self, frame: Window) -> None:
        forward = self._forwards.get(frame.rid)
        if forward is not None:
            if frame.credit_bytes > 0:
                forward.window(frame.credit_bytes)
        elif (websocket := self._websockets.get(frame.rid)) is not None:
            websocket.credit(frame.credit_bytes)

    # --- for the requests

    def send(self, frame: Frame, *, at_once: bool = False) -> None:
        """Send a frame, if there is a link (see :meth:`..wire.link.Link.send`)."""
        if self._link is not None:
            self._link.send(frame, at_once=at_once)

    def respond(self, rid: str, lease_id: str, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response of the agent's own."""
        if self.whole_messages:
            self.send(RespHeaders(rid, status, headers, lease_id, body, end=True))
            return
        self.send(RespHeaders(rid, status, headers, lease_id))
        if body:
            self.send(RespBody(rid, body, lease_id=lease_id))
        self.send(RespEnd(rid, lease_id))

    def hold(self, forward: ForwardedRequest) -> None:
        """Start a request at the end of this tick, unless it is complete before."""
        if not self._held:
            self._loop.call_soon(self._release)
        self._held.append(forward)

    def stall(self, forward: ForwardedRequest) -> None:
        """Let the link wait for a slow app, for a while."""
        if not self._stalled and self._link is not None:
            self._link.pause_reading()
        self._stalled.add(forward)
        self.deadlines.set(forward, self.now() + STALL_S)

    def unstall(self, forward: ForwardedRequest) -> None:
        """Go on after :meth:`stall`."""
        self._stalled.discard(forward)
        if not self._stalled and self._link is not None:
            self._link.resume_reading()

    def forget(self, forward: ForwardedRequest) -> None:
        """Count a request as over. Harmless if it is over already."""
        if self._forwards.get(forward.rid) is forward:
            del self._forwards[forward.rid]
            self.deadlines.forget(forward)
            lease = self._leases.get(forward.lease_id)
            if lease is not None:
                lease.inflight -= 1

    # --- inside

    def _refuse(self, rid: str, lease_id: str, code: str, message: str) -> None:
        self.send(RespError(rid, code, message, lease_id))

    def _release(self) -> None:
        """Start what was held back in this tick."""
        held, self._held = self._held, []
        for forward in held:
            if not forward.started and self._forwards.get(forward.rid) is forward:
                forward.start()

    def _forget_all(self) -> None:
        for forward in list(self._forwards.values()):
            forward.cancel()
        self._probes.cancel()
        self._websockets.lose()
        self._stalled.clear()
