"""Forwards TCP to a port of 127.0.0.1 with asyncio and does nothing else: ``forwarder.py PORT``.

What no tunnel in Python on this event loop can be faster than.
"""

import asyncio
import sys
from typing import cast


class End(asyncio.Protocol):
    """One of the two connections of a caller."""

    transport: asyncio.Transport
    other: "End | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


class Near(End):
    """The caller's connection, read once the app's is there."""

    def __init__(self, port: int) -> None:
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._dialling = asyncio.create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(End, "127.0.0.1", self._port)
        self.other.other = self
        self.transport.resume_reading()


async def main(port: int) -> None:
    """Run until killed."""
    # Once this is freed, the C library asks the system no more for each read's buffer.
    bytearray(1 << 20)
    server = await asyncio.get_running_loop().create_server(lambda: Near(port), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
