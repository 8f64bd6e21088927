"""What asyncio's transports do not offer: whether the other end is there, a reset, quick
acknowledgements."""

import asyncio
import select
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

__all__ = ["acknowledge_quickly", "is_gone", "reset"]

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""``SO_LINGER`` with no time to linger."""
_QUICK_ACK: Final = getattr(socket, "TCP_QUICKACK", None)


def acknowledge_quickly(sock: socket.socket) -> None:
    """Acknowledge at once what was read from a TCP socket, where the system can.

    The other end may hold its next small piece back until then (Nagle's algorithm), for 40 ms. The
    kernel forgets the wish again and again, so it is said with each read.
    """
    if _QUICK_ACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


def is_gone(transport: asyncio.Transport) -> bool:
    """Return whether the other end is known to send nothing more, without reading.

    What came before its end may still wait to be read. An end that itself waits behind data, for
    which there is no room at this side, has not come. On Windows nothing is known.
    """
    sock = transport.get_extra_info("socket")
    if sys.platform == "win32" or sock is None or sock.fileno() < 0:
        return False
    ends = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
    poll = select.poll()
    poll.register(sock.fileno(), ends)
    return any(event & ends for _, event in poll.poll(0))


def reset(transport: asyncio.Transport) -> None:
    """Close at once, so that the other end gets a reset instead of an end."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # some systems mind where the other end was faster
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
