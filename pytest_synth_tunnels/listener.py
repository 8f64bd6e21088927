"""Listening sockets of the pytest process."""

import errno
import socket
import struct
import sys
from typing import TYPE_CHECKING

from ._unpatched import unpatched

if TYPE_CHECKING:
    from socket import socket as python_socket
else:
    python_socket = unpatched.python_socket

__all__ = ["Listener", "can_bind", "has_listener", "listen"]

_BACKLOG = 128

_NETLINK_TIMEOUT_S = 1.0
_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1


class Listener(python_socket):
    """A listening socket that accepts while a test blocks sockets.

    ``accept()`` of the standard library builds its connections with the class that
    ``socket.socket`` names at that moment, which is a guard of pytest-socket's that refuses.
    """

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """Wait for a connection and return it with the caller's address.

        Raises:
            OSError: the listener is closed, or there are too many open files.
        """
        fd, address = self._accept()  # type: ignore[attr-defined]
        connection = python_socket(self.family, self.type, self.proto, fileno=fd)
        # As the standard library's: some systems hand the listener's mode on.
        if socket.getdefaulttimeout() is None and self.gettimeout():
            connection.setblocking(True)
        return connection, address


def listen(port: int) -> Listener:
    """Return a socket that listens on 127.0.0.1.

    Args:
        port: the local port.

    Raises:
        OSError: another socket listens there.
    """
    listener = Listener(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if unpatched.is_posix:
            # Connections of an earlier server do not keep this one from listening.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def can_bind(port: int) -> bool:
    """Whether a server that sets no SO_REUSEADDR could bind a port of 127.0.0.1."""
    probe = unpatched.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def has_listener(port: int) -> bool | None:
    """Whether a socket listens on a port of 127.0.0.1; ``None`` where that costs more than this.

    Asks the kernel for the one socket that would take a connection (Linux, sock_diag(7)), which
    takes the same few microseconds however many sockets the machine has. No server notices.
    """
    if sys.platform != "linux":
        return None
    loopback = socket.inet_aton("127.0.0.1") + bytes(12)
    # struct nlmsghdr, inet_diag_req_v2 and inet_diag_sockid; no connection has the port 0.
    query = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFF_FFFF)
    query += struct.pack("!HH", port, 0) + 2 * loopback + struct.pack("=I", 0) + b"\xff" * 8
    head = struct.pack("=IHHII", 16 + len(query), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0)
    try:
        kernel = unpatched.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG)
    except OSError:
        return None  # a sandbox without it
    try:
        kernel.settimeout(_NETLINK_TIMEOUT_S)
        kernel.send(head + query)
        answer = kernel.recv(4096)
    except OSError:
        return None
    finally:
        kernel.close()
    kind, error = struct.unpack_from("=4xH10xi", answer)
    if kind == _SOCK_DIAG_BY_FAMILY:
        return True
    return False if -error == errno.ENOENT else None
