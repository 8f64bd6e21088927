"""The state machines of a tunnelled WebSocket's two connections: the ``websockets`` library's, less
strict in one place. No I/O.

A peer may close in the middle of a message that it sends in fragments. The library fails such a
connection with 1002, as one that reads messages may. What sits between two peers has no use for
whole messages: it passes the fragments on, and then the peer's own close.
"""

from websockets.client import ClientProtocol
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from ..wire.handshake import wire_logger

__all__ = ["AppProtocol", "CallerProtocol"]


class _FragmentsMayBreakOff(Protocol):
    """Takes a close frame in the middle of a message for what it says."""

    def recv_frame(self, frame: Frame) -> None:
        try:
            super().recv_frame(frame)
        except ProtocolError:
            if frame.opcode is not Opcode.CLOSE or self.close_rcvd is None:
                raise
            super().recv_frame(Frame(Opcode.CONT, b"", fin=True))
            self.events.pop()  # The end of the message is the library's alone.
            super().recv_frame(frame)


class CallerProtocol(_FragmentsMayBreakOff):
    """The relay's end of a caller's connection, its handshake done.

    Args:
        max_bytes: the longest message that is taken.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(Side.SERVER, state=State.OPEN, max_size=max_bytes, logger=wire_logger)


class AppProtocol(_FragmentsMayBreakOff, ClientProtocol):
    """The agent's end of a connection to an app."""
