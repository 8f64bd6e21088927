"""What asyncio does not offer: connections without a task each, what the other end has done that
was not read yet, a reset, quick acknowledgements."""

import asyncio
import errno
import os
import select
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, Final, cast

__all__ = [
    "acknowledge_quickly",
    "adopts_sockets",
    "connect_at_once",
    "has_ended",
    "has_unread",
    "is_gone",
    "make_transport",
    "peer_host",
    "plain_host",
    "reset",
]

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


def connect_at_once(family: int, address: tuple[Any, ...]) -> socket.socket | None:
    """Connect to a TCP server that takes connections without a moment's delay, as one on this
    machine does.

    Args:
        family: of the address.
        address: of the server, as the system takes it.

    Returns:
        The connected socket, which does not block; ``None`` if the server takes a moment, and on
        systems other than Linux.

    Raises:
        OSError: the server refuses, or cannot be reached.
    """
    if sys.platform != "linux":
        return None
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        # Over the loopback the handshake is done by now, which the system tells who asks again.
        code = sock.connect_ex(address)
    if code in (0, errno.EISCONN):
        return sock
    sock.close()
    if code in (errno.EINPROGRESS, errno.EALREADY, errno.EAGAIN):
        return None
    raise OSError(code, os.strerror(code))


def adopts_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether :func:`make_transport` works on an event loop. It does on asyncio's own; other
    loops, such as uvloop, have another way inside."""
    return hasattr(loop, "_make_socket_transport")


def make_transport(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.Protocol
) -> None:
    """Give a connected socket a transport, and its protocol that transport in the next tick.

    It is what asyncio itself ends up with, for each connection of its own. The way there takes a
    task and two futures, which cost more than the transport.

    Args:
        loop: the event loop, one that :func:`adopts_sockets`.
        sock: connected, and not blocking.
        protocol: what talks on it.
    """
    cast("Any", loop)._make_socket_transport(sock, protocol)


def peer_host(transport: asyncio.BaseTransport) -> str:
    """Return the address of a connection's other end; empty where it has none."""
    peer = transport.get_extra_info("peername")
    return plain_host(peer[0]) if isinstance(peer, tuple) else ""


def plain_host(address: str) -> str:
    """Return an address as it is usually written: that of a caller who came by IPv4 to a socket for
    both protocols is its IPv4 address."""
    return address.removeprefix("::ffff:")


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
