"""The two ends of a WebSocket, a caller's and an app's, and what either has said."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

if TYPE_CHECKING:
    from .world import World

TUNNEL_CODES = {1001, 1008, 1011, 1012, 1013}
"""With which the tunnel itself closes."""

NO_CODE = 1005
_STARTS = (Opcode.TEXT, Opcode.BINARY)


class Message:
    """What is said or heard of one message."""

    def __init__(self, opcode: Opcode) -> None:
        self.opcode = opcode
        self.data = b""
        self.whole = False


class Talker:
    """One end. Every message says whose it is, and the how manieth.

    Args:
        world: where.
        tag: of the request that opened it.
        side: whose end it is.
        send: takes its bytes.
    """

    def __init__(self, world: "World", tag: str, side: Side, send: Callable[[bytes], None]) -> None:
        self.world = world
        self.tag = tag
        self.said: list[Message] = []
        self.heard: list[Message] = []
        self.farewell: tuple[int, str] | None = None
        """With what it closed."""
        self.over = False
        """It wants the connection to end."""
        self._side = side
        self._protocol = Protocol(side, state=State.OPEN, max_size=None)
        self._send = send
        self._pings = 0
        world.talks.setdefault(tag, {})[side] = self

    def say(self, opcode: Opcode, size: int, *, fin: bool) -> None:
        """Say a message, or a piece of one."""
        protocol = self._protocol
        if protocol.state is not State.OPEN:
            return
        begins = not self.said or self.said[-1].whole
        if begins:
            self.said.append(Message(opcode))
        message = self.said[-1]
        word = f"{self.tag}{self._side.name[0]}{chr(97 + len(self.said) % 16)}ü;".encode()
        start = len(message.data)
        end = start + size
        if fin:
            end += -end % len(word)  # a text ends with a whole character
        piece = (word * (end // len(word) + 1))[start:end]
        message.data += piece
        message.whole = fin
        if not begins:
            protocol.send_continuation(piece, fin)
        elif opcode is Opcode.TEXT:
            protocol.send_text(piece, fin)
        else:
            protocol.send_binary(piece, fin)
        self._flush()

    def ping(self) -> None:
        if self._protocol.state is State.OPEN:
            self._pings += 1
            self._protocol.send_ping(f"{self._pings}".encode())
            self._flush()

    def close(self, code: int) -> None:
        """Say goodbye, without a code if it is :data:`NO_CODE`."""
        if self._protocol.state is not State.OPEN:
            return
        if code == NO_CODE:
            self.farewell = code, ""
            self._protocol.send_close()
        else:
            self.farewell = code, f"bye {self.tag} {self._side.name}"
            self._protocol.send_close(code, self.farewell[1])
        self._flush()

    def read(self, data: bytes) -> None:
        """Hear what came; nothing but WebSocket may come."""
        protocol = self._protocol
        protocol.receive_data(data)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (*_STARTS, Opcode.CONT):
                self._hear(event)
            elif event.opcode is Opcode.PONG:
                assert 0 < int(bytes(event.data)) <= self._pings
            elif event.opcode is Opcode.CLOSE:
                self._told()
        # A message that one end does not finish has no end for the other either, which the library
        # minds.
        if protocol.parser_exc is not None:
            assert "incomplete" in str(protocol.parser_exc), protocol.parser_exc
            assert self.heard
            assert not self.heard[-1].whole
        self._flush()

    def end(self) -> None:
        """Take note that nothing more comes."""
        self._protocol.receive_eof()
        self.over = True

    @property
    def _other(self) -> "Talker | None":
        other = Side.SERVER if self._side is Side.CLIENT else Side.CLIENT
        return self.world.talks[self.tag].get(other)

    def _hear(self, frame: Frame) -> None:
        if frame.opcode in _STARTS:
            self.heard.append(Message(frame.opcode))
        message = self.heard[-1]
        message.data += bytes(frame.data)
        message.whole = frame.fin
        if self.tag in self.world.spoilt:
            # A piece may have come twice, or not at all.
            alphabet = f"{self.tag}CSabcdefghijklmnopü;".encode()
            assert not message.data.translate(None, alphabet)
            return
        assert self._other is not None
        said = self._other.said[len(self.heard) - 1]
        assert said.opcode is message.opcode
        assert said.data.startswith(message.data)
        assert not message.whole or (said.whole and said.data == message.data)

    def _told(self) -> None:
        """Check the other end's farewell, or the tunnel's."""
        close = self._protocol.close_rcvd
        assert close is not None
        if self.farewell is not None or self.tag in self.world.spoilt:
            return
        other = self._other
        if other is None or (close.code, close.reason) != other.farewell:
            unfinished = other is not None and other.said and not other.said[-1].whole
            assert close.code in TUNNEL_CODES or (unfinished and close.code == 1002), close
            assert "bye" not in close.reason
            return
        # It comes behind all that was said.
        said = [message for message in other.said if message.data or message.whole]
        assert [message.data for message in self.heard] == [message.data for message in said]

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._send(data)
            else:
                self.over = True
