"""A WebSocket on a transport: the ``websockets`` library's state machine, which does no I/O, and
what brings its bytes out.

One tick of the event loop is one write, however much was said in it, since system calls are what
costs here.
"""

import asyncio
from typing import cast

from websockets.protocol import Protocol

from ..compiled import mypyc_attr

__all__ = ["Endpoint"]


@mypyc_attr(allow_interpreted_subclasses=True)  # for tests
class Endpoint(asyncio.Protocol):
    """One end of a WebSocket connection. Subclasses say what is done with what arrives.

    Args:
        protocol: the state machine.
        loop: the event loop.
    """

    def __init__(self, protocol: Protocol, loop: asyncio.AbstractEventLoop) -> None:
        self._protocol = protocol
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        """``None`` before the connection is made, and after it is lost."""
        self._flush_due = False
        """A write at the end of this tick is scheduled."""
        self._write_paused = False
        """The other end reads slowly."""

    def adopt(self, transport: asyncio.Transport, received: bytes = b"") -> None:
        """Take a connection over whose upgrade has been agreed on.

        Args:
            transport: the connection.
            received: what came behind the handshake already.
        """
        transport.set_protocol(self)
        self.connection_made(transport)
        transport.resume_reading()
        if received:
            self.data_received(received)

    def abort(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        """Take note that the other end reads slowly."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Take note that it has read."""
        self._write_paused = False

    def _flush_soon(self) -> None:
        """Write at the end of this tick."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what the protocol has to say, in one call."""
        self._flush_due = False
        transport = self._transport
        writes = self._protocol.data_to_send()
        if transport is None or transport.is_closing():
            return
        if len(writes) == 1 and writes[0]:
            transport.write(writes[0])
        elif writes:
            # Not writelines: up to Python 3.13.1 it lets a full transport's writer go on.
            transport.write(b"".join(writes))
            if not writes[-1]:  # the library's mark for the end of the stream
                self._end_writing(transport)
                return
        self._written(transport)

    def _written(self, transport: asyncio.Transport) -> None:
        """Look at the transport after a write."""

    def _end_writing(self, transport: asyncio.Transport) -> None:
        """Act on the end of what this end has to say."""
        transport.close()
