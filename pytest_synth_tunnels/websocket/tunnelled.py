"""One WebSocket, a caller's or the app's, whose messages travel as frames on a link.

Messages pass in pieces of at most :data:`..wire.frames.MAX_CHUNK_BYTES`, as fragments. Each
direction holds at most a window of them (:data:`..wire.frames.WINDOW_BYTES`): a reader that is
slow makes the other one wait, and ends only if it stands still. Over a link without windows a slow
reader has a bounded queue, and ends once that is full or it stands still, or if its queue is the
longest when all of them hold too much. Pings are answered here, and go no further.
"""

import asyncio
import socket
from math import inf
from typing import Final

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import Protocol, State

from ..aio.deadlines import Deadlines
from ..wire.frames import (
    MAX_CHUNK_BYTES,
    MAX_WS_MESSAGE_BYTES,
    WINDOW_BYTES,
    Window,
    WsClose,
    WsFrame,
)
from .closes import wire_code, wire_reason
from .feed import Feed
from .frame_splitter import FrameSplitter

__all__ = ["TunnelledWebSocket"]

_STALL_S: Final = 10.0
"""How long a reader may stand still, in seconds."""

_CLOSE_TIMEOUT_S: Final = 10.0
"""For the other end to close too."""

_MAX_QUEUE_BYTES: Final = MAX_WS_MESSAGE_BYTES + 2 * WINDOW_BYTES
"""What may wait for a reader where it cannot make the other end wait."""

_MAX_QUEUES_BYTES: Final = 2 * MAX_WS_MESSAGE_BYTES
"""And what for all readers together, beyond a little for each."""

