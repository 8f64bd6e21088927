"""TLS in front of an HTTP server's connections.

A :class:`TlsGate` takes new connections, and makes each known to the server only when its handshake
is done. Until then it counts among the handshakes in flight, which are bounded in number and time,
and not among the callers. A handshake that fails or hangs costs its own connection.

The event loop's own servers would do most of that, but not bound the number. Nor can a connection
begin TLS later on: uvloop reads, and loses, what comes before it is told.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from ..aio.tasks import spawn
from .refusal_log import log_refusal
from .sockets import plain_host

__all__ = ["TlsGate", "TlsListener"]

_log = logging.getLogger(__name__)

_MAX_HANDSHAKES: Final = 1_024
_HANDSHAKE_TIMEOUT_S: Final = 10.0
_SHUTDOWN_TIMEOUT_S: Final = 5.0
_ACCEPT_AGAIN_S: Final = 1.0
"""After an error such as too many open files, which other connections' ends put right."""

Connections = Callable[[], asyncio.Protocol]
"""Makes the protocol that speaks inside TLS."""


class TlsGate:
    """The handshakes in flight of all sockets of a server.

    Args:
        context: the server's, with its certificate.
        max_handshakes: the most in flight. The oldest makes room for another.
        handshake_timeout_s: for each, in seconds.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        max_handshakes: int = _MAX_HANDSHAKES,
        handshake_timeout_s: float = _HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._context = context
        self._max_handshakes = max_handshakes
        self._handshake_timeout_s = handshake_timeout_s
        self._in_flight: dict[asyncio.Task[None], TlsListener] = {}
        """The socket by which each has come; the oldest first."""

    @property
    def in_flight(self) -> int:
        """How many handshakes are in flight."""
        return len(self._in_flight)

    def serve(self, listener: socket.socket, connections: Connections) -> "TlsListener":
        """Take the connections of a socket, from now on.

        Args:
            listener: it listens, and is the caller's to close.
            connections: makes their protocols.

        Returns:
            What ends that.
        """
        return TlsListener(self, listener, connections)

    def begin(self, sock: socket.socket, peer: str, listener: "TlsListener") -> None:
        """Shake hands with a new caller."""
        if len(self._in_flight) >= self._max_handshakes:
            next(iter(self._in_flight)).cancel()
        task = spawn(self._shake_hands(sock, peer, listener.connections))
        self._in_flight[task] = listener

        def done(task: asyncio.Task[None]) -> None:
            self._in_flight.pop(task, None)
            if task.cancelled():
                sock.close()

        task.add_done_callback(done)

    async def _shake_hands(self, sock: socket.socket, peer: str, connections: Connections) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                connections,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
            )
        except OSError:  # ssl's errors and timeouts are
            log_refusal(400, "TLS_HANDSHAKE_FAILED", "a handshake", peer)
            sock.close()

    def end(self, listener: "TlsListener") -> None:
        """End the handshakes that came by one socket."""
        for task, came_by in list(self._in_flight.items()):
            if came_by is listener:
                task.cancel()


class TlsListener:
    """A listening socket whose connections go through a :class:`TlsGate`.

    Args:
        gate: counts the handshakes.
        listener: the socket.
        connections: makes the protocols that speak inside TLS.
    """

    def __init__(self, gate: TlsGate, listener: socket.socket, connections: Connections) -> None:
        self.connections = connections
        self._gate = gate
        listener.setblocking(False)
        self._accepting = spawn(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if listener.fileno() < 0:
                    return
                _log.warning("a TLS connection could not be taken: %s", error)
                await asyncio.sleep(_ACCEPT_AGAIN_S)
            else:
                self._gate.begin(sock, plain_host(address[0]), self)

    def close(self) -> None:
        """Take no more connections, and end the handshakes of those that came by this socket."""
        self._accepting.cancel()
        self._gate.end(self)
