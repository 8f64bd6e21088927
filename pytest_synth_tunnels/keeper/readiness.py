"""Whether traffic really flows: a nonce through the public URL, and a target that accepts."""

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ..agent.target import Target
from ..aio.tasks import in_thread
from ..http.probe import get
from ..sdk.resolve import is_loopback
from .errors import KeeperRequestError
from .ports import LOOPBACK_HINT, accepts, means_no_loopback

if TYPE_CHECKING:
    import ssl

__all__ = ["wait_ready"]

_ATTEMPT_TIMEOUT_S: Final = 5.0
_PAUSE_NEAR_S: Final = 0.05
_PAUSE_FAR_S: Final = 0.5
_MAX_ANSWER_BYTES: Final = 65_536


async def wait_ready(
    *,
    public_url: str,
    loopback_url: str = "",
    ssl_context: "ssl.SSLContext | None" = None,
    headers: dict[str, str],
    is_secret: bool,
    missing_link: Callable[[], str | None],
    target: Target | None,
    timeout_s: float,
) -> None:
    """Wait until a lease carries requests to an app that accepts them.

    Args:
        public_url: of the lease, with the address.
        loopback_url: the same for callers on this machine, where there is such a URL. Then the
            host of the public one need not resolve here.
        ssl_context: what that URL's certificate is checked with, if it is https.
        headers: what a caller sends along.
        is_secret: whether the URL alone lets callers in.
        missing_link: returns which link between the public URL and this process is known to be
            missing, or ``None``.
        target: the app; ``None`` where it need not accept yet.
        timeout_s: how long to wait, in seconds.

    Raises:
        KeeperRequestError: it is not ready in time; the message says which link is missing.
    """
    near = bool(loopback_url) or _is_near(public_url)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        attempt_s = max(0.05, min(_ATTEMPT_TIMEOUT_S, deadline - loop.time()))
        problem = await _find_problem(public_url, loopback_url, headers, attempt_s, ssl_context)
        if problem is not None:
            problem = missing_link() or problem
        elif target is not None and not await accepts(target.host, target.port, attempt_s):
            problem = f"the app does not listen on {target.name}"
        if problem is None:
            return
        pause_s = _PAUSE_NEAR_S if near else _PAUSE_FAR_S
        if loop.time() + pause_s >= deadline:
            shown = _without_secret(public_url) if is_secret else public_url
            raise KeeperRequestError(
                "TUNNEL_NOT_READY",
                f"{shown} is not ready after {timeout_s:g} s: {problem}",
                "python -m pytest_synth_tunnels doctor looks at each link",
            )
        await asyncio.sleep(pause_s)


async def _find_problem(
    public_url: str,
    loopback_url: str,
    headers: dict[str, str],
    timeout_s: float,
    ssl_context: "ssl.SSLContext | None",
) -> str | None:
    """Send a nonce through the public URL to the agent, and say what is wrong with the answer."""
    nonce = secrets.token_hex(16)
    url = f"{public_url}/__synth/nonce/{nonce}"
    near = bool(loopback_url) or _is_near(public_url)
    try:
        if near:
            place, public = urlsplit(loopback_url or public_url), urlsplit(url)
            status, body = await get(
                place.hostname or "",
                place.port or (443 if place.scheme == "https" else 80),
                public.path,
                host_header=public.netloc,
                headers=headers.items(),
                timeout_s=timeout_s,
                ssl_context=ssl_context if loopback_url else None,
            )
        else:
            host = urlsplit(url).hostname
            if not await in_thread(lambda: _resolves(host)):
                return f"the name {host} does not resolve yet (DNS)"
            status, body = await in_thread(lambda: _get_with_httpx(url, headers, timeout_s))
    except (OSError, ValueError) as error:
        reason = str(error) or "no answer"
        if isinstance(error, OSError) and near and means_no_loopback(error):
            reason += f". {LOOPBACK_HINT}"
        return f"the public URL cannot be reached: {reason}"
    if status == 200:
        return None if nonce.encode() in body else "something else answers at the public URL"
    if status == 503 and b"AGENT_OFFLINE" in body:
        return "the agent is not attached to the relay"
    if status == 401:
        return "the public URL does not accept the worker token (401)"
    if status in (404, 410):
        return f"the public URL does not know the lease any more ({status})"
    return f"the public URL answers {status}"


def _without_secret(url: str) -> str:
    """Return a URL without what nobody can guess of it: its path, else its host."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…" if parts.path else f"{parts.scheme}://…"


def _resolves(host: str | None) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


def _is_near(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and is_loopback(parts.hostname or "")


def _get_with_httpx(url: str, headers: dict[str, str], timeout_s: float) -> tuple[int, bytes]:
    import httpx

    try:
        response = httpx.get(url, headers=headers, timeout=timeout_s)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(str(error) or type(error).__name__) from None
    return response.status_code, response.content[:_MAX_ANSWER_BYTES]
