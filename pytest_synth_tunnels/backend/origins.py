"""Origins of a lease's own: ports at whose root a lease, or one address of it, answers.

The path of a lease's URL at the backend breaks what an app says of itself: absolute links, cookies,
Digest, redirects. An origin is one more listening socket, and everything that comes there belongs
to one address of one lease, so that the app answers at the root and sees the caller's own ``Host``.

An origin is *open* from :meth:`Origins.open` on. With the end of its lease, or with
:meth:`Origins.end`, it is *over*: it stays there, and answers 410. It is *closed* when its room is
needed for another one, or with the backend. Those that are over make room first, then the temporary
ones, and of either the oldest; a permanent origin of a live lease is never closed for another one.
The port of a closed origin is used again as late as possible, because a late caller may still know
it: what answers there must not be the app of somebody else.

Origins listen on loopback, unless their :class:`~.binding.Binding` says otherwise. Where others
than this machine reach them, a lease without a worker token has a secret instead: the first segment
of the path of its origins, which nobody can guess, and which the app does not see.
"""

import asyncio
import errno
import secrets
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ..aio.runtime import open_files_allowed
from ..http.exchange import Exchange, RequestHandler
from ..http.server import HttpListener, HttpServer
from ..relay.ingress import Ingress
from ..relay.route import Route
from ..sdk.errors import TunnelUnavailableError
from .binding import Binding, netloc
from .common import RefusedError

if TYPE_CHECKING:
    from ..http.tls import TlsGate, TlsListener

__all__ = ["MAX_ORIGINS", "OriginUrls", "Origins"]

MAX_ORIGINS: Final = 2_048
"""The most origins at a time; each has an open file."""

_MAX_RETIRED: Final = 16_384
"""The most ports of closed origins that are remembered, to be avoided."""
_TRIES: Final = 32
"""How many free ports are looked at for one that no origin has had before."""
_BACKLOG: Final = 1_024
_SECRET_BYTES: Final = 16
_ADVICE: Final = {
    errno.EADDRINUSE: "Another program has this port: end it, or choose another one "
    "(synth_tunnels_public_port)",
    errno.EADDRNOTAVAIL: "synth_tunnels_bind must name an address of this machine",
    errno.EACCES: "Ports below 1024 need a privilege: choose another one "
    "(synth_tunnels_public_port)",
}
"""What to do about an error."""


class OriginUrls(NamedTuple):
    """An origin, as those know it who call it. No URL has a trailing slash.

    Attributes:
        public_url: the URL for callers. It has a path where that is a secret (:attr:`secret_path`).
        loopback_url: the same origin for callers on this machine, who may not know the public
            host.
        listens_on: address and port; empty where only this machine reaches it.
        secret_path: the path of both URLs, where knowing it is all that a caller needs; else empty.
    """

    public_url: str
    loopback_url: str
    listens_on: str = ""
    secret_path: str = ""


@dataclass(eq=False)
class _Origin:
    """One origin."""

    route: Route
    listener: socket.socket
    port: int
    http: HttpListener
    permanent: bool
    """It is closed for others only after its lease has ended."""
    server: "asyncio.Server | TlsListener | None" = None
    """Takes its connections; ``None`` while that is being arranged."""
    ended_because: str = ""
    """Why it is over though its lease lives, as the end of a sentence."""

    @property
    def is_over(self) -> bool:
        return bool(self.ended_because) or self.route.closed

    def close(self) -> None:
        """Close its port and its connections."""
        if self.server is not None:
            self.server.close()
        self.listener.close()
        self.http.close()


def _make_gate(binding: Binding) -> "TlsGate | None":
    """Return what shakes hands with callers, where they speak TLS."""
    if binding.ssl_context is None:
        return None
    # Most runs have no https, and never need the library for it.
    from ..http.tls import TlsGate

    return TlsGate(binding.ssl_context)


