"""The agent: takes requests off a link and brings them to the local app.

Theory of operation. An agent is *detached* or *attached*. Attached is what
:meth:`Agent.connected` makes it, once a relay has accepted its leases; :meth:`Agent.link_lost` and
:meth:`Agent.close` detach it. A link's end ends all that was in flight on it, so a detached agent
has no request and no WebSocket, and a new link begins with none. What is served
(:attr:`Agent.leases`) has nothing to do with the link and stays.

Every frame that comes off the link names a request or a WebSocket by ``rid``; frames for unknown
ones are late, and ignored. Requests are :class:`~.forwarded_request.ForwardedRequest`, WebSockets
:class:`~.websockets.AppWebSocket`; both use the link through the agent's
:class:`~.uplink.Uplink`, which lists them. Requests for paths below
:data:`.served_leases.OWN_PATH` are the tunnel's own and answered here.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from ..aio.deadlines import Deadlines
from ..compiled import mypyc_attr
from ..http.pool import PATIENCE_S
from ..http.refusal_log import log_refusal
from ..traffic.recorder import Recorder
from ..wire.flow_control import FairResume
from ..wire.frames import (
    MAX_CHUNK_BYTES,
    AgentCapabilities,
    Attach,
    CallerEof,
    Cancel,
    ConnClosed,
    Frame,
    FrameError,
    RelayCapabilities,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespError,
    Window,
    WsClose,
    WsFrame,
    WsOpen,
)
from ..wire.link import Link, LinkHandler
from .forwarded_request import ForwardedRequest
from .readiness import ReadinessProbes
from .served_leases import OWN_PATH, READY_PATH, ServedLease, ServedLeases, read_nonce
from .uplink import Uplink
from .url_rewriter import split_address

if TYPE_CHECKING:
    from .websockets import AppWebSockets

__all__ = ["Agent"]

_LOST_REASON: Final = "the tunnel's agent lost its relay"


@mypyc_attr(allow_interpreted_subclasses=True)  # for tests
class Agent(LinkHandler):
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
        recorder: records what passes; ``None`` to record nothing.
    """

    def __init__(
        self,
        *,
        agent_id: str | None = None,
        timeout_s: float = 3600.0,
        patience_s: float = PATIENCE_S,
        recorder: Recorder | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.agent_id = agent_id or f"agent-{uuid4().hex[:12]}"
        self.deadlines = Deadlines(loop)
        """Wakes up requests, WebSockets and idle connections that have waited too long."""
        self.leases = ServedLeases(patience_s, self._app_closed)
        """What it serves."""
        self.uplink = Uplink(loop, self.deadlines, recorder)
        """The agent's end of the link, and what is in flight on it."""
        self._timeout_s = timeout_s
        self._probes = ReadinessProbes(self.uplink)
        self._websockets: AppWebSockets | None = None
        """Made with the first WebSocket."""
        uplink = self.uplink
        self._requests = uplink.requests
        self._fair_resume = FairResume(
            loop, uplink.requests, uplink.websockets, lambda: uplink.link_paused
        )
        self._takes: dict[type[Any], Callable[[Any], None]] = {
            ReqHeaders: self._take_request,
            ReqBody: self._take_body,
            ReqEnd: self._take_end,
            Cancel: self._take_cancel,
            CallerEof: self._take_caller_eof,
            ConnClosed: self._take_conn_closed,
            Window: self._take_window,
            WsOpen: self._open_websocket,
            WsFrame: self._take_message,
            WsClose: self._take_close,
        }

    # --- for its owner

    @property
    def attached(self) -> bool:
        """Whether there is a link."""
        return self.uplink.attached

    @property
    def inflight(self) -> int:
        """The number of requests in flight."""
        return len(self._requests)

    def drop(self, lease_id: str) -> None:
        """Stop serving a lease; its requests in flight fail. Harmless if it is not served."""
        if self.leases.get(lease_id) is None:
            return
        for request in [r for r in self._requests.values() if r.lease.lease_id == lease_id]:
            request.abort("LEASE_NOT_SERVED", "the lease is over")
        for websocket in list(self.uplink.websockets.values()):
            if websocket.lease_id == lease_id:
                websocket.end(1001, "the lease is over")
        self.leases.drop(lease_id)

    async def close(self) -> None:
        """End everything: the link, the requests, the connections to the apps."""
        link = self.uplink.disconnect()
        self._end_inflight()
        if link is not None:
            link.close(1001, "the agent is closing")
        for lease in self.leases:
            self.drop(lease.lease_id)
        await self.leases.aclose()
        if self._websockets is not None:
            await self._websockets.aclose()
        self.deadlines.close()
        if self.uplink.recorder is not None:
            self.uplink.recorder.sources.discard(self.uplink.record_inflight)

    # --- the link

    def attach_frame(self) -> Attach:
        """Return the first frame: the leases served, and what this agent can do."""
        return Attach(
            [lease.attach() for lease in self.leases],
            agent_id=self.agent_id,
            capabilities=AgentCapabilities(
                streaming=True,
                max_inflight=max((lease.max_inflight for lease in self.leases), default=None),
                max_body_chunk_bytes=MAX_CHUNK_BYTES,
                supports_cancel=True,
                websocket=True,
                flow_control=True,
                whole_messages=True,
                exact_http=True,
                caller_connections=True,
            ),
        )

    def connected(self, link: Link, capabilities: RelayCapabilities) -> None:
        """Begin to serve over a link whose relay has accepted the leases.

        Args:
            link: its handler is this agent.
            capabilities: what ``ATTACH_ACK`` announced.
        """
        self._end_inflight()
        self.uplink.connect(link, capabilities)

    def link_lost(self, reason: str) -> None:
        """Forget the link and whatever was in flight on it."""
        self.uplink.disconnect()
        self._end_inflight()

    def frame_received(self, frame: Frame) -> None:
        """Take a frame; what an agent does not understand it ignores."""
        take = self._takes.get(type(frame))
        if take is not None:
            take(frame)

    def frame_failed(self, error: FrameError) -> None:
        """Fail the request or WebSocket that a malformed frame names."""
        log_refusal(400, "BAD_FRAME", "a frame of the relay")
        rid = error.rid
        if rid is None:
            return
        if (request := self._requests.get(rid)) is not None:
            request.abort("BAD_REQUEST_FRAME", str(error))
        elif (websocket := self.uplink.websockets.get(rid)) is not None:
            websocket.end(1002, str(error))
        else:
            self.uplink.send(RespError(rid, "BAD_REQUEST_FRAME", str(error)))

    def pause_writing(self) -> None:
        """Let all apps wait, because the link is full."""
        self.uplink.link_paused = True
        self._fair_resume.pause()

    def resume_writing(self) -> None:
        """Let the apps go on after :meth:`pause_writing`."""
        self.uplink.link_paused = False
        self._fair_resume.resume()

    # --- requests

    def _may_travel(self, frame: ReqHeaders | WsOpen) -> bool:
        """Tell whether the target of a relay without ``exact_http`` may go to the app as it is; if
        not, fail the request."""
        if frame.path.isascii() and frame.query.isascii():
            return True
        self.frame_failed(FrameError("path or query cannot travel in a request line", frame.rid))
        return False

    def _take_request(self, frame: ReqHeaders) -> None:
        rid, lease_id = frame.rid, frame.lease_id
        lease = self.leases.get(lease_id)
        if lease is None:
            self._refuse(frame, 502, "LEASE_NOT_SERVED", "this agent does not serve the lease")
            return
        if rid in self._requests:
            self._requests[rid].abort("BAD_REQUEST_FRAME", "two requests with the same rid")
            return
        if not (self.uplink.exact_http or self._may_travel(frame)):
            return
        if lease.inflight >= lease.max_inflight:
            message = f"{lease.inflight} requests are in flight, which is the lease's limit"
            self._refuse(frame, 429, "TOO_MANY_IN_FLIGHT_REQUESTS", message)
            return
        path = frame.path
        if OWN_PATH in path and self._answer_itself(frame, lease):
            return
        found = lease.resolve(path)
        if found is None:
            head_only = frame.method == "HEAD"
            message = lease.explain(path)
            self._record_refusal(frame, 404, "UNKNOWN_ADDRESS", message)
            self.uplink.respond_error(
                rid, lease_id, 404, "UNKNOWN_ADDRESS", message, head_only=head_only
            )
            return
        rewriter, pool, path = found
        timeout_s = frame.deadline_ms / 1000
        if not 0 < timeout_s < self._timeout_s:
            timeout_s = self._timeout_s
        request = ForwardedRequest(self.uplink, frame, lease, rewriter, pool, path, timeout_s)
        self.uplink.add(request, self.uplink.now() + timeout_s)
        if frame.end:
            request.whole(frame.body)
        elif request.waits_for_body:
            self.uplink.hold(request)

    def _refuse(self, frame: ReqHeaders, status: int, code: str, message: str) -> None:
        """Report a request as failed; the relay answers it, with the status."""
        self._record_refusal(frame, status, code, message)
        self.uplink.send(RespError(frame.rid, code, message, frame.lease_id))

    def _record_refusal(self, frame: ReqHeaders, status: int, code: str, message: str) -> None:
        recorder = self.uplink.recorder
        if recorder is not None:
            recorder.refuse(
                frame.lease_id,
                frame.method,
                frame.path,
                frame.query,
                frame.headers,
                status=status,
                code=code,
                message=message,
            )

    def _answer_itself(self, frame: ReqHeaders, lease: ServedLease) -> bool:
        """Answer what is asked of the tunnel and not of the app; return whether it was that."""
        address, path = split_address(frame.path.removesuffix("?"))
        if address and address not in lease.destinations:
            return False
        if path == READY_PATH:
            self._probes.answer(frame, lease.ready_targets(address))
            return True
        nonce = read_nonce(path)
        if nonce:
            headers = [("Content-Type", "text/plain"), ("X-Synth-Tunnels-Agent", self.agent_id)]
            body = b"" if frame.method == "HEAD" else nonce
            self.uplink.respond(frame.rid, frame.lease_id, 200, headers, body)
        return bool(nonce)

    def _take_body(self, frame: ReqBody) -> None:
        request = self._requests.get(frame.rid)
        if request is not None:
            request.body(frame.chunk)

    def _take_end(self, frame: ReqEnd) -> None:
        request = self._requests.get(frame.rid)
        if request is not None:
            request.end(frame.trailers or [])

    def _take_cancel(self, frame: Cancel) -> None:
        request = self._requests.get(frame.rid)
        if request is not None:
            request.cancel()

    def _take_caller_eof(self, frame: CallerEof) -> None:
        request = self._requests.get(frame.rid)
        if request is not None:
            request.caller_ended()

    def _take_conn_closed(self, frame: ConnClosed) -> None:
        for pool in self.leases.pools:
            pool.end_caller(frame.conn)

    def _take_window(self, frame: Window) -> None:
        request = self._requests.get(frame.rid)
        if request is not None:
            if frame.credit_bytes > 0:
                request.window(frame.credit_bytes)
        elif (websocket := self.uplink.websockets.get(frame.rid)) is not None:
            websocket.credit(frame.credit_bytes)

    # --- WebSockets

    def _open_websocket(self, frame: WsOpen) -> None:
        if not (self.uplink.exact_http or self._may_travel(frame)):
            return
        if self._websockets is None:
            # Most runs have no WebSocket, and never need the library.
            from .websockets import AppWebSockets

            self._websockets = AppWebSockets(self.uplink, self.leases, self._timeout_s)
        self._websockets.open(frame)

    def _take_message(self, frame: WsFrame) -> None:
        websocket = self.uplink.websockets.get(frame.rid)
        if websocket is not None:
            websocket.message(frame)

    def _take_close(self, frame: WsClose) -> None:
        websocket = self.uplink.websockets.get(frame.rid)
        if websocket is not None:
            websocket.end(frame.code, frame.reason, tell=False)

    # --- inside

    def _app_closed(self, caller: str) -> None:
        """Tell the relay that an app has closed a connection, if it was the last one that was tied
        to that caller."""
        if self.uplink.caller_connections and not any(
            pool.holds(caller) for pool in self.leases.pools
        ):
            self.uplink.send(ConnClosed(caller))

    def _end_inflight(self) -> None:
        """End all that was in flight on the link, which is gone."""
        for request in list(self._requests.values()):
            request.cancel()
        for pool in self.leases.pools:
            pool.end_callers()
        self._probes.cancel()
        for websocket in list(self.uplink.websockets.values()):
            websocket.end(1012, _LOST_REASON, tell=False)
