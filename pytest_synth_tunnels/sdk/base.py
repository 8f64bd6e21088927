"""What the sync and the async client share: their settings, and how a call becomes a method."""

import inspect
import ssl
from collections.abc import Callable
from typing import Any, TypedDict

import httpx

from .._version import __version__
from .errors import TunnelConfigError, TunnelError
from .http_errors import from_transport, read_answer
from .models import Secret
from .requests import Request
from .resolve import is_loopback, resolve_api_key, resolve_backend_base

__all__ = ["BaseClient", "Object", "Objects", "present_as_method"]

Object = dict[str, Any]
Objects = list[dict[str, Any]]


class HttpOptions(TypedDict):
    """What both kinds of httpx client take."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx.Timeout
    trust_env: bool
    verify: ssl.SSLContext


class BaseClient:
    """A client's settings, and the reading of its answers. Does no I/O."""

    def __init__(
        self, api_key: str | None, backend_base: str | None, timeout_s: float, retries: int
    ) -> None:
        if not (isinstance(timeout_s, int | float) and timeout_s > 0):
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout_s!r}")
        if not (isinstance(retries, int) and 0 <= retries <= 10):
            raise ValueError(f"retries must be a number from 0 to 10, not {retries!r}")
        self._api_key = resolve_api_key(api_key)
        self._backend_base = resolve_backend_base(backend_base)
        try:
            self._url = httpx.URL(self._backend_base)
        except httpx.InvalidURL as error:
            raise TunnelConfigError(f"The backend URL is not a URL: {error}") from None
        self._timeout_s = timeout_s
        self._retries = retries

    @property
    def api_key(self) -> str:
        """The key that every call carries; its ``repr`` is masked."""
        return self._api_key

    @property
    def backend_base(self) -> str:
        """The backend's origin."""
        return self._backend_base

    @property
    def timeout_seconds(self) -> float:
        """How long a call waits to connect, to send and for the next bytes, in seconds."""
        return self._timeout_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}(backend_base={self._backend_base!r})"

    def _http_options(self) -> HttpOptions:
        # Loading certificates takes longer than a call, and plain http has no use for them.
        if self._url.scheme == "https":
            context = httpx.create_ssl_context()
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return {
            "base_url": self._backend_base,
            "headers": {
                "Authorization": Secret(f"Bearer {self._api_key}"),
                "User-Agent": f"pytest-synth-tunnels/{__version__}",
            },
            "timeout": httpx.Timeout(self._timeout_s),
            # A proxy reaches its own loopback, not this machine's.
            "trust_env": not is_loopback(self._url.host),
            "verify": context,
        }

    def _read(self, response: httpx.Response, request: Request) -> Any:
        return read_answer(response, request, origin=self._backend_base, secret=self._api_key)

    def _failure(
        self, error: httpx.RequestError | httpx.InvalidURL, request: Request
    ) -> TunnelError:
        return from_transport(
            error,
            request,
            origin=self._backend_base,
            secret=self._api_key,
            timeout_s=self._timeout_s,
        )


def present_as_method(method: Callable[..., Any], build: Callable[..., Request]) -> None:
    """Give ``method``, which sends what ``build`` makes, the name, help and signature of it."""
    signature = inspect.signature(build)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [own, *signature.parameters.values()]
    method.__name__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
