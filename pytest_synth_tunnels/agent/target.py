"""Where a lease's traffic goes, and how a request and a redirect are rewritten for it. No I/O."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ..http.headers import HOP_BY_HOP, Headers, HeaderTable
from ..wire.frames import WORKER_TOKEN_HEADER, ReqHeaders

__all__ = ["Target", "UrlRewriter", "split_address"]

_FORWARDED: Final = frozenset(
    {
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-synthtunnel-lease-id",
        "x-synthtunnel-request-id",
    }
)
"""What the relay says of the caller; said here where it does not."""

_NOTED: Final = (
    HOP_BY_HOP
    | _FORWARDED
    | {WORKER_TOKEN_HEADER, "host", "content-length", "expect", "x-forwarded-prefix"}
)
_RELAYS_OWN: Final = ("x-forwarded-", "x-synthtunnel-")
"""Not the caller's, so its ``Connection`` cannot remove them."""

_MAX_DIGITS: Final = 19
"""Of a length in bytes; one with more is as good as unknown."""
_LOCATIONS: Final = frozenset({"location", "content-location"})
_ABSOLUTE = re.compile(r"(?:https?:)?//([^/?#\\]*)", re.IGNORECASE)
_ADDRESS = re.compile(r"/(?:~|%7[Ee])([^/]+)")
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


def _kind(name: str) -> str:
    """Return the lower case of a name that is not simply passed on, else an empty string."""
    lower = name.lower()
    return lower if lower in _NOTED else ""


_kinds = HeaderTable(_kind)


@dataclass(frozen=True, slots=True)
class Target:
    """A local HTTP server.

    Attributes:
        host: name or address to connect to.
        port: TCP port.
        host_header: what the app sees as ``Host``; host and port unless given.
        names_host: the user named that host, so that the app always sees it.
    """

    host: str
    port: int
    host_header: str = ""
    names_host: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        if self.host_header:
            object.__setattr__(self, "names_host", True)
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            object.__setattr__(self, "host_header", f"{host}:{self.port}")

    @property
    def name(self) -> str:
        """Host and port for people, also where ``Host`` says something else."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def from_url(cls, url: str) -> "Target":
        """Read a URL such as ``http://localhost:8000``.

        Args:
            url: with a host; the port is 80 unless it names one.

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
        return cls(parts.hostname, 80 if port is None else port, parts.netloc)


