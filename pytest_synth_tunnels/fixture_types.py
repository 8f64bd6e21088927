"""The types of fixtures that are functions: who annotates them so has wrong arguments reported.

The functions themselves are :meth:`.serving.app_servers.AppServers.serve` and
:func:`.lease.expose`.
"""

from typing import Literal, Protocol

from .lease import ExposedLease
from .serving import Server

__all__ = ["SynthExpose", "SynthServe"]


class SynthServe(Protocol):
    """The fixture ``synth_serve``."""

    def __call__(self, app: object, *, port: int | None = None) -> Server:
        """Serve an ASGI or WSGI application in a thread of this process, and return when it
        accepts.

        Args:
            app: the application; a function without arguments that returns it; or
                ``"module:attribute"``, found from pytest's rootdir or ``sys.path``.
            port: the local port; 0 for a free one; by default the one that ``synth_lease``
                exposes.

        Returns:
            The server, also a context manager; it is stopped with the run at the latest.

        Raises:
            ServeError: it cannot be served; if its start-up failed, the cause is its exception.
            ValueError: ``port`` is no port.
            KeeperError: the exposed port cannot be had.
        """


class SynthExpose(Protocol):
    """The fixture ``synth_expose``."""

    def __call__(
        self,
        target: int | str,
        *,
        provider: str | None = None,
        ttl_s: float | None = None,
        name: str | None = None,
        require_token: bool | None = None,
        url_style: Literal["root", "path"] | None = None,
        host_header: str | None = None,
        strip_prefix: bool | None = None,
    ) -> ExposedLease:
        """Open a lease of its own for a port or a URL.

        Args:
            target: a port of 127.0.0.1, or a URL such as ``http://localhost:8000``, whose host
                the app then sees as ``Host``.
            provider: what gives it its public URL, as ``synth_tunnels_provider`` names it; by
                default the run's. A public one leaves the URL open to everybody who knows it.
            ttl_s: how long it lasts, in seconds; by default as ``synth_tunnels_ttl_s`` says.
            name: what the backend's listings call it.
            require_token: whether a caller must send ``headers``; by default as
                ``synth_tunnels_require_token`` says. Without a token, everybody who knows the URL
                gets through, which only the embedded backend grants.
            url_style: ``root`` for an origin of its own, which only the embedded backend gives,
                or ``path`` for a URL with a path; by default as ``synth_tunnels_url_style`` says.
            host_header: what the app sees as ``Host``: ``auto``, ``target``, ``public`` or a
                host; by default as ``synth_tunnels_host_header`` says.
            strip_prefix: whether the app sees its paths without the path of the public URL; by
                default as ``synth_tunnels_strip_prefix`` says.

        Returns:
            The lease, also a context manager; it is released with the run if nobody closes it.

        Raises:
            TypeError: ``target`` is neither a port nor a URL.
            ValueError: ``target`` is a port that there is not.
            KeeperError: the backend or the keeper refused, or there is no such provider.
        """
