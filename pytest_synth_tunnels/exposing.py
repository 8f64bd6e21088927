"""What the fixtures ``exposed_socket`` and ``synth_expose`` do."""

import socket
from collections.abc import Callable
from typing import Literal

from ._unpatched import unpatched
from .keeper.ipc.client import KeeperClient
from .keeper.ipc.messages import Expose, LeaseInfo
from .lease import ExposedLease

__all__ = ["exposer", "listen"]

_BACKLOG = 128


def listen(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1.

    Args:
        port: the local port.

    Raises:
        OSError: somebody else listens there.
    """
    listener = unpatched.python_socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if unpatched.is_posix:
            # The keeper holds this port with the same option, and does not listen on it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def exposer(keeper: KeeperClient) -> Callable[..., ExposedLease]:
    """Return the function that the fixture ``synth_expose`` gives to a test."""

    def synth_expose(
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
        """Open a lease of its own.

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
            url_style: ``root`` for an origin of its own, which only the embedded backend gives, or
                ``path`` for a URL with a path; by default as ``synth_tunnels_url_style`` says.
            host_header: what the app sees as ``Host``: ``auto``, ``target``, ``public`` or a host;
                by default as ``synth_tunnels_host_header`` says.
            strip_prefix: whether the app sees its paths without the path of the public URL; by
                default as ``synth_tunnels_strip_prefix`` says.

        Raises:
            KeeperError: the backend or the keeper refused, or there is no such provider.
        """
        __tracebackhide__ = True
        request = Expose(
            target=str(target),
            provider=provider,
            ttl_s=ttl_s,
            name=name,
            require_token=require_token,
            url_style=url_style,
            host_header=host_header,
            strip_prefix=strip_prefix,
        )
        return ExposedLease(keeper, keeper.ask(request, LeaseInfo))

    return synth_expose
