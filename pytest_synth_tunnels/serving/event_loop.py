"""The event loop of a served ASGI application."""

import _socket
import asyncio
import socket

from .._unpatched import unpatched

__all__ = ["EventLoop"]


class EventLoop(asyncio.SelectorEventLoop):
    """An event loop that works whatever a test patches: its clock goes on while a test has frozen
    time, and it can be made while a test blocks sockets."""

    def time(self) -> float:
        """Return the monotonic clock's time in seconds."""
        return unpatched.monotonic()

    def _make_self_pipe(self) -> None:
        if socket.socket is unpatched.python_socket or not unpatched.is_posix:
            super()._make_self_pipe()  # type: ignore[misc]
            return
        # The same as the standard library's, but for the class of the two sockets.
        ends = [unpatched.python_socket(fileno=end.detach()) for end in _socket.socketpair()]
        for end in ends:
            end.setblocking(False)
        self._ssock, self._csock = ends
        self._internal_fds += 1  # type: ignore[attr-defined]
        self._add_reader(self._ssock.fileno(), self._read_from_self)  # type: ignore[attr-defined]
