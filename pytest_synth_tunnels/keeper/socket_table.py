"""The kernel's table of this machine's TCP sockets, as sock_diag(7) of Linux gives it.

The kernel finds the sockets of one port in less than a millisecond; reading them from
/proc/net/tcp takes longer the more sockets there are.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple

__all__ = ["TIME_WAIT", "SocketEntry", "is_listened_on", "sockets_on"]

TIME_WAIT: Final = 6
_LISTEN: Final = 10
"""States, as the kernel numbers them."""

# The socket module does not know these.
_AF_NETLINK: Final = 16
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER: Final = struct.Struct("=IHHII")
"""Length, kind, flags, sequence number, process."""
_SOCKET_ID: Final = struct.Struct("!HH16s16s")
"""Local and remote port, local and remote address."""
_SOCKET_ID_OFFSET: Final = 20

_MAX_ANSWER_BYTES: Final = 65_536
_TIMEOUT_S: Final = 1.0


class SocketEntry(NamedTuple):
    """A socket's own end, and the other one."""

    host: str
    port: int
    remote_host: str
    remote_port: int


def is_listened_on(port: int) -> bool:
    """Whether a server listens on a port, on any address of this machine.

    Raises:
        OSError: the kernel does not answer.
    """
    return any(sockets_on(port, _LISTEN))


def sockets_on(port: int, state: int) -> list[SocketEntry]:
    """Return the sockets on a local port that are in a state; of IPv6 ones, their IPv4 addresses.

    Raises:
        OSError: the kernel does not answer.
    """
    return [*_ask_kernel(port, state, socket.AF_INET), *_ask_kernel(port, state, socket.AF_INET6)]


def _ask_kernel(port: int, state: int, family: int) -> Iterator[SocketEntry]:
    wanted = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 1 << state)
    wanted += struct.pack("!H46x", port)
    length = _HEADER.size + len(wanted)
    header = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
    with closing(socket.socket(_AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(header + wanted)
        while True:
            answer = kernel.recv(_MAX_ANSWER_BYTES)
            while answer:
                length, kind, *_ = _HEADER.unpack_from(answer)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel does not tell its sockets")
                local, remote, own, other = _SOCKET_ID.unpack_from(answer, _SOCKET_ID_OFFSET)
                yield SocketEntry(_ipv4(own, family), local, _ipv4(other, family), remote)
                answer = answer[length + -length % 4 :]


def _ipv4(address: bytes, family: int) -> str:
    return socket.inet_ntoa(address[:4] if family == socket.AF_INET else address[12:])
