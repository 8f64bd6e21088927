"""Where a client gets its key and its backend from. Standard library only."""

import ipaddress
import os
import re
from typing import Final
from urllib.parse import urlparse, urlunparse

from ..options import API_KEY_VARIABLE, BACKEND_URL_VARIABLE, DEFAULT_BACKEND_URL
from .errors import TunnelConfigError
from .models import Secret

__all__ = ["is_loopback", "normalize_backend_base", "resolve_api_key", "resolve_backend_base"]

_HEADER_TEXT: Final = re.compile(r"[\t\x20-\x7e]+")


def resolve_api_key(api_key: str | None) -> Secret:
    """Return the key to use: the given one, else the environment's.

    Raises:
        TunnelConfigError: there is none, or it cannot go into a header.
    """
    key = (api_key or "").strip() or os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        raise TunnelConfigError(
            f"An API key is needed: neither api_key nor {API_KEY_VARIABLE} is set",
            code="TUNNEL_AUTH_REQUIRED",
        )
    if not _HEADER_TEXT.fullmatch(key):
        raise TunnelConfigError(
            "The API key holds characters that cannot be sent (line breaks or non-ASCII ones)",
            code="TUNNEL_AUTH_INVALID",
        )
    return Secret(key)


def resolve_backend_base(base_url: str | None) -> str:
    """Return the backend's origin: the given one, else the environment's, else the hosted one.

    Raises:
        TunnelConfigError: it is no http(s) URL, holds credentials, or would carry the key over
            plain http to another machine.
    """
    given = (base_url or "").strip()
    text = given or os.environ.get(BACKEND_URL_VARIABLE, "").strip() or DEFAULT_BACKEND_URL
    source = "The backend URL" if given else f"The backend URL in {BACKEND_URL_VARIABLE}"
    try:
        url = normalize_backend_base(text)
        parts = urlparse(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise TunnelConfigError(f"{source} is not a URL") from None
    if "@" in parts.netloc:
        # Not shown: it is a password. httpx would send it in place of the key, too.
        raise TunnelConfigError(
            f"{source} holds credentials",
            code="TUNNEL_URL_FORBIDDEN",
            hint=f"The key goes into api_key or {API_KEY_VARIABLE}.",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise TunnelConfigError(f"{source}, {url!r}, does not begin with http:// or https://")
    if parts.scheme == "http" and not is_loopback(host):
        raise TunnelConfigError(
            f"{source}, {url!r}, would send the API key unencrypted to another machine",
            code="TUNNEL_URL_FORBIDDEN",
        )
    return url


def normalize_backend_base(url: str) -> str:
    """Return ``url`` without spaces, query, fragment and a trailing ``/``, ``/v1`` and ``/api``."""
    parts = urlparse(url.strip())
    path = parts.path.rstrip("/")
    for segment in ("/v1", "/api"):
        path = path.removesuffix(segment).rstrip("/")
    return urlunparse(parts._replace(path=path, query="", fragment=""))


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, without asking DNS."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
