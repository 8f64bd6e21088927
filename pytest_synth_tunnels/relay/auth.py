"""Who may use a lease's public URL, and which of a caller's headers reach the app. No I/O."""

import hmac
from typing import Final

from ..http.headers import HOP_BY_HOP, Headers, HeaderTable
from ..http.request import RequestHead
from ..wire.frames import WORKER_TOKEN_HEADER

__all__ = ["AuthError", "admit", "same_secret"]

_PASS: Final = 0
_DROP: Final = 1
_AUTHORIZATION: Final = 2
_WORKER_TOKEN: Final = 3
_CONNECTION: Final = 4
_CHAIN: Final = 5

_CHAINS: Final = ("x-forwarded-for", "forwarded")
"""Each proxy on the way adds an element to these; the caller's are kept."""

_OWN: Final = frozenset({"x-forwarded-host", "x-forwarded-prefix", "x-forwarded-proto", *_CHAINS})
"""The headers of proxies that the tunnel writes itself."""


class AuthError(Exception):
    """The caller showed no worker token, or a wrong one.

    Attributes:
        code: the stable code to answer.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _kind(name: str) -> int:
    """Return what is done with a header, whatever the case of its name."""
    lower = name.lower()
    if lower == "authorization":
        return _AUTHORIZATION
    if lower == WORKER_TOKEN_HEADER:
        return _WORKER_TOKEN
    if lower == "connection":
        return _CONNECTION
    if lower in _CHAINS:
        return _CHAIN
    # WSGI and CGI give an app both spellings under one name, so both are replaced.
    dashed = lower.replace("_", "-")
    if dashed in _OWN or dashed.startswith("x-synthtunnel-"):
        return _DROP
    if lower in HOP_BY_HOP or lower in ("host", "expect"):
        return _DROP
    return _PASS


_kinds: Final = HeaderTable(_kind)


def admit(
    head: RequestHead, worker_token: str | None, *, require_token: bool
) -> tuple[Headers, Headers]:
    """Check a caller's worker token, and take out the headers that are not the app's.

    Args:
        head: the request's head.
        worker_token: what callers of this lease show; ``None`` where no token is known.
        require_token: whether a caller without the token is refused. A caller who shows it all
            the same passes too, and the token never reaches the app.

    Returns:
        The headers that reach the app as they are, without framing but for ``Content-Length``:
        neither the worker token nor hop-by-hop headers nor those that the tunnel writes itself.
        And the caller's ``X-Forwarded-For`` and ``Forwarded``, each as one header, for the relay
        to add itself to.

    Raises:
        AuthError: the token is required, and was not shown or is another one.
    """
    passed: Headers = []
    chains: dict[str, tuple[str, str]] | None = None
    shown = False
    admitted = worker_token is None or not require_token
    named: set[str] | None = None
    for pair in head.headers:
        kind = _kinds[pair[0]]
        if kind == _PASS:
            passed.append(pair)
        elif kind == _WORKER_TOKEN:
            shown = True
            if worker_token is not None and same_secret(pair[1].strip(), worker_token):
                admitted = True
        elif kind == _AUTHORIZATION:
            scheme, _, value = pair[1].partition(" ")
            shown = True
            if (
                worker_token is not None
                and scheme.lower() == "bearer"
                and same_secret(value.strip(), worker_token)
            ):
                admitted = True
            else:
                passed.append(pair)
        elif kind == _CHAIN:
            chains = chains or {}
            name, value = pair
            known = chains.get(name.lower())
            chains[name.lower()] = pair if known is None else (known[0], f"{known[1]}, {value}")
        elif kind == _CONNECTION:
            options = pair[1].lower()
            if options not in ("keep-alive", "close"):
                named = (named or set()) | {option.strip() for option in options.split(",")}
    if not admitted:
        if shown:
            raise AuthError("TUNNEL_AUTH_INVALID", "the worker token is not this tunnel's")
        raise AuthError(
            "TUNNEL_AUTH_REQUIRED",
            "this tunnel wants the worker token, as 'Authorization: Bearer <token>' or "
            "'X-SynthTunnel-Worker-Token: <token>'",
        )
    if named is not None:
        # The length is the message's own, whatever a caller says of it.
        named.discard("content-length")
        passed = [pair for pair in passed if pair[0].lower() not in named]
    return passed, list(chains.values()) if chains else []


def same_secret(shown: str, known: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(shown.encode("utf-8", "replace"), known.encode())
