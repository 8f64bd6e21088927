"""The kernel's table of this machine's TCP sockets, as sock_diag(7) of Linux gives it.

The kernel finds the sockets of one port in less than a millisecond, and one listener in a few
microseconds; reading them from /proc/net/tcp takes longer the more sockets there are.
"""

import _socket
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple

from ._unpatched import unpatched

__all__ = [
    "TIME_WAIT",
    "SocketEntry",
    "has_listener",
    "has_loopback_listener",
    "sockets_on",
]

TIME_WAIT: Final = 6
_LISTEN: Final = 10
"""States, as the kernel numbers them."""
_ANY_STATE: Final = 0xFFFF_FFFF

# The socket module does not know these.
_AF_NETLINK: Final = 16
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER: Final = struct.Struct("=IHHII")
"""Length, kind, flags, sequence number, process."""
_REQUEST: Final = struct.Struct("=BBBxI")
"""Family, protocol, extensions, a bit for each state."""
_SOCKET_ID: Final = struct.Struct("!HH16s16s")
"""Local and remote port, local and remote address."""
_SOCKET_ID_OFFSET: Final = 20
_NO_INTERFACE: Final = bytes(4)
_NO_COOKIE: Final = b"\xff" * 8

_MAX_ANSWER_BYTES: Final = 65_536
_TIMEOUT_S: Final = 1.0


class SocketEntry(NamedTuple):
    """A socket's own end, and the other one."""

    host: str
    port: int
    remote_host: str
    remote_port: int


def has_listener(port: int) -> bool:
    """Return whether a server listens on a port, on any address of this machine.

    Raises:
        OSError: the kernel does not answer.
    """
    return any(sockets_on(port, _LISTEN))


def has_loopback_listener(port: int) -> bool | None:
    """Return whether a socket listens on a port of 127.0.0.1; ``None`` where the kernel cannot be
    asked.

    The kernel looks up the one socket that would take a connection, so this takes the same few
    microseconds however many sockets the machine has. The server does not notice.
    """
    if sys.platform != "linux":
        return None
    loopback = socket.inet_aton("127.0.0.1") + bytes(12)
    # No connection has the remote port 0, so that the listener is found.
    socket_id = _SOCKET_ID.pack(port, 0, loopback, loopback) + _NO_INTERFACE + _NO_COOKIE
    try:
        with _kernel() as kernel:
            _send(kernel, _NLM_F_REQUEST, socket.AF_INET, _ANY_STATE, socket_id)
            answer = kernel.recv(_MAX_ANSWER_BYTES)
    except OSError:
        return None  # a sandbox without these sockets
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _SOCK_DIAG_BY_FAMILY:
        return True
    (error,) = struct.unpack_from("=i", answer, _HEADER.size)
    return False if error == -errno.ENOENT else None


def sockets_on(port: int, state: int | None = None) -> list[SocketEntry]:
    """Return the sockets on a local port; of IPv6 ones, their IPv4 addresses. One that is bound,
    and neither listens nor has a connection, is not among them.

    Args:
        port: the local port.
        state: that they are in; any by default.

    Raises:
        OSError: the kernel does not answer.
    """
    return [*_entries(port, state, socket.AF_INET), *_entries(port, state, socket.AF_INET6)]


def _entries(port: int, state: int | None, family: int) -> Iterator[SocketEntry]:
    states = _ANY_STATE if state is None else 1 << state
    with _kernel() as kernel:
        _send(kernel, _NLM_F_REQUEST | _NLM_F_DUMP, family, states, struct.pack("!H46x", port))
        while True:
            answer = kernel.recv(_MAX_ANSWER_BYTES)
            while answer:
                length, kind, *_ = _HEADER.unpack_from(answer)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel does not list its sockets")
                local, remote, own, other = _SOCKET_ID.unpack_from(answer, _SOCKET_ID_OFFSET)
                yield SocketEntry(_ipv4(own, family), local, _ipv4(other, family), remote)
                answer = answer[length + -length % 4 :]


def _kernel() -> closing[_socket.socket]:
    """Return a socket on which the kernel answers, also while a test blocks sockets."""
    kernel = unpatched.socket(_AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    kernel.settimeout(_TIMEOUT_S)
    return closing(kernel)


def _send(kernel: _socket.socket, flags: int, family: int, states: int, socket_id: bytes) -> None:
    """Ask for sockets: struct nlmsghdr, inet_diag_req_v2 and inet_diag_sockid."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states) + socket_id
    length = _HEADER.size + len(request)
    kernel.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request)


def _ipv4(address: bytes, family: int) -> str:
    return socket.inet_ntoa(address[:4] if family == socket.AF_INET else address[12:])
