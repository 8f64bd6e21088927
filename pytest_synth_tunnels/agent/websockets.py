"""The agent's end of WebSockets: the connections to the local apps.

Theory of operation. An :class:`AppWebSocket` is *opening* until the app has answered its
handshake, then *open* (``opened``), and *over* once the link knows it no more, which may come
first. While it is opening it waits for a connection, always a new one; then it writes the
handshake and reads the app's answer: a 101 opens it, any other answer is passed on as the app's
own refusal, and no answer within the time limit is a 504. From then on it is a
:class:`~..websocket.tunnelled.TunnelledWebSocket`, whose module says how messages and closes
travel.

What always holds: it is listed in :attr:`.uplink.Uplink.websockets`, and counts against its
lease's limit, exactly until it is over; it is in :attr:`AppWebSockets.ends` exactly as long as it
has a connection, which may outlive that.
"""

import asyncio
from typing import Final

from ..http.client_connection import ClientConnection, OriginError
from ..http.errors import error_response
from ..http.headers import Headers
from ..http.pool import ConnectionPool
from ..http.refusal_log import log_refusal
from ..traffic.recorder import RecordedRequest
from ..websocket.tunnelled import TunnelledWebSocket
from ..websocket.upgrade import (
    AnswerError,
    app_protocol,
    check_answer,
    request_headers,
    upgrade_lines,
    without_framing,
)
from ..wire.frames import (
    MAX_WS_MESSAGE_BYTES,
    Frame,
    ReqHeaders,
    WsFrame,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
)
from .served_leases import ServedLease, ServedLeases
from .uplink import Uplink
from .url_rewriter import UrlRewriter

__all__ = ["AppWebSocket", "AppWebSockets"]

_MAX_OPEN: Final = 64
"""How many WebSockets a lease may have, which is what relays allow."""

_MAX_BODY_BYTES = 1024 * 1024
"""How long an app's refusal may be, which travels in one frame."""

_UNREACHABLE: Final = "TUNNEL_ENDPOINT_UNREACHABLE"


class AppWebSockets:
    """Opens WebSockets to the apps of an agent's leases.

    Args:
        uplink: the link that they come by.
        leases: what the agent serves.
        timeout_s: for an app to answer, in seconds, where the relay sets no shorter time.
    """

    def __init__(self, uplink: Uplink, leases: ServedLeases, timeout_s: float) -> None:
        self.uplink = uplink
        """The link that they come by."""
        self.ends: set[TunnelledWebSocket] = set()
        """Those that have a connection, closing ones included."""
        self._leases = leases
        self._timeout_s = timeout_s

    def open(self, frame: WsOpen) -> None:
        """Open a WebSocket, or refuse it."""
        rid, lease_id = frame.rid, frame.lease_id
        if not lease_id and len(self._leases) == 1:
            (lease_id,) = (lease.lease_id for lease in self._leases)  # not every relay says it
        lease = self._leases.get(lease_id)
        if rid in self.uplink.websockets:
            self.uplink.websockets[rid].end(1002, "two WebSockets with the same rid")
        elif lease is None:
            message = "this agent does not serve the lease"
            self.refuse(rid, lease_id, 502, "LEASE_NOT_SERVED", message)
        elif (found := lease.resolve(frame.path)) is None:
            self.refuse(rid, lease_id, 404, "UNKNOWN_ADDRESS", lease.explain(frame.path))
        elif lease.websockets >= _MAX_OPEN:
            message = f"{lease.websockets} WebSockets are open, which is the lease's limit"
            self.refuse(rid, lease_id, 503, "TUNNEL_CAPACITY_EXCEEDED", message)
        else:
            rewriter, pool, path = found
            timeout_s = self._timeout_s
            if frame.deadline_ms > 0:
                timeout_s = min(timeout_s, frame.deadline_ms / 1000)
            opening = AppWebSocket(self, frame, lease, rewriter, pool, path, timeout_s)
            self.uplink.websockets[rid] = opening
            opening.begin()

    def refuse(self, rid: str, lease_id: str, status: int, code: str, message: str) -> None:
        """Answer an upgrade with an error of the agent's own."""
        log_refusal(status, code, rid)
        _, headers, body = error_response(status, code, message, rid)
        self.uplink.send(WsOpenReject(rid, status, headers, body, lease_id))

    def forget(self, ended: "AppWebSocket") -> None:
        """List a WebSocket as one that the link knows no more."""
        self.uplink.websockets.pop(ended.rid, None)

    async def aclose(self) -> None:
        """End the connections that are still closing."""
        for end in list(self.ends):
            end.abort()
        await asyncio.sleep(0)  # The transports tell of their end in the next tick.