class UrlRewriter:
    """A target under its public URL.

    Args:
        lease_id: whose traffic it is.
        public_url: the lease's public URL.
        address: the part of it that names this target, ``""`` for none.
        target: where the traffic goes.
        origin: the origin at whose root the target answers; empty where it answers at its address
            below the lease's public URL. At a root the app sees the ``Host`` that the caller sent,
            unless the user named one for the target.
    """

    def __init__(
        self, lease_id: str, public_url: str, address: str, target: Target, origin: str = ""
    ) -> None:
        self.target = target
        self.origin = origin
        if origin:
            self.public_url = origin
        else:
            self.public_url = public_url.rstrip("/") + (f"/~{address}" if address else "")
        self._callers_host = bool(origin) and not target.names_host
        parts = urlsplit(self.public_url)
        self.prefix = parts.path
        """What the app does not see of the path."""
        self._authority = parts.netloc.lower()
        lease_path = urlsplit(public_url).path.rstrip("/")
        parent = lease_path[: lease_path.rfind("/") + 1]
        # Whatever lies beside this lease on the relay is another lease's, and stays as it is.
        self._siblings = parent if len(parent) > 1 else lease_path or "/~"
        port = f":{target.port}"
        self._own = {target.host_header.lower(), target.name, target.host + port}
        if target.host in _LOOPBACK or target.host == "::1":
            self._own |= {host + port for host in _LOOPBACK}
        if target.port == 80:
            self._own |= {name.removesuffix(port) for name in self._own}
        host = parts.netloc if self._callers_host else target.host_header
        self._host = f"Host: {host}\r\n"
        if self.prefix:
            self._host += f"X-Forwarded-Prefix: {self.prefix}\r\n"
        self._defaults = {
            "x-forwarded-host": f"X-Forwarded-Host: {parts.netloc}\r\n",
            "x-forwarded-proto": f"X-Forwarded-Proto: {parts.scheme}\r\n",
            "x-synthtunnel-lease-id": f"X-SynthTunnel-Lease-Id: {lease_id}\r\n",
        }

    def request_head(self, frame: ReqHeaders, path: str) -> tuple[str, int | None]:
        """Write a request as the app gets it, but for how its body is framed.

        Args:
            frame: the caller's request.
            path: what is left of its path without the address.

        Returns:
            The request line and the headers, each with its line end; and the length of the body
            in bytes, if the caller said one.
        """
        query = frame.query
        lines = [
            f"{frame.method} {path}?{query} HTTP/1.1\r\n"
            if query
            else f"{frame.method} {path} HTTP/1.1\r\n",
            self._host,
        ]
        length = ""
        connection = ""
        said: set[str] = set()
        for name, value in frame.headers:
            kind = _kinds[name]
            if not kind:
                lines.append(f"{name}: {value}\r\n")
            elif kind in _FORWARDED:
                said.add(kind)
                lines.append(f"{name}: {value}\r\n")
                if self._callers_host and kind == "x-forwarded-host":
                    lines[1] = f"Host: {value}\r\n"
            elif kind == "content-length":
                length = value.strip() if length in ("", value.strip()) else "?"
            elif kind == "connection":
                connection += f",{value}"
        if len(said) < len(_FORWARDED):
            lines += [line for kind, line in self._defaults.items() if kind not in said]
            if "x-synthtunnel-request-id" not in said:
                lines.append(f"X-SynthTunnel-Request-Id: {frame.rid}\r\n")
        if connection:
            named = tuple(
                f"{token}:"
                for token in map(str.strip, connection.lower().split(","))
                if token and not token.startswith(_RELAYS_OWN)
            )
            lines[2:] = [line for line in lines[2:] if not line.lower().startswith(named)]
        known = length.isascii() and length.isdigit() and len(length) <= _MAX_DIGITS
        return "".join(lines), int(length) if known else None

    def response_headers(self, headers: Headers) -> Headers:
        """Return an app's response headers with redirects to itself made public."""
        return [
            (name, self.publish(value) if name.lower() in _LOCATIONS else value)
            for name, value in headers
        ]

    def publish(self, location: str) -> str:
        """Return a URL that the app gave, as a caller can reach it.

        URLs of the app itself get the public one in front; those that are public already, lead
        elsewhere or are relative to the request stay.
        """
        found = _ABSOLUTE.match(location)
        if found is None:
            if self.prefix and location.startswith("/") and not _is_under(location, self.prefix):
                return self.public_url + location
            return location
        authority = found[1].lower()
        rest = location[found.end() :]
        if authority == self._authority:
            if self.prefix and not rest.startswith(self._siblings):
                return self.public_url + _rooted(rest)
            return location
        if authority in self._own:  # also as https: the app may believe X-Forwarded-Proto
            if _is_under(rest, self.prefix):
                rest = rest[len(self.prefix) :]
            return self.public_url + _rooted(rest)
        return location


def split_address(path: str) -> tuple[str, str]:
    """Split ``/~gw1/x`` into the address ``gw1`` and ``/x``; the address may be empty."""
    if path.startswith(("/~", "/%7")):
        found = _ADDRESS.match(path)
        if found is not None:
            return found[1], path[found.end() :] or "/"
    return "", path


def _is_under(path: str, prefix: str) -> bool:
    """Tell whether ``path`` is ``prefix`` or lies under it."""
    return bool(prefix) and path.startswith(prefix) and path[len(prefix) :][:1] in ("", *"/?#")


def _rooted(rest: str) -> str:
    """Return what follows an authority, beginning with a slash."""
    return rest if rest.startswith("/") else f"/{rest}"
