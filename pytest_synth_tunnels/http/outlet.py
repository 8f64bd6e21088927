"""The writing side of a caller's connection: what is collected for one write, and the close."""

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

from .sockets import reset

if TYPE_CHECKING:
    from .server import HttpServer

__all__ = ["Outlet"]

_WRITE_AT_BYTES: Final = 65_536
"""Response bytes are collected up to here within a tick; larger pieces are not copied."""


class Outlet(asyncio.Protocol):
    """Writes, and closes once all is written. Subclasses say what.

    Attributes:
        server: what it shares with the others.
        transport: the connection.
        due_at: its deadline, in the loop's time.
    """

    transport: asyncio.Transport

    def __init__(self, server: "HttpServer") -> None:
        self.server = server
        self.due_at = inf
        self._limits = server.limits
        self._time = server.loop.time
        self._closing = False
        """The last response is written; what comes is not read any more."""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._unread_bytes: float = inf
        """What the transport held back at the last look, since the caller had not read so far."""

    def expire(self) -> None:
        """Act on the deadline."""
        raise NotImplementedError

    def collect(self, data: bytes) -> None:
        """Write ``data``, at the end of this tick of the loop or before."""
        if len(data) >= _WRITE_AT_BYTES:
            self.write(data)
            return
        if not self._out:
            self.server.write_soon(self)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= _WRITE_AT_BYTES:
            self.flush()

    def write(self, data: bytes) -> None:
        """Write ``data`` now, behind what was collected."""
        self.flush()
        self.transport.write(data)

    def flush(self) -> None:
        """Write what was collected."""
        out = self._out
        if out:
            self._out = []
            self._out_bytes = 0
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def cut(self, *, with_reset: bool) -> None:
        """End the connection in the middle of a response."""
        self.flush()
        if with_reset:
            self._closing = True
            reset(self.transport)
        else:
            self._close(read_on=False)

    def _close(self, *, read_on: bool) -> None:
        """Close once all is written.

        Args:
            read_on: discard what the caller still sends, for a while. Closing right away would
                make its system drop the response that it has not read.
        """
        self._closing = True
        self._unread_bytes = inf
        self.server.deadlines.set(self, self._time() + self._limits.close_timeout_s)
        if read_on and self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.resume_reading()
            try:
                self.transport.write_eof()
            except OSError:  # the caller has reset the connection
                self.transport.abort()
        else:
            self.transport.close()

    def _await_reader(self, timeout_s: float) -> bool:
        """Look whether the caller has read since the last look, and not all of it.

        Returns:
            Whether to look again: then there is a deadline for that.
        """
        left = self.transport.get_write_buffer_size()
        reads_on = 0 < left < self._unread_bytes
        self._unread_bytes = left
        if reads_on:
            self.server.deadlines.set(self, self._time() + timeout_s)
        return reads_on

    def _give_up(self) -> None:
        """End what the caller does not read so that it sees that, or what is written by now."""
        if self.transport.get_write_buffer_size():
            self._closing = True
            reset(self.transport)
        elif self._closing:
            self.transport.abort()
        else:
            self._close(read_on=False)
