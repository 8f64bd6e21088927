"""A local server that traffic goes to, and which host it is told. No I/O."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ..sdk.resolve import is_loopback

__all__ = ["AUTO", "PUBLIC", "TARGET", "Target"]

AUTO: Final = "auto"
"""The host that the user named for a target; else the caller's own at the root of an origin on this
machine, and the target's elsewhere, because development servers refuse hosts they do not know."""

TARGET: Final = "target"
"""The target's host: the one that the user named, else the address it listens at."""

PUBLIC: Final = "public"
"""The host by which the caller reached the tunnel."""

_HOST = re.compile(r"(?:(?![/?#@\\,])[!-~])+")


@dataclass(frozen=True, slots=True)
class Target:
    """A local HTTP server, and how requests are addressed to it.

    Every name below ``localhost`` is this machine, whatever a resolver says of it (RFC 6761): it
    becomes ``localhost``, and is kept for ``Host`` alone. A zone is taken off a loopback address.

    Attributes:
        host: name or address to connect to.
        port: TCP port to connect to.
        named_host: the host (and port) as the user named it, such as ``shop.localhost:8000``; empty
            where the user gave a port alone.
        host_header: which ``Host`` the app sees: :data:`AUTO`, :data:`TARGET`, :data:`PUBLIC`, or
            a host of its own such as ``shop.example``. Where that is not the host that the caller
            used, ``Origin``, ``Referer`` and the like are rewritten with it.
        strip_prefix: whether the part of the public URL's path that names the lease is taken off
            the path that the app sees, and put back in what the app answers; else the app sees
            the whole path, as an app with a base path of its own wants it. Without such a part, at
            the root of an origin, this makes no difference.
        is_inbox: it is no app of the user's, but answers for an inbox.

    Raises:
        ValueError: the port or ``host_header`` cannot be used.
    """

    host: str
    port: int
    named_host: str = ""
    host_header: str = AUTO
    strip_prefix: bool = True
    is_inbox: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        address, zone, _ = self.host.partition("%")
        if zone and is_loopback(address):
            # A resolver would be asked for it, and Host may not have it.
            object.__setattr__(self, "host", address)
            object.__setattr__(self, "named_host", "")
        elif self.host.lower().rstrip(".").endswith(".localhost"):
            object.__setattr__(self, "named_host", self.named_host or self.name)
            object.__setattr__(self, "host", "localhost")
        if not _HOST.fullmatch(self.host_header):
            raise ValueError(
                f"host_header {self.host_header!r} is neither {AUTO}, {TARGET}, {PUBLIC} nor a "
                "host such as shop.example or shop.example:8000"
            )

    @property
    def name(self) -> str:
        """Host and port that are connected to, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def own_host(self) -> str:
        """What a caller beside the target would send as ``Host``."""
        return self.named_host or self.name

    @classmethod
    def from_url(cls, url: str, *, host_header: str = AUTO, strip_prefix: bool = True) -> "Target":
        """Read a URL such as ``http://localhost:8000``.

        Args:
            url: with a host; the port is 80 unless it names one.
            host_header: as in :class:`Target`.
            strip_prefix: as in :class:`Target`.

        Raises:
            ValueError: it names no server that speaks plain HTTP, or more than a server.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not like http://localhost:8000 (only http is spoken)")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{url!r} names more than a server: give host and port alone")
        try:
            port = parts.port
        except ValueError:
            raise ValueError(f"{url!r}: the port is not between 1 and 65535") from None
        port = 80 if port is None else port
        return cls(parts.hostname, port, parts.netloc, host_header, strip_prefix)
