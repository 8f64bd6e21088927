"""What one WebSocket says, on its way to the link.

Messages become frames, in pieces of at most :data:`..wire.frames.MAX_CHUNK_BYTES`, as fragments.
What the link does not take waits in a queue, and the connection is not read meanwhile: no more is
held than what one read brings.
"""

import asyncio
from collections import deque
from math import inf
from typing import Final, Literal

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import Protocol

from ..wire.endpoint import Endpoint
from ..wire.frames import MAX_CHUNK_BYTES, WINDOW_BYTES, Frame, WsClose, WsFrame

__all__ = ["Feed"]

_FRAME_COST_BYTES: Final = 64
"""What a frame counts for besides its data, in what is sent in one tick."""


class Feed(Endpoint):
    """One direction of a WebSocket: from its connection to the link.

    Args:
        rid: its name on the link.
        lease_id: whose it is.
        protocol: the state machine, its handshake done or done elsewhere.
        loop: the event loop.
    """

    def __init__(
        self, rid: str, lease_id: str, protocol: Protocol, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(protocol, loop)
        self.rid = rid
        self.lease_id = lease_id
        self.over = False
        """The link knows it no more."""
        self._flow_control = False
        """The other end of the link knows windows."""
        self._link_paused = False
        """The link takes nothing now."""
        self._queue: deque[WsFrame] = deque()
        """What waits for credit, or for the link. The connection is not read meanwhile."""
        self._ending: WsClose | None = None
        """What follows the queue, once the connection is at its end."""
        self._opcode: Literal["text", "binary"] = "binary"
        """Of the message that is being read."""
        self._credit = inf
        """What the other end of the link will still take, in bytes."""
        self._read_paused = False
        self._closing = False
        """Waits for the other end to close."""

    def _use(self, *, flow_control: bool, link_paused: bool) -> None:
        """Be told about the link.

        Args:
            flow_control: its other end knows windows.
            link_paused: it takes nothing now.
        """
        self._flow_control = flow_control
        self._credit = WINDOW_BYTES if flow_control else inf
        self._link_paused = link_paused

    def _send(self, frame: Frame) -> None:
        """Send a frame on the link."""
        raise NotImplementedError

    def _leave(self) -> bool:
        """Be under way no more; false if it was not."""
        raise NotImplementedError

    def credit(self, credit_bytes: int) -> None:
        """Send as much more."""
        if credit_bytes > 0:
            self._credit += credit_bytes
            self._pump()

    def pause(self) -> None:
        """Send nothing for now: the link is full."""
        self._link_paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._link_paused = False
        self._pump()

    def _take(self, frame: WireFrame) -> None:
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

    def _pump(self) -> None:
        """Send as much of the queue as there is credit for, but not all in one tick: only when
        that is written does the link know whether it is too much."""
        queue = self._queue
        room = WINDOW_BYTES
        while queue and room > 0 and self._credit > 0 and not self._link_paused:
            frame = queue.popleft()
            size = len(frame.data)
            room -= size + _FRAME_COST_BYTES
            self._credit -= size
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
