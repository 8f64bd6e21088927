"""The agent's end of one WebSocket: the connection to the local app."""

from typing import TYPE_CHECKING, Final

from ..http.client_connection import ClientConnection
from ..http.pool import ConnectionPool
from ..http.response import OriginError
from ..websocket.tunnelled import TunnelledWebSocket
from ..websocket.upgrade import (
    Answer,
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
    WsClose,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
)
from .served_leases import ServedLease
from .target import UrlRewriter

if TYPE_CHECKING:
    from .websocket_table import AppWebSockets

__all__ = ["AppWebSocket"]

_UNREACHABLE: Final = "TUNNEL_ENDPOINT_UNREACHABLE"


class AppWebSocket(TunnelledWebSocket):
    """One WebSocket to the app (a :class:`~..http.response.Dialer`).

    Args:
        table: whose it is.
        frame: what the relay asked for.
        lease: whose it is, among whose WebSockets it counts from now on.
        mount: where it goes.
        origin: the connections there.
        path: as the app sees it.
        timeout_s: for the app to accept it, in seconds.
    """

    peer_gone = "the app's connection was lost"

    def __init__(
        self,
        table: "AppWebSockets",
        frame: WsOpen,
        lease: ServedLease,
        mount: UrlRewriter,
        origin: ConnectionPool,
        path: str,
        timeout_s: float,
    ) -> None:
        agent = table.agent
        headers = request_headers(frame.headers)
        protocol = app_protocol(headers, MAX_WS_MESSAGE_BYTES)
        super().__init__(
            frame.rid,
            lease.lease_id,
            protocol,
            loop=table.loop,
            deadlines=agent.deadlines,
            ends=table.ends,
            max_message_bytes=MAX_WS_MESSAGE_BYTES,
        )
        self._use(flow_control=agent.flow_control, link_paused=agent.link_paused)
        request = ReqHeaders(self.lease_id, self.rid, "GET", path, frame.query, headers, 0)
        head, _ = mount.request_head(request, path)
        self._head = f"{head}{upgrade_lines(protocol)}".encode("latin-1")
        self._client = protocol
        self._table = table
        self._agent = agent
        self._lease = lease
        self._mount = mount
        self._origin = origin
        self._timeout_s = timeout_s
        self._answer = Answer()
        lease.websockets += 1

    def begin(self) -> None:
        """Ask for a connection."""
        self._deadlines.set(self, self._loop.time() + self._timeout_s)
        self._origin.submit(self, fresh=True)

    def abort(self) -> None:
        """End it without a word to the app, or do not begin."""
        self._origin.withdraw(self)
        super().abort()

    # --- the connection

    def connected(self, connection: ClientConnection) -> None:
        """Send the handshake."""
        transport = connection.detach()
        self.adopt(transport)
        transport.write(self._head)

    def failed(self, error: OriginError) -> None:
        """Tell the caller that the app cannot be reached."""
        self._refuse(502, _UNREACHABLE, str(error))

    def data_received(self, data: bytes) -> None:
        """Take what the app says: its answer first."""
        if self.opened:
            super().data_received(data)
        elif not self.over:
            try:
                if self._answer.feed(data):
                    self._answered()
            except AnswerError as error:
                self._refuse_bad(str(error))

    def eof_received(self) -> None:
        """Take the end of an answer that ends with its connection."""
        if self.opened:
            super().eof_received()
        elif not self.over:
            try:
                self._answer.end()
                self._answered()
            except AnswerError as error:
                self._refuse_bad(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the link, unless it knows."""
        if not self.opened and not self.over:
            self._refuse_bad("it broke the connection off")
        super().connection_lost(exc)

    # --- the relay

    def closed(self, frame: WsClose) -> None:
        """Close as the caller did, or do not open."""
        self.end(frame.code, frame.reason, tell=False)

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
            name, seconds = self._mount.target.name, f"{self._timeout_s:g} s"
            message = f"the app at {name} did not answer the upgrade within {seconds}"
            self._refuse(504, "TUNNEL_TIMEOUT", message)

    # --- inside

    def _answered(self) -> None:
        """Open it, or pass the app's refusal on."""
        answer = self._answer
        if answer.status == 101:
            headers = check_answer(self._client, answer.headers)
            self._deadlines.forget(self)
            self.opened = True
            self._send(WsOpenAck(self.rid, headers, self.lease_id))
            if answer.rest:
                super().data_received(answer.rest)
            return
        if self._leave():
            headers = self._mount.response_headers(without_framing(answer.headers))
            body = bytes(answer.body)
            self._send(WsOpenReject(self.rid, answer.status, headers, body, self.lease_id))
        self.abort()

    def _refuse_bad(self, why: str) -> None:
        self._refuse(502, _UNREACHABLE, f"{self._mount.target.name}: {why}")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer instead of the app."""
        if self._leave():
            self._table.refuse(self.rid, self.lease_id, status, code, message)
        self.abort()

    def _send(self, frame: Frame) -> None:
        self._agent.send(frame)

    def _forget(self) -> None:
        self._table.forget(self)
        self._lease.websockets -= 1