class Origins:
    """All origins of a backend.

    Args:
        ingress: takes what comes to them.
        http: the server whose limits hold for all of them together.
        binding: where they listen.
        max_origins: the most origins at a time; fewer where the system allows few open files, since
            each is one, and connections need some too.
    """

    def __init__(
        self,
        ingress: Ingress,
        http: HttpServer,
        *,
        binding: Binding | None = None,
        max_origins: int = MAX_ORIGINS,
    ) -> None:
        self._ingress = ingress
        self._http = http
        self._binding = binding or Binding()
        self._gate = _make_gate(self._binding)
        self._max_origins = min(max_origins, open_files_allowed() * 2 // 3)
        self._origins: dict[tuple[str, str], _Origin] = {}
        """By lease id and address, oldest first."""
        self._retired: dict[int, None] = {}
        """The ports of closed origins; first the one that was closed longest ago."""

    async def open(
        self, route: Route, address: str, *, permanent: bool, port: int | None = None
    ) -> OriginUrls:
        """Open an origin, or find it.

        Args:
            route: of the lease.
            address: the part of the lease that answers there; empty for the lease itself.
            permanent: do not close it for another one while the lease lives.
            port: the port that it is to have; ``None`` for any free one.

        Returns:
            Its URLs.

        Raises:
            RefusedError: 429, there is no room.
            TunnelUnavailableError: it cannot listen there.
        """
        key = route.lease_id, address
        known = self._origins.get(key)
        if known is not None and known.is_over:
            self._close(key)
        if key not in self._origins:
            self._make_room()
            loop = asyncio.get_running_loop()
            gate = self._gate
            http = self._http.listener(partial(self._answer, key), secure=gate is not None)
            listener = self._listen(port)
            port = listener.getsockname()[1]
            origin = self._origins[key] = _Origin(route, listener, port, http, permanent)
            if self._binding.is_exposed and not (route.require_token or route.origin_prefix):
                route.origin_prefix = f"/u_{secrets.token_urlsafe(_SECRET_BYTES)}"
            try:
                if gate is not None:
                    origin.server = gate.serve(listener, http)
                else:
                    origin.server = await loop.create_server(http, sock=listener, backlog=_BACKLOG)
            except BaseException:
                self._close(key)
                raise
        return self._urls(self._origins[key])

    def _urls(self, origin: _Origin) -> OriginUrls:
        binding, port, path = self._binding, origin.port, origin.route.origin_prefix
        scheme = binding.scheme
        return OriginUrls(
            public_url=f"{scheme}://{netloc(binding.public_host, port, scheme)}{path}",
            loopback_url=f"{scheme}://{netloc(binding.near_address, port, scheme)}{path}",
            listens_on=netloc(binding.address, port) if binding.is_exposed else "",
            secret_path=path,
        )

    def end(self, lease_id: str, address: str, reason: str) -> None:
        """Answer 410 at an origin from now on, and let it make room for others.

        Args:
            lease_id: of the lease.
            address: the part of the lease that answered there; nothing happens if it has no origin.
            reason: for callers, as the end of a sentence.
        """
        origin = self._origins.get((lease_id, address))
        if origin is not None:
            origin.ended_because = reason

    def close_all(self) -> None:
        """Close all origins."""
        for key in list(self._origins):
            self._close(key)

    def _answer(self, key: tuple[str, str], exchange: Exchange) -> RequestHandler:
        origin = self._origins[key]
        if origin.ended_because:
            return self._ingress.refuse_over(exchange, origin.ended_because)
        return self._ingress.at_origin(exchange, origin.route, key[1])

    def _make_room(self) -> None:
        """Close an origin if there are as many as there may be.

        Raises:
            RefusedError: 429, none of them can be closed.
        """
        if len(self._origins) < self._max_origins:
            return
        over = (key for key, origin in self._origins.items() if origin.is_over)
        temporary = (key for key, origin in self._origins.items() if not origin.permanent)
        oldest = next(over, None) or next(temporary, None)
        if oldest is None:
            raise RefusedError(
                429,
                "rate_limited",
                f"all {self._max_origins} origins that this backend can hold are in use: close "
                "some leases",
            )
        self._close(oldest)

    def _close(self, key: tuple[str, str]) -> None:
        origin = self._origins.pop(key)
        self._retired.pop(origin.port, None)
        self._retired[origin.port] = None
        while len(self._retired) > _MAX_RETIRED:
            del self._retired[next(iter(self._retired))]
        origin.close()

    def _listen(self, port: int | None) -> socket.socket:
        """Return a listening socket: on this port, or on one that no origin has had before if one
        is found.

        Raises:
            TunnelUnavailableError: it cannot listen there.
        """
        try:
            if port is not None:
                return self._binding.listen(port, _BACKLOG)
            return self._listen_on_a_free_port()
        except OSError as error:
            where = netloc(self._binding.address, port) if port else self._binding.address
            raise TunnelUnavailableError(
                f"its origin cannot listen on {where}: {error.strerror or error}",
                hint=_ADVICE.get(error.errno or 0, ""),
            ) from None

    def _listen_on_a_free_port(self) -> socket.socket:
        avoided: dict[int, socket.socket] = {}
        try:
            for _ in range(_TRIES):
                listener = self._binding.listen(0, _BACKLOG)
                port: int = listener.getsockname()[1]
                if port not in self._retired:
                    return listener
                avoided[port] = listener
            port = next(port for port in self._retired if port in avoided)
            del self._retired[port]
            return avoided.pop(port)
        finally:
            for listener in avoided.values():
                listener.close()
