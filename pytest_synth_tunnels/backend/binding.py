"""Where origins listen, and the host that their URLs name.

The control plane of a backend is always on loopback. Origins are for callers, who may be in a
container or on another machine: a binding says on which address of this machine the origins
listen, and how callers name that address.
"""

import ipaddress
import socket
import struct
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..sdk.resolve import is_loopback

if TYPE_CHECKING:
    import ssl

__all__ = ["LOOPBACK", "Binding", "netloc", "resolve_binding"]

LOOPBACK: Final = "127.0.0.1"

_EVERY_ADDRESS: Final = ("0.0.0.0", "::")
_SIOCGIFADDR: Final = 0x8915
"""Of Linux: the first IPv4 address of an interface."""
_INTERFACE_REQUEST: Final = struct.Struct("16s24x")
_ADDRESS_AT: Final = slice(20, 24)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ELSEWHERE: Final = ("192.0.2.1", "2001:db8::1")
"""Addresses for documentation, which are nobody's: nothing is sent there."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where origins listen.

    Attributes:
        address: an address of this machine; ``0.0.0.0`` and ``::`` mean all of them, the latter
            those of both protocols where the system can listen to both with one socket.
        public_host: the host that URLs name: a name, or an address without brackets.
        ssl_context: of the server, for https; ``None`` for http.
    """

    address: str = LOOPBACK
    public_host: str = LOOPBACK
    ssl_context: "ssl.SSLContext | None" = field(default=None, repr=False)

    @property
    def scheme(self) -> str:
        """``https`` or ``http``."""
        return "http" if self.ssl_context is None else "https"

    @property
    def is_exposed(self) -> bool:
        """Whether callers reach it who are not on this machine."""
        return not is_loopback(self.address)

    @property
    def near_address(self) -> str:
        """The address by which this machine itself reaches what listens here."""
        if self.address == "0.0.0.0" or (self.address == "::" and socket.has_dualstack_ipv6()):
            return LOOPBACK
        return "::1" if self.address == "::" else self.address

    def listen(self, port: int, backlog: int) -> socket.socket:
        """Return a socket that listens here.

        Args:
            port: 0 for any free one.
            backlog: how many connections may wait to be taken.

        Raises:
            OSError: it cannot.
        """
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if self.address == "::" and socket.has_dualstack_ipv6():
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if port and sys.platform != "win32":
                # The last run's connections are in TIME_WAIT for a minute.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.address, port))
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
        return listener


def resolve_binding(bind: str = LOOPBACK, public_host: str | None = None) -> Binding:
    """Return the binding that the settings name.

    Without a public host, URLs name the address that is listened on, and an interface's address
    where an interface is named. All addresses have no name in common: then URLs name the one by
    which this machine reaches others (that of its default route), or else its host name.

    Args:
        bind: an address of this machine, the name of an interface (on Linux), ``0.0.0.0`` or
            ``::``.
        public_host: the host that URLs name; it need not resolve on this machine.

    Raises:
        ValueError: it is neither an address nor an interface of this machine; the message says
            what there is.
    """
    address = _address_of(bind)
    if public_host is None:
        public_host = _outward_address() if address in _EVERY_ADDRESS else address
    return Binding(address, public_host.strip("[]"))


def netloc(host: str, port: int, scheme: str = "http") -> str:
    """Return a host with its port as a URL names them: without the scheme's own port."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port == _DEFAULT_PORTS[scheme] else f"{shown}:{port}"


def _address_of(bind: str) -> str:
    if bind == "localhost":
        return LOOPBACK
    try:
        address = ipaddress.ip_address(bind.strip("[]"))
    except ValueError:
        return _interface_address(bind)
    if address.is_link_local and address.version == 6:
        raise ValueError(f"{bind} is a link-local address, which no URL can name: choose another")
    return str(address)


def _interface_address(name: str) -> str:
    if sys.platform != "linux":
        raise ValueError(
            f"{name!r} is no address, and interfaces can be named on Linux alone: give an address "
            "of this machine"
        )
    known = [interface for _, interface in socket.if_nameindex()]
    if name not in known:
        raise ValueError(
            f"{name!r} is neither an address nor an interface of this machine, which has "
            f"{', '.join(known)}"
        )
    from fcntl import ioctl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = ioctl(probe, _SIOCGIFADDR, _INTERFACE_REQUEST.pack(name.encode()))
        except OSError:
            raise ValueError(
                f"the interface {name!r} has no IPv4 address: give one of its IPv6 addresses"
            ) from None
    return socket.inet_ntoa(answer[_ADDRESS_AT])


def _outward_address() -> str:
    """Return the address by which this machine reaches others; its host name if it reaches none."""
    for family, elsewhere in zip((socket.AF_INET, socket.AF_INET6), _ELSEWHERE, strict=True):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))  # chooses a route, and sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return socket.gethostname()
