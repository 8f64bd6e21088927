"""Local ports: kept free for the app of one process, and looked at from outside."""

import asyncio
import socket
import sys
from contextlib import suppress
from typing import Final

__all__ = ["PortReservation", "accepts", "accepts_blocking", "is_taken"]

HOST: Final = "127.0.0.1"


class PortReservation:
    """A free port on 127.0.0.1 that nobody else is given while it is held.

    On Linux a bound socket that does not listen is held on it, over which a server that sets
    SO_REUSEADDR can bind, and practically all do. Elsewhere that is not possible, so the port
    was free a moment ago and no more can be said.

    Attributes:
        port: the port.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._socket.bind((HOST, 0))
            # After bind: the kernel then never picks a port that another reservation holds.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Let others have the port."""
        self._socket.close()


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1, or keeps it from being bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            # There it would let us bind over a listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def accepts_blocking(host: str, port: int, timeout_s: float) -> bool:
    """The same as :func:`accepts`, for a thread, which it blocks."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


async def accepts(host: str, port: int, timeout_s: float) -> bool:
    """Whether a TCP connection to ``host:port`` succeeds within ``timeout_s`` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
