"""Sockets that are none: what is written waits until the other end reads."""

from collections import deque
from collections.abc import Callable
from typing import Any
from unittest import mock

from ...support.manual_loop import Wire

PIECE_BYTES = 65_536
"""What one read of a socket gives at the most."""

FULL_BYTES = 65_536
"""A buffer above this is full."""


class Pipe:
    """What one end of a socket has sent and the other has not read."""

    def __init__(self, wire: "ModelWire") -> None:
        self.waiting: deque[bytes] = deque()
        self._wire = wire

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            self.waiting.append(data[start : start + PIECE_BYTES])

    def pump(self) -> bool:
        """Let the reader read; false if there was nothing to read or it would not."""
        moved = False
        while self.waiting and self._wire.reading and not self._wire.closed:
            self._wire.protocol.data_received(self.waiting.popleft())
            moved = True
        return moved


class ModelWire(Wire):
    """A transport that may be handed to another protocol."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        if not self.closed:
            super().write(data)

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is over."""
        self.closed = True
        self.protocol.connection_lost(error)


class CallerWire(ModelWire):
    """The relay's transport of a connection to a caller."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__(make())
        self.full = False
        self.protocol.connection_made(self)

    def is_reading(self) -> bool:
        return self.reading

    def write(self, data: Any) -> None:
        super().write(data)
        if not self.full and len(self.written) > FULL_BYTES:
            self.full = True
            self.protocol.pause_writing()

    def sip(self, size: int) -> bytes:
        """Return some of what was written."""
        taken, self.written = self.written[:size], self.written[size:]
        if self.full and len(self.written) <= FULL_BYTES // 4:
            self.full = False
            self.protocol.resume_writing()
        return taken


class AppWire(ModelWire):
    """The agent's transport of a connection to an app, which says itself when it is full."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return no socket that could be asked, or be read once the connection is lost."""
        if name == "socket":
            return mock.Mock(dup=mock.Mock(side_effect=OSError), fileno=mock.Mock(return_value=-1))
        return super().get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Any will do: the app says when the buffer is full."""
