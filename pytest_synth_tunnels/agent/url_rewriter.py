"""How a request is written for a target, and what the target answers for the caller. No I/O.

A caller knows an app by its public URL, and the app knows itself by its own host and by paths that
begin at its root. Where the two differ, what names the app is mapped: *inwards* in the headers of
a request, so that the app recognises itself, and *outwards* in the headers of its answer, so that
the caller comes back by the tunnel. Bodies are never changed.

What differs depends on two things, which are settled once for each rewriter:

- The *prefix* is the path of the public URL, such as ``/s/rt_1/~gw1``. It is taken off the path
  that the app sees, and put back, unless the target wants to see it (``strip_prefix``). At the root
  of an origin there is none.
- The *host* that the app sees (``host_header``) is the caller's own or another one.

At the root of an origin with the caller's own host nothing of a request is mapped, and of an
answer only URLs that name the target itself.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from ..http.headers import HOP_BY_HOP, Headers, HeaderTable
from ..sdk.resolve import is_loopback
from ..traffic.place import Place, RecordedApp
from ..wire.frames import WORKER_TOKEN_HEADER, ReqHeaders
from .target import AUTO, PUBLIC, TARGET, Target

__all__ = ["UrlRewriter", "split_address"]

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
_INWARD: Final = frozenset({"origin", "referer", "destination", "if"})
"""Headers of a request that name URLs of the app; the last two are WebDAV's."""

_OUTWARD: Final = frozenset(
    {
        "location",
        "content-location",
        "link",
        "refresh",
        "set-cookie",
        "access-control-allow-origin",
    }
)
"""Headers of an answer that name URLs, paths or hosts of the app. The connection that reads an
answer tells whether one of them is there (``located`` of
:meth:`~..http.client_connection.ResponseHandler.response_started`)."""

_KEPT: Final = ("content-length", "x-forwarded-", "x-synthtunnel-")
"""What a caller's ``Connection`` cannot remove: the message's own length, and the relay's words."""

_MAX_DIGITS: Final = 19
"""Of a length in bytes; one with more is as good as unknown."""

_ABSOLUTE: Final = re.compile(r"(?:https?:)?//([^/?#\\]*)", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"/(?:~|%7[Ee])([^/?*]+)")
_BRACKETED: Final = re.compile(r"<([^>]*)>")
_REFRESH: Final = re.compile(r"""(;\s*url\s*=\s*["']?)([^"']*)""", re.IGNORECASE)
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def _request_kind(name: str) -> str:
    """Return the lower case of a name that is not simply passed on, else an empty string."""
    lower = name.lower()
    return lower if lower in _NOTED else ""


def _mapped_request_kind(name: str) -> str:
    """Return the same where headers are mapped inwards too."""
    lower = name.lower()
    return lower if lower in _NOTED or lower in _INWARD else ""


def _response_kind(name: str) -> str:
    """Return the lower case of a name that may be mapped outwards, else an empty string."""
    lower = name.lower()
    return lower if lower in _OUTWARD else ""


_request_kinds: Final = HeaderTable(_request_kind)
_mapped_request_kinds: Final = HeaderTable(_mapped_request_kind)
_response_kinds: Final = HeaderTable(_response_kind)


