"""One WebSocket, a caller's or the app's, whose messages travel as frames on a link.

There is one end of it at the relay, with the caller's connection, and one at the agent, with the
app's. An end has two sides, which live and end apart:

- **The stream** on the link. It is there from the construction until ``over``, which
  :meth:`~TunnelledWebSocket._leave` sets once, with the first of: a ``WS_CLOSE`` from the other
  end of the link, one that this end sends, or the loss of the link. From then on nothing is sent
  on the link, and what comes from it is dropped.
- **The connection**. Subclasses do its handshake and set ``opened``. From then on the
  ``websockets`` library's state machine is in charge of it. It closes in order: each peer sends a
  close frame, and ``_closing`` bounds the wait for the second one. It may outlive the stream so.

From the connection to the link, messages become ``WS_FRAME``, in pieces of at most
:data:`..wire.frames.MAX_CHUNK_BYTES`, as fragments. What the link does not take waits in
``_queue``, and the connection is not read meanwhile, so no more is held than what one read
brings. ``_ending`` is the ``WS_CLOSE`` behind the queue once the connection has said its last.

From the link to the connection, each piece is written as it comes. A reader that is slow makes the
other end of the link wait (:mod:`..wire.flow_control`), and is given up only if it stands still.
Over a link without windows what waits for it is bounded instead: it is given up once its own
queue is full, or if its queue is the longest when all of them hold too much.

There is one deadline, which is that of, in this order: the handshake (the subclass's), the close
(``_closing``), a reader that stands still (``_stalled``), and, once the connection is gone, a link
that does not take the rest of the queue (``_stalled`` too). Pings are answered here, and go no
further.
"""

import asyncio
import socket
from collections import deque
from math import inf
from typing import Final, Literal

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import Protocol, State

from ..aio.deadlines import Deadlines
from ..wire.endpoint import Endpoint
from ..wire.flow_control import ReceiveWindow, SendWindow
from ..wire.frames import (
    MAX_CHUNK_BYTES,
    MAX_WS_MESSAGE_BYTES,
    WINDOW_BYTES,
    Frame,
    Window,
    WsClose,
    WsFrame,
)
from .frame_splitter import FrameSplitter

__all__ = ["TunnelledWebSocket"]

_STALL_S = 10.0
"""How long a reader may stand still, in seconds."""

_CLOSE_TIMEOUT_S = 10.0
"""How long the peer may take to answer a close frame, in seconds."""

_MAX_QUEUE_BYTES = MAX_WS_MESSAGE_BYTES + 2 * WINDOW_BYTES
"""How much may wait for a reader that cannot make the other end of the link wait."""

_MAX_QUEUES_BYTES = 2 * MAX_WS_MESSAGE_BYTES
"""How much may wait for all such readers together, beyond a little for each."""

_FRAME_COST_BYTES: Final = 64
"""What a frame counts for besides its data, in what is sent in one tick."""

_FULL: Final = "the queue of this WebSocket is full"
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_LOST: Final = 1006
_NO_CODE: Final = 1005
_SENDABLE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
"""The codes that a close frame may carry (RFC 6455, section 7.4)."""

