"""Local ports: reserved for the app of one process, and looked at from outside."""

import asyncio
import errno
import random
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Final

from ..socket_table import TIME_WAIT, SocketEntry, has_listener, sockets_on

__all__ = [
    "HOST",
    "LOOPBACK_HINT",
    "PortReservation",
    "accepts",
    "accepts_blocking",
    "clear_time_wait",
    "ephemeral_ports",
    "is_taken",
    "means_no_loopback",
]

HOST: Final = "127.0.0.1"

_MAX_PORT: Final = 65_535
_FIRST_PORT: Final = 20_000
"""Below are the usual ports of development servers and databases, which a suite may start."""
_WELL_KNOWN: Final = frozenset({24678, 25672, 27017, 27018, 27019, 28015, 28017})
"""Those above: Vite's HMR, RabbitMQ, MongoDB, RethinkDB."""
_FREE_PORT_ATTEMPTS: Final = 100
_EPHEMERAL_ON_LINUX: Final = range(32_768, 61_000)
_EPHEMERAL_ELSEWHERE: Final = range(49_152, _MAX_PORT + 1)

_CLEAR_ATTEMPTS: Final = 10
_CLEAR_PAUSE_S: Final = 0.005
_IP_LOCAL_PORT_RANGE: Final = 51
"""Of Linux; the socket module has no name for it."""

LOOPBACK_HINT: Final = (
    f"This machine, container or sandbox has no usable {HOST}: see that its loopback interface has "
    "that address and is up (ip address show lo)"
)


def means_no_loopback(error: OSError) -> bool:
    """Whether an error of a socket on 127.0.0.1 says that there is no such address, or no way to
    it."""
    return error.errno in (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENETDOWN)


def ephemeral_ports() -> range:
    """Return the ports that the kernel chooses for connections and for ``bind`` to port 0."""
    if sys.platform != "linux":
        return _EPHEMERAL_ELSEWHERE
    with suppress(OSError, ValueError):
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            first, last = map(int, file.read().split())
        return range(first, last + 1)
    return _EPHEMERAL_ON_LINUX


class PortReservation:
    """A free port of this machine that no other keeper hands out while it is held.

    The port is outside the ephemeral range, so that the kernel gives it to nobody by itself. A
    UDP socket on the same number is the lock between keepers; the kernel frees it when its process
    ends, however that comes. No TCP socket is held on the port, so that any server can bind it.

    Where all ports are ephemeral, the port is one that the kernel has just chosen. It is free then,
    and no other keeper hands it out, but another program may be given it before the app binds it.

    Args:
        ephemeral: the ephemeral ports; by default those of this machine.

    Attributes:
        port: the port.

    Raises:
        OSError: there is no free port, or no 127.0.0.1.
    """

    def __init__(self, ephemeral: range | None = None) -> None:
        for port in _candidates(ephemeral_ports() if ephemeral is None else ephemeral):
            with ExitStack() as unless_free:
                lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                unless_free.callback(lock.close)
                if _bind(lock, HOST, port) and _is_free(port):
                    unless_free.pop_all()
                    self._lock = lock
                    self.port = port
                    return
        raise OSError(errno.EADDRINUSE, "all ports that an app could have are in use")

    def close(self) -> None:
        """Let others have the port."""
        self._lock.close()


def _candidates(ephemeral: range) -> Iterator[int]:
    """Return ports to try, the best first."""
    above = range(max(ephemeral.stop, _FIRST_PORT), _MAX_PORT + 1)
    below = range(_FIRST_PORT, ephemeral.start)
    for ports in (above, below):
        usable = [port for port in ports if port not in _WELL_KNOWN]
        yield from random.sample(usable, len(usable))
    if not above and not below:
        for _ in range(_FREE_PORT_ATTEMPTS):
            with closing(socket.socket()) as free:
                free.bind((HOST, 0))
                port: int = free.getsockname()[1]
            yield port


def _bind(sock: socket.socket, host: str, port: int) -> bool:
    """Bind a socket, unless the port is in use or reserved by the system."""
    try:
        sock.bind((host, port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        return False
    return True


def _is_free(port: int) -> bool:
    """Whether any server could bind a port, on whichever address of this machine."""
    with closing(socket.socket()) as probe:
        if not _bind(probe, "", port):
            return False
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            return _bind(probe, "", port)
    except OSError:
        return True  # there is no IPv6 here


def clear_time_wait(port: int) -> None:
    """Make a port that no server listens on bindable again for servers without SO_REUSEADDR.

    Connections that a server closed first stay in TIME_WAIT for a minute, and keep such a server
    from binding the port. Each one ends at once when its other end, which is on this machine,
    begins a new connection by the same two ports: the kernel answers with the old connection's
    state, and the reset that follows ends it. Linux only; elsewhere this does nothing. For a
    thread, which it may block for a tenth of a second.

    The port is never bound meanwhile, not even to see whether it is free: a server that is just
    starting would find it in use.

    Args:
        port: of 127.0.0.1.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):  # a sandbox that lets nobody ask for sockets
        for _ in range(_CLEAR_ATTEMPTS):
            if not sockets_on(port) or has_listener(port):
                return
            for connection in sockets_on(port, TIME_WAIT):
                _reset(connection)
            if sockets_on(port):
                # What is left may be in TIME_WAIT as soon as the agent has closed its end.
                time.sleep(_CLEAR_PAUSE_S)


def _reset(connection: SocketEntry) -> None:
    """End a connection in TIME_WAIT from its other end."""
    host, port, remote_host, remote_port = connection
    with closing(socket.socket()) as other_end, suppress(OSError):
        other_end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other_end.setblocking(False)
        if not _bind(other_end, remote_host, remote_port):
            # Connections to elsewhere have the same port, which bind does not share with them, but
            # connect does. From Linux 6.3 on.
            only_port = struct.pack("=I", remote_port | remote_port << 16)
            other_end.setsockopt(socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, only_port)
        other_end.connect((host, port))


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
    """Whether a TCP connection to ``host:port`` succeeds within ``timeout_s`` seconds. For a
    thread, which it blocks."""
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