class AppWebSocket(TunnelledWebSocket):
    """One WebSocket to the app (a :class:`~..http.client_connection.UpgradeHandler`).

    Args:
        owner: opened it, and is told of its end.
        frame: what the relay asked for.
        lease: the lease that it came for, among whose WebSockets it counts from now on.
        rewriter: the target that it goes to.
        pool: the connections to that target.
        path: the path as the app sees it.
        timeout_s: for the app to accept it, in seconds.
    """

    peer_gone = "the app's connection was lost"

    def __init__(
        self,
        owner: AppWebSockets,
        frame: WsOpen,
        lease: ServedLease,
        rewriter: UrlRewriter,
        pool: ConnectionPool,
        path: str,
        timeout_s: float,
    ) -> None:
        uplink = owner.uplink
        headers = request_headers(frame.headers)
        protocol = app_protocol(headers, MAX_WS_MESSAGE_BYTES)
        super().__init__(
            frame.rid,
            lease.lease_id,
            protocol,
            loop=uplink.loop,
            deadlines=uplink.deadlines,
            ends=owner.ends,
            max_message_bytes=MAX_WS_MESSAGE_BYTES,
        )
        self._use(flow_control=uplink.flow_control, link_paused=uplink.link_paused)
        request = ReqHeaders(self.lease_id, self.rid, "GET", path, frame.query, headers, 0)
        head, _ = rewriter.request_head(request, path)
        self._head = f"{head}{upgrade_lines(protocol)}".encode("latin-1")
        self._client = protocol
        self._owner = owner
        self._uplink = uplink
        self._lease = lease
        self._rewriter = rewriter
        self._pool = pool
        self._path = path
        self._timeout_s = timeout_s
        self._connection: ClientConnection | None = None
        """Set while the app has not answered the handshake."""
        self._status = 0
        self._reason: str | None = None
        self._headers: Headers = []
        self._body = bytearray()
        """What the app answers, where it refuses."""
        self._recorded: RecordedRequest | None = None
        """The WebSocket's record, if traffic is recorded."""
        if uplink.recorder is not None:
            now_s = uplink.recorder.now()
            self._recorded = uplink.recorder.begin(rewriter.recorded_app, head, now_s)
            self._recorded.websocket = self._recorded.ended = True
        lease.websockets += 1

    def begin(self) -> None:
        """Ask for a connection."""
        self._deadlines.set(self, self._loop.time() + self._timeout_s)
        self._pool.acquire(self)

    def abort(self) -> None:
        """End it without a word to the app, or do not begin."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        else:
            self._pool.cancel(self)
        super().abort()

    # --- the app's answer to the handshake

    def connected(self, connection: ClientConnection) -> None:
        """Send the handshake."""
        self._connection = connection
        if self._recorded is not None:
            self._recorded.reach()
        connection.begin_upgrade(self, self._head)

    def failed(self, error: OriginError) -> None:
        """Tell the caller that the app cannot be reached, or gave no answer."""
        self._connection = None
        self._refuse(502, _UNREACHABLE, str(error))

    def response_upgraded(
        self, headers: Headers, transport: asyncio.Transport, received: bytes
    ) -> None:
        """Open it, because the app has agreed."""
        self._connection = None
        try:
            headers = check_answer(self._client, headers)
        except AnswerError as error:
            transport.abort()
            self._refuse_bad(str(error))
            return
        self._deadlines.forget(self)
        self.opened = True
        headers = self._rewriter.response_headers(headers, self._path)
        if self._recorded is not None:
            self._recorded.opened(101, headers)
        self._send(WsOpenAck(self.rid, headers, self.lease_id))
        self.adopt(transport, received)

    def response_interim(self, status: int, headers: Headers) -> None:
        """Wait for the answer itself: callers expect none before it in a handshake."""

    def response_started(
        self, status: int, reason: str | None, headers: Headers, located: bool
    ) -> None:
        """Take the beginning of the app's refusal."""
        self._status = status
        self._reason = reason if self._uplink.exact_http else None
        self._headers = self._rewriter.response_headers(without_framing(headers), self._path)

    def response_body(self, data: bytes) -> None:
        """Take a piece of the refusal's body, which travels in one frame."""
        self._body += data
        if len(self._body) > _MAX_BODY_BYTES:
            size = f"{_MAX_BODY_BYTES >> 20} MiB"
            self._refuse_bad(f"it answered {self._status} to the upgrade with more than {size}")

    def response_paused(self) -> None:
        """Wait for the rest of the refusal."""

    def response_ended(self, trailers: Headers) -> None:
        """Pass the app's refusal on."""
        self._connection = None
        body = bytes(self._body)
        if self._recorded is not None and not self.over:
            self._recorded.response_started(self._status, self._headers)
            self._recorded.response_body(body)
            self._recorded.response_ended()
        if self._leave():
            self._send(
                WsOpenReject(
                    self.rid,
                    self._status,
                    self._headers,
                    body,
                    self.lease_id,
                    self._reason,
                )
            )

    def request_refused(self) -> None:
        """Do nothing: a handshake is complete before it is answered."""

    # --- the relay

    def message(self, frame: WsFrame) -> None:
        """Take a message from the caller, or a piece of one."""
        if self._recorded is not None:
            self._record_message("caller", self._recorded, frame)
        super().message(frame)

    def end(self, code: int | None, reason: str, *, tell: bool = True) -> None:
        """Close in the middle."""
        super().end(code, reason, tell=tell)
        if not self.opened:
            self.abort()

    # --- the clock

    def expire(self) -> None:
        """Give up waiting for the app."""
        if self.opened:
            super().expire()
        else:
            name, seconds = self._rewriter.target.name, f"{self._timeout_s:g} s"
            message = f"the app at {name} did not answer the upgrade within {seconds}"
            self._refuse(504, "TUNNEL_TIMEOUT", message)

    # --- inside

    def _refuse_bad(self, why: str) -> None:
        self._refuse(502, _UNREACHABLE, f"{self._rewriter.target.name}: {why}")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer instead of the app."""
        if self._recorded is not None:
            self._recorded.refused(status, code, message)
        if self._leave():
            self._owner.refuse(self.rid, self.lease_id, status, code, message)
        self.abort()

    def _record_message(self, sender: str, recorded: RecordedRequest, frame: WsFrame) -> None:
        recorded.message(sender, frame.data, text=frame.opcode == "text", fin=frame.fin)

    def _send(self, frame: Frame) -> None:
        if self._recorded is not None and isinstance(frame, WsFrame):
            self._record_message("app", self._recorded, frame)
        self._uplink.send(frame)

    def _forget(self) -> None:
        if self._recorded is not None:
            self._recorded.close()
        self._owner.forget(self)
        self._lease.websockets -= 1