class UrlRewriter:
    """A target under its public URL.

    Args:
        lease_id: whose traffic it is.
        public_url: the lease's public URL.
        address: the part of it that names this target, ``""`` for none.
        target: where the traffic goes.
        origin: the origin at whose root the target answers; empty where it answers at its address
            below the lease's public URL. It may have a path, which is then the prefix.
        loopback_origin: the same origin as callers on this machine name it, if they do so in
            another way.
    """

    def __init__(
        self,
        lease_id: str,
        public_url: str,
        address: str,
        target: Target,
        origin: str = "",
        loopback_origin: str = "",
    ) -> None:
        self.target = target
        self.recorded_app = RecordedApp(
            Place(lease_id, address),
            "" if target.is_inbox else f"http://{target.name}",
            "inbox" if target.is_inbox else "app",
        )
        """How its requests are recorded."""
        self.origin = origin
        self.loopback_origin = loopback_origin
        self.public_url = origin or public_url.rstrip("/") + (f"/~{address}" if address else "")
        parts = urlsplit(self.public_url)
        self.prefix = parts.path if target.strip_prefix else ""
        """What the app does not see of the path."""
        self._kept = "" if target.strip_prefix else parts.path
        """What the app sees of the path although the agent got the path without it."""
        self._public_origin = f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"
        self._public_authorities = _aliases(
            parts.netloc.lower(), urlsplit(loopback_origin or self.public_url).netloc.lower()
        )
        lease_path = urlsplit(public_url).path.rstrip("/")
        parent = lease_path[: lease_path.rfind("/") + 1]
        # Whatever lies beside this lease on the relay is another lease's, and stays as it is. An
        # origin is one lease's alone.
        self._siblings = parent if len(parent) > 1 else lease_path or "/~"
        if origin:
            self._siblings = parts.path or "/~"

        at_root_here = bool(origin) or (not parts.path and is_loopback(parts.hostname or ""))
        wanted = target.host_header
        self._callers_host = wanted == PUBLIC or (
            wanted == AUTO and not target.named_host and at_root_here
        )
        if self._callers_host:
            self._host = parts.netloc
        else:
            self._host = target.own_host if wanted in (AUTO, TARGET) else wanted
        self._own = _aliases(self._host.lower(), target.own_host.lower(), target.name)
        if target.port == 80:
            self._own |= {name.removesuffix(":80") for name in self._own}
        self._own -= self._public_authorities

        self._prefix_line = f"X-Forwarded-Prefix: {self.prefix}\r\n" if self.prefix else ""
        self._first_lines = f"Host: {self._host}\r\n{self._prefix_line}"
        self._defaults = {
            "x-forwarded-host": f"X-Forwarded-Host: {parts.netloc}\r\n",
            "x-forwarded-proto": f"X-Forwarded-Proto: {parts.scheme}\r\n",
            "x-synthtunnel-lease-id": f"X-SynthTunnel-Lease-Id: {lease_id}\r\n",
        }
        maps = self.prefix or not self._callers_host
        self._kinds = _mapped_request_kinds if maps else _request_kinds

    # --- inwards

    def request_head(self, frame: ReqHeaders, path: str) -> tuple[str, int | None]:
        """Write a request as the app gets it, but for how a body of unknown length is framed.

        Args:
            frame: the caller's request.
            path: what is left of its path without the address. With a question mark at its end,
                the caller sent an empty query.

        Returns:
            The request line and the headers, each with its line end, among them the length of the
            body if the caller said one; and that length in bytes.
        """
        query = frame.query
        if self._kept:
            path = self._kept + path
        lines = [
            f"{frame.method} {path}?{query} HTTP/1.1\r\n"
            if query
            else f"{frame.method} {path} HTTP/1.1\r\n",
            self._first_lines,
        ]
        kinds = self._kinds
        length = ""
        length_at = 0
        connection = ""
        callers_host = ""
        inward: list[tuple[int, str, str, str]] | None = None
        said: set[str] = set()
        for name, value in frame.headers:
            kind = kinds[name]
            if not kind:
                lines.append(f"{name}: {value}\r\n")
            elif kind in _FORWARDED:
                said.add(kind)
                if kind == "x-forwarded-host":
                    callers_host = value
                lines.append(f"{name}: {value}\r\n")
            elif kind == "content-length":
                if not length_at:
                    length, length_at = value.strip(), len(lines)
                    lines.append(f"{name}: {length}\r\n")
                elif length != value.strip():
                    length = "?"
            elif kind == "connection":
                connection += f",{value}"
            elif kind in _INWARD:
                if inward is None:
                    inward = []
                inward.append((len(lines), kind, name, value))
                lines.append("")
        if callers_host and self._callers_host:
            lines[1] = f"Host: {callers_host}\r\n{self._prefix_line}"
        if inward is not None:
            for index, kind, name, value in inward:
                lines[index] = f"{name}: {self._localize_header(kind, value, callers_host)}\r\n"
        if len(said) < len(_FORWARDED):
            lines += [line for kind, line in self._defaults.items() if kind not in said]
            if "x-synthtunnel-request-id" not in said:
                lines.append(f"X-SynthTunnel-Request-Id: {frame.rid}\r\n")
        length_bytes: int | None = None
        if length_at:
            if length.isascii() and length.isdigit() and len(length) <= _MAX_DIGITS:
                length_bytes = int(length)
            else:
                lines[length_at] = ""
        if connection:
            named = tuple(
                f"{option}:"
                for option in map(str.strip, connection.lower().split(","))
                if option and not option.startswith(_KEPT)
            )
            lines[2:] = [line for line in lines[2:] if not line.lower().startswith(named)]
        return "".join(lines), length_bytes

    def _localize_header(self, kind: str, value: str, callers_host: str) -> str:
        if kind == "if":
            return _BRACKETED.sub(lambda m: f"<{self.localize(m[1], callers_host)}>", value)
        return self.localize(value, callers_host)

    def localize(self, url: str, callers_host: str = "") -> str:
        """Return a URL that the caller gave, as a caller beside the app would give it.

        Args:
            url: what names another server, or another lease, stays as it is.
            callers_host: the host that the caller used, if it may be another one than that of
                the public URL.
        """
        found = _ABSOLUTE.match(url)
        if found is None:
            return _rooted(url[len(self.prefix) :]) if _is_under(url, self.prefix) else url
        authority = found[1].lower()
        if authority not in self._public_authorities and authority != callers_host.lower():
            return url
        start, rest = url[: found.end()], url[found.end() :]
        if self.prefix:
            if _is_under(rest, self.prefix):
                rest = _rooted(rest[len(self.prefix) :])
            elif rest.startswith(self._siblings):
                return url
        return (start if self._callers_host else f"http://{self._host}") + rest

    # --- outwards

    def response_headers(self, headers: Headers, path: str) -> Headers:
        """Return an app's response headers with what names the app made public.

        Args:
            headers: what the app said.
            path: the path that it was asked for, as :meth:`request_head` got it.
        """
        mapped: Headers = []
        for name, value in headers:
            kind = _response_kinds[name]
            if not kind:
                pass
            elif kind == "set-cookie":
                value = self._publish_cookie(value, path)
            elif kind == "link":
                value = _BRACKETED.sub(lambda m: f"<{self.publish(m[1])}>", value)
            elif kind == "refresh":
                value = _REFRESH.sub(lambda m: m[1] + self.publish(m[2]), value)
            elif kind == "access-control-allow-origin":
                value = self._public_origin if self._is_own_origin(value) else value
            else:
                value = self.publish(value)
            mapped.append((name, value))
        return mapped

    def publish(self, url: str) -> str:
        """Return a URL that the app gave, as a caller can reach it.

        URLs of the app itself get the public origin and the prefix; those that are public already,
        lead elsewhere or are relative to the request stay.
        """
        found = _ABSOLUTE.match(url)
        prefix = self.prefix
        if found is None:
            if prefix and url.startswith("/") and not _is_under(url, prefix):
                return prefix + url
            return url
        authority = found[1].lower()
        start, rest = url[: found.end()], url[found.end() :]
        if authority in self._public_authorities:
            if self._secure and start[:5].lower() == "http:":
                # The app may not believe X-Forwarded-Proto.
                start = f"https:{start[5:]}"
            if prefix and not rest.startswith(self._siblings):
                return start + prefix + _rooted(rest)
            return start + rest
        if authority in self._own:  # also as https: the app may believe X-Forwarded-Proto
            if prefix and not _is_under(rest, prefix):
                rest = prefix + _rooted(rest)
            return self._public_origin + _rooted(rest)
        return url

    def _is_own_origin(self, origin: str) -> bool:
        found = _ABSOLUTE.fullmatch(origin)
        return found is not None and found[1].lower() in self._own

    def _publish_cookie(self, cookie: str, path: str) -> str:
        """Return a ``Set-Cookie`` whose path and domain the caller's cookies can have.

        A cookie is known by its name, path and domain. ``/`` becomes the prefix without a slash at
        its end, which is also what a caller takes for the path of a cookie that names none, if it
        asked for a page at the app's root.
        """
        name, *attributes = cookie.split(";")
        if name.lstrip().lower().startswith("__host-"):
            return cookie  # Callers refuse it with another path or with a domain.
        if not self._callers_host:
            attributes = [each for each in attributes if not self._is_own_domain(each)]
        if self.prefix:
            self._prefix_path(attributes, path)
        return ";".join([name, *attributes])

    def _prefix_path(self, attributes: list[str], path: str) -> None:
        """Put the prefix into the path that a cookie's attributes name."""
        for index in range(len(attributes) - 1, -1, -1):  # The last one counts.
            key, _, value = attributes[index].partition("=")
            if key.strip().lower() == "path":
                value = value.strip().strip('"')
                if value.startswith("/"):
                    if not _is_under(value, self.prefix):
                        attributes[index] = f"{key}={self.prefix}{value if value != '/' else ''}"
                    return
                break
        if path in ("/", "/?"):
            attributes.append(f" Path={self.prefix}")

    def _is_own_domain(self, attribute: str) -> bool:
        """Tell whether a cookie's attribute gives it to the host that the app knows itself by,
        which is not the one that the caller knows."""
        key, _, value = attribute.partition("=")
        domain = value.strip().strip('"').lower().removeprefix(".")
        if key.strip().lower() != "domain" or not domain:
            return False
        own = urlsplit(f"//{self._host}").hostname or ""
        public = urlsplit(self._public_origin).hostname or ""
        return f".{own}".endswith(f".{domain}") and not f".{public}".endswith(f".{domain}")


def split_address(path: str) -> tuple[str, str]:
    """Split ``/~gw1/x`` into the address ``gw1`` and ``/x``; the address may be empty.

    ``/~gw1*`` is ``*``, the target of a request for the server as a whole (RFC 9112, section
    3.2.4), at the address's own origin.
    """
    if path.startswith(("/~", "/%7")):
        found = _ADDRESS.match(path)
        if found is not None:
            rest = path[found.end() :]
            return found[1], rest if rest == "*" else _rooted(rest)
    return "", path


def _aliases(*authorities: str) -> set[str]:
    """Return these hosts with their ports, and the other names of those that are this machine."""
    found = set(authorities)
    for authority in authorities:
        for host in _LOOPBACK:
            if authority == host or authority.startswith(f"{host}:"):
                found |= {other + authority[len(host) :] for other in _LOOPBACK}
    return found


def _is_under(path: str, prefix: str) -> bool:
    """Tell whether ``path`` is ``prefix`` or lies under it."""
    if not prefix or not path.startswith(prefix):
        return False
    return len(path) == len(prefix) or path[len(prefix)] in "/?#"


def _rooted(rest: str) -> str:
    """Return what follows an authority, beginning with a slash."""
    return rest if rest.startswith("/") else f"/{rest}"
