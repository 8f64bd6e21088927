"""What asyncio's transports do not offer: what the other end has done that was not read yet, a
reset, quick acknowledgements."""

import asyncio
import select
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

__all__ = ["acknowledge_quickly", "has_ended", "has_unread", "is_gone", "reset"]

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""``SO_LINGER`` with no time to linger."""
_READABLE: Final = getattr(select, "POLLIN", 0)
_ENDED: Final = getattr(select, "POLLRDHUP", 0)
_BROKEN: Final = getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)
_QUICK_ACK: Final = getattr(socket, "TCP_QUICKACK", None)


def acknowledge_quickly(sock: socket.socket) -> None:
    """Acknowledge at once what was read from a TCP socket, where the system can.

    The other end may hold its next small piece back until then (Nagle's algorithm), for 40 ms. The
    kernel forgets the wish again and again, so it is said with each read.
    """
    if _QUICK_ACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


def is_gone(transport: asyncio.Transport) -> bool:
    """Return whether the connection is known to be broken, without reading.

    An other end that has closed, and not reset, the connection may still be reading. On Windows
    nothing is known.
    """
    return bool(_events(transport) & _BROKEN)


def has_ended(transport: asyncio.Transport) -> bool:
    """Return whether the other end is known to send nothing more, without reading.

    What came before its end may still wait to be read. An end that itself waits behind data, for
    which there is no room at this side, has not come. On Windows nothing is known.
    """
    return bool(_events(transport) & (_BROKEN | _ENDED))


def has_unread(transport: asyncio.Transport) -> bool:
    """Return whether the other end has sent something that was not read yet, and goes on. On
    Windows nothing is known."""
    return _events(transport) & (_READABLE | _BROKEN | _ENDED) == _READABLE


def _events(transport: asyncio.Transport) -> int:
    """Return the poll events of a transport's socket; none where they are unknown."""
    sock = transport.get_extra_info("socket")
    if sys.platform == "win32" or sock is None or sock.fileno() < 0:
        return 0
    poll = select.poll()
    poll.register(sock.fileno(), _READABLE | _ENDED)
    return sum(event for _, event in poll.poll(0))


def reset(transport: asyncio.Transport) -> None:
    """Close at once, so that the other end gets a reset instead of an end."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # some systems mind where the other end was faster
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