_FULL: Final = "the queue of this WebSocket is full"
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_LOST: Final = 1006
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""A peer that is gone without a word is noticed by the system, within two minutes."""


class TunnelledWebSocket(Feed):
    """One end of the tunnel for one WebSocket (an :class:`~..aio.deadlines.Expiring`).

    It is under way, as its link sees it, until :meth:`_leave`. The connection may outlive that: it
    closes in order, and in bounded time.

    Args:
        rid: its name on the link.
        lease_id: whose it is.
        protocol: the state machine, its handshake done or done elsewhere.
        loop: the event loop.
        deadlines: wakes it up.
        ends: holds it as long as it has a connection.
        max_message_bytes: the longest message, either way.
    """

    peer_gone = "the connection was lost"
    """What is told when the connection ends without a close frame."""

    def __init__(
        self,
        rid: str,
        lease_id: str,
        protocol: Protocol,
        *,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        ends: "set[TunnelledWebSocket]",
        max_message_bytes: int,
    ) -> None:
        super().__init__(rid, lease_id, protocol, loop)
        self.due_at = inf
        self.opened = False
        """The handshake is done."""
        self._deadlines = deadlines
        self._ends = ends
        self._slicer = FrameSplitter(max_message_bytes)
        self._max_message_bytes = max_message_bytes
        self._left = max_message_bytes
        """What may still come of the message that the link brings."""
        self._untaken = 0
        """What came off the link and got no credit yet, in bytes."""
        self._stalled = 0
        """How much waited for a reader that stands still when it was last looked at: in bytes, or,
        once the connection is gone, in frames for the link."""

    # --- for subclasses

    def _forget(self) -> None:
        """Leave the registers."""
        raise NotImplementedError

    def _leave(self) -> bool:
        """Be under way no more.

        Returns:
            False if it was not.
        """
        if self.over:
            return False
        self.over = True
        self._queue.clear()
        if self._transport is None:
            self._deadlines.forget(self)
        self._forget()
        return True

    # --- from the link

    def message(self, frame: WsFrame) -> None:
        """Write a message, or a piece of one."""
        protocol, data = self._protocol, frame.data
        if not self.opened or protocol.state is not State.OPEN:
            return
        self._left -= len(data)
        if self._left < 0:
            self.end(1009, f"a message over {self._max_message_bytes} bytes")
            return
        # Nobody with windows sends as much at once, so others need not be asked in between.
        if len(data) > MAX_CHUNK_BYTES and not self._make_room(len(data)):
            return
        if frame.fin:
            self._left = self._max_message_bytes
        self._untaken += len(data)
        if protocol.expect_continuation_frame:
            protocol.send_continuation(data, frame.fin)
        elif frame.opcode == "text":
            protocol.send_text(data, frame.fin)
        else:
            protocol.send_binary(data, frame.fin)
        if self._stalled:
            # Without windows more comes meanwhile, which does not mean that nothing was read.
            before = self._unread()
            self._flush()
            self._stalled += self._unread() - before
        else:
            self._flush_soon()

    def end(self, code: int | None, reason: str, *, tell: bool = True) -> None:
        """Close in the middle.

        Args:
            code: why, ``None`` to give no code.
            reason: for people.
            tell: the other end of the link does not know.
        """
        code, reason = wire_code(code), wire_reason(reason)
        if self._leave() and tell:
            self._send(WsClose(self.rid, code, reason, self.lease_id))
        if self.opened and self._protocol.state is State.OPEN:
            if code is None:
                self._protocol.send_close()
            else:
                self._protocol.send_close(code, reason)
            self._flush()

    # --- from the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        super().connection_made(transport)
        self._ends.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if (option := getattr(socket, name, None)) is not None:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        """Take what the peer says."""
        self._protocol.receive_data(self._slicer.feed(data))
        for event in self._protocol.events_received():
            if isinstance(event, WireFrame) and event.opcode in _DATA and not self.over:
                self._take(event)
        self._received()

    def eof_received(self) -> None:
        """Let the transport close."""
        self._protocol.receive_eof()
        self._received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the link, unless it knows."""
        self._ends.discard(self)
        self._deadlines.forget(self)
        self._transport = None
        self._ended(_LOST, self.peer_gone)
        if not self.over:
            self._stall(len(self._queue))

    def resume_writing(self) -> None:
        """Let the other end of the link go on."""
        super().resume_writing()
        if self._stalled:
            self._stalled = 0
            if not self._closing:
                self.due_at = inf
        self._grant()

    # --- the clock

    def expire(self) -> None:
        """Give up a peer that does not close, or does not read, or the rest of what one said."""
        transport = self._transport
        if transport is None:
            if len(self._queue) < self._stalled:
                self._stall(len(self._queue))
            elif self._ending is not None and self._leave():
                self._send(self._ending)
        elif self._closing:
            transport.abort()
        elif self._stalled:
            waiting = transport.get_write_buffer_size()
            if waiting < self._stalled:
                self._stall(waiting)
            else:
                self.end(1013, f"nothing was read for {_STALL_S:g} s")

    # --- inside

    def _received(self) -> None:
        """Act on what the protocol has seen."""
        protocol = self._protocol
        if protocol.writes:
            self._flush_soon()
        close = protocol.close_rcvd or protocol.close_sent
        if close is not None:
            self._ended(close.code, close.reason)
        elif protocol.parser_exc is not None:
            self._ended(_LOST, self.peer_gone)
        elif self._queue:
            self._pump()

    def _ended(self, code: int, reason: str) -> None:
        """Tell the link that nothing more will come, behind what has come."""
        if self._ending is None and not self.over:
            self._ending = WsClose(self.rid, wire_code(code), wire_reason(reason), self.lease_id)
            self._pump()

    def _written(self, transport: asyncio.Transport) -> None:
        """Look at what waits for the peer."""
        if self._protocol.close_expected():
            self._expect_close()
        elif not self._write_paused:
            self._grant()
        else:
            waiting = transport.get_write_buffer_size()
            if waiting > _MAX_QUEUE_BYTES:
                self.end(1013, _FULL)
            elif waiting > 2 * WINDOW_BYTES and not self._make_room():
                return
            elif self._untaken >= WINDOW_BYTES and not self._stalled:
                self._stall(waiting)

    def _unread(self) -> int:
        """Return how much waits for the peer, in bytes."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _make_room(self, more_bytes: int = 0) -> bool:
        """Keep what waits for all peers together in bounds: the longest queues end, at once.

        Args:
            more_bytes: what is to wait for this one too.

        Returns:
            False if this one has ended.
        """
        waiting = {end: end._unread() for end in self._ends}
        waiting[self] = self._unread() + more_bytes
        excess = sum(waiting.values()) - _MAX_QUEUES_BYTES
        if excess > 0:
            for end in sorted(waiting, key=waiting.__getitem__, reverse=True):
                if excess <= 0 or waiting[end] <= 2 * WINDOW_BYTES:
                    break
                excess -= waiting[end]
                end.end(1013, _FULL)
                end.abort()
                self._ends.discard(end)  # not every transport forgets at once what waits
        return not self.over

    def _end_writing(self, transport: asyncio.Transport) -> None:
        """Say that nothing follows, and read on: closing at once would make the system drop the
        close frame if there is something that this end has not read."""
        if not transport.can_write_eof():
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # the peer has reset the connection
            transport.abort()
        else:
            self._expect_close()

    def _expect_close(self) -> None:
        """Bound the wait for the peer."""
        if not self._closing:
            self._closing = True
            self._read_on()
            self._deadlines.set(self, self._loop.time() + _CLOSE_TIMEOUT_S)

    def _stall(self, waiting: int) -> None:
        """Begin to lose patience with who does not read."""
        self._stalled = waiting
        self._deadlines.set(self, self._loop.time() + _STALL_S)

    def _grant(self) -> None:
        """Tell the other end of the link that the peer has taken what came so far."""
        if self._untaken >= WINDOW_BYTES // 2:
            taken, self._untaken = self._untaken, 0
            if self._flow_control and not self.over:
                self._send(Window(self.rid, taken, self.lease_id))
