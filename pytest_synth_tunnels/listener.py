"""Listening sockets of the pytest process."""

import socket
from typing import TYPE_CHECKING

from ._unpatched import unpatched

if TYPE_CHECKING:
    from socket import socket as python_socket
else:
    python_socket = unpatched.python_socket

__all__ = ["Listener", "can_bind", "listen"]

_BACKLOG = 128


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
    """Return whether a server that sets no SO_REUSEADDR could bind a port of 127.0.0.1."""
    probe = unpatched.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    finally:
        probe.close()
    return True
