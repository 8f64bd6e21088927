"""The synchronous clients."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from . import requests
from .base import BaseClient, Object, Objects, present_as_method
from .requests import Request

__all__ = ["SynthClient", "TunnelsClient"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _sends(
    build: Callable[_P, Request], answer: type[_T]
) -> Callable[Concatenate["TunnelsClient", _P], _T]:
    """Make the method that sends the call and returns its answer."""

    def method(self: "TunnelsClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = self.send(build(*args, **kwargs))
        return result

    present_as_method(method, build)
    return method


class TunnelsClient(BaseClient):
    """Synth's tunnels API.

    Has one pool of connections, which opens with the first call and closes with :meth:`close` or
    the ``with`` block. May be used from several threads.

    Args:
        api_key: the key; else ``SYNTH_API_KEY``.
        backend_base: the backend's origin; else ``base_url``, else ``SYNTH_BACKEND_URL``, else
            the hosted one.
        base_url: the same under another name.
        timeout: how long a call waits to connect, to send and for the next bytes, in seconds.
        timeout_seconds: the same under another name, which wins.
        retries: how often a call may be sent again where nothing can happen twice.

    Raises:
        TunnelConfigError: there is no key, or the backend's URL cannot be used; a ``ValueError``.
        TunnelError: from every method; see :mod:`pytest_synth_tunnels.sdk.errors`.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        backend_base: str | None = None,
        base_url: str | None = None,
        timeout: float = 30.0,
        timeout_seconds: float | None = None,
        retries: int = 0,
    ) -> None:
        timeout_s = timeout if timeout_seconds is None else timeout_seconds
        super().__init__(api_key, backend_base or base_url, timeout_s, retries)
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None

    health = _sends(requests.health, Object)
    list = _sends(requests.list_tunnels, Objects)
    create = _sends(requests.create_tunnel, Object)
    delete = _sends(requests.delete_tunnel, Object)
    rotate = _sends(requests.rotate_tunnel, Object)
    create_lease = _sends(requests.create_lease, Object)
    heartbeat = _sends(requests.heartbeat, Object)
    release_lease = _sends(requests.release_lease, Object)
    refresh_lease = _sends(requests.refresh_lease, Object)
    delete_lease = _sends(requests.delete_lease, Object)
    list_leases = _sends(requests.list_leases, Objects)
    create_synth_lease = _sends(requests.create_synth_lease, Object)
    get_synth_lease = _sends(requests.get_synth_lease, Object)
    close_synth_lease = _sends(requests.close_synth_lease, Object)
    refresh_synth_worker_token = _sends(requests.refresh_synth_worker_token, Object)

    def send(self, request: Request) -> Any:
        """Send a call that :mod:`.requests` made as a value.

        Returns:
            The answer.
        """
        if not self._retries:
            return self._send_once(request)
        from .retry import retrying

        return retrying(request, self._retries)(self._send_once, request)

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send_once(self, request: Request) -> Any:
        try:
            response = self._pool().request(
                request.method, request.path, params=request.params or None, json=request.body
            )
        except (httpx.RequestError, httpx.InvalidURL) as error:
            # Without the cause: its frames hold the key, which a traceback with locals shows.
            raise self._failure(error, request) from None
        return self._read(response, request)

    def _pool(self) -> httpx.Client:
        with self._lock:
            if self._http is None:
                self._http = httpx.Client(**self._http_options())
            return self._http


class SynthClient:
    """The front door: ``SynthClient().tunnels`` is a :class:`TunnelsClient`.

    Args:
        api_key: the key; else ``SYNTH_API_KEY``.
        base_url: the backend's origin; else ``SYNTH_BACKEND_URL``, else the hosted one.
        timeout: how long a call waits to connect, to send and for the next bytes, in seconds.
        retries: how often a call may be sent again where nothing can happen twice.

    Raises:
        TunnelConfigError: there is no key, or the backend's URL cannot be used; a ``ValueError``.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 30.0,
        retries: int = 0,
    ) -> None:
        self.tunnels = TunnelsClient(
            api_key=api_key, base_url=base_url, timeout=timeout, retries=retries
        )
        self.api_key = self.tunnels.api_key
        self.base_url = self.tunnels.backend_base
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self.tunnels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