_MAX_REASON_BYTES: Final = 123
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""A peer that is gone without a word is noticed by the system, within two minutes."""


class TunnelledWebSocket(Endpoint):
    """One end of the tunnel for one WebSocket (an :class:`~..aio.deadlines.Expiring` and a
    :class:`~..wire.flow_control.Pausable`).

    Args:
        rid: its name on the link.
        lease_id: whose it is.
        protocol: the state machine, its handshake done or done elsewhere.
        loop: the event loop.
        deadlines: wakes it up.
        ends: holds it as long as it has a connection.
        max_message_bytes: the longest message, either way.

    Attributes:
        rid: its name on the link.
        lease_id: whose it is.
        due_at: its deadline, in the loop's time.
        opened: the handshake on the connection is done.
        over: the stream on the link has ended.
    """

    peer_gone = "the connection was lost"
    """The reason that the other end is told when the connection ends without a close frame."""

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
        super().__init__(protocol, loop)
        self.rid = rid
        self.lease_id = lease_id
        self.due_at = inf
        self.opened = False
        self.over = False
        self._deadlines = deadlines
        self._ends = ends
        # From the connection to the link.
        self._splitter = FrameSplitter(max_message_bytes)
        self._opcode: Literal["text", "binary"] = "binary"
        """Of the message that is being read."""
        self._queue: deque[WsFrame] = deque()
        """What waits for credit, or for the link. The connection is not read meanwhile."""
        self._ending: WsClose | None = None
        """What follows the queue, once the connection is at its end."""
        self._send_window: SendWindow | None = None
        """Towards the other end of the link, if that knows windows."""
        self._link_paused = False
        """The link takes nothing now."""
        self._read_paused = False
        """The connection is not read."""
        # From the link to the connection.
        self._receive_window = ReceiveWindow()
        self._max_message_bytes = max_message_bytes
        self._message_left = max_message_bytes
        """How much more may come of the message that the link brings, in bytes."""
        self._closing = False
        """This end of the connection has said its last, and waits for the peer to close."""
        self._stalled = 0
        """How much waited for a reader that stands still when it was last looked at: in bytes, or,
        once the connection is gone, in frames for the link."""

    # --- for subclasses

    def _send(self, frame: Frame) -> None:
        """Send a frame on the link."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Leave the registers: the stream is over."""
        raise NotImplementedError

    def _use(self, *, flow_control: bool, link_paused: bool) -> None:
        """Begin with a link.

        Args:
            flow_control: its other end knows windows.
            link_paused: it takes nothing now.
        """
        self._send_window = SendWindow() if flow_control else None
        self._link_paused = link_paused

    def _leave(self) -> bool:
        """End the stream on the link.

        Returns:
            False if it had ended before.
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

    def credit(self, credit_bytes: int) -> None:
        """Send as many more bytes."""
        if self._send_window is not None and self._send_window.grant(credit_bytes):
            self._pump()

    def pause(self) -> None:
        """Send nothing for now: the link is full."""
        self._link_paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._link_paused = False
        self._pump()

    def message(self, frame: WsFrame) -> None:
        """Write a message, or a piece of one."""
        protocol, data = self._protocol, frame.data
        if not self.opened or protocol.state is not State.OPEN:
            return
        self._message_left -= len(data)
        if self._message_left < 0:
            self.end(1009, f"a message over {self._max_message_bytes} bytes")
            return
        # Only a sender without windows sends so much at once: else there is no need to ask what
        # waits for all the others.
        if len(data) > MAX_CHUNK_BYTES and not self._make_room(len(data)):
            return
        if frame.fin:
            self._message_left = self._max_message_bytes
        self._receive_window.take(len(data))
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
        """End the stream, and close the connection.

        Args:
            code: why, ``None`` to give no code.
            reason: for people.
            tell: the other end of the link does not know.
        """
        code, reason = _sendable_code(code), _sendable_reason(reason)
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
        self._protocol.receive_data(self._splitter.feed(data))
        for event in self._protocol.events_received():
            if isinstance(event, WireFrame) and event.opcode in _DATA and not self.over:
                self._enqueue(event)
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
        """Give up a peer that does not close, or does not read, or a link that does not take the
        rest of what a peer said."""
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

    # --- from the connection to the link

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

    def _enqueue(self, frame: WireFrame) -> None:
        """Queue what the peer sent for the link."""
        data = frame.data
        if frame.opcode is not Opcode.CONT:
            self._opcode = "text" if frame.opcode is Opcode.TEXT else "binary"
        if not data and not frame.fin:
            return  # it says nothing, and one published agent is confused by it
        for start in range(0, len(data) or 1, MAX_CHUNK_BYTES):
            piece = bytes(data[start : start + MAX_CHUNK_BYTES])
            fin = frame.fin and start + MAX_CHUNK_BYTES >= len(data)
            self._queue.append(WsFrame(self.rid, piece, self._opcode, fin, self.lease_id))

    def _ended(self, code: int, reason: str) -> None:
        """Tell the link that nothing more will come, behind what has come."""
        if self._ending is None and not self.over:
            self._ending = WsClose(
                self.rid, _sendable_code(code), _sendable_reason(reason), self.lease_id
            )
            self._pump()

    def _pump(self) -> None:
        """Send as much of the queue as there is credit for, but not all in one tick: only when
        that is written does the link know whether it is too much."""
        queue, window = self._queue, self._send_window
        room = WINDOW_BYTES
        while queue and room > 0 and not self._link_paused and (window is None or window.open):
            frame = queue.popleft()
            size = len(frame.data)
            room -= size + _FRAME_COST_BYTES
            if window is not None:
                window.spend(size)
            self._send(frame)
        if not queue:
            if self._ending is None:
                self._read_on()
            elif self._leave():
                self._send(self._ending)
            return
        if room <= 0:
            self._loop.call_soon(self._pump)
        if self._transport is not None and not self._read_paused and not self._closing:
            self._read_paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        """Read again, if reading was paused."""
        if self._transport is not None and self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    # --- from the link to the connection

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
            elif self._receive_window.untold_bytes >= WINDOW_BYTES and not self._stalled:
                self._stall(waiting)

    def _grant(self) -> None:
        """Tell the other end of the link what the peer has taken, once that is worth a frame."""
        if self._receive_window.due:
            credit_bytes = self._receive_window.credit()
            if self._send_window is not None and not self.over:
                self._send(Window(self.rid, credit_bytes, self.lease_id))

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

    def _stall(self, waiting: int) -> None:
        """Begin to lose patience with a reader that stands still."""
        self._stalled = waiting
        self._deadlines.set(self, self._loop.time() + _STALL_S)

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
        """Bound the wait for the peer to close."""
        if not self._closing:
            self._closing = True
            self._read_on()
            self._deadlines.set(self, self._loop.time() + _CLOSE_TIMEOUT_S)


def _sendable_code(code: int | None) -> int | None:
    """Return the code that a close frame carries, ``None`` for none at all."""
    if code is None or code == _NO_CODE:
        return None
    return code if code in _SENDABLE_CODES else 1011


def _sendable_reason(reason: str) -> str:
    """Return as much of a reason as a close frame has room for."""
    return reason.encode(errors="replace")[:_MAX_REASON_BYTES].decode(errors="ignore")
