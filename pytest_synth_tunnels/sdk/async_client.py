"""The asynchronous clients: the calls of :mod:`.client` as coroutines."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.request import getproxies

import httpx

from . import requests
from .base import BaseClient, Object, Objects, present_as_method
from .requests import Request
from .transport import ManyPools

__all__ = ["AsyncSynthClient", "AsyncTunnelsClient"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Pool:
    """One event loop's connections.

    Attributes:
        http: the client that has the connections.
        closer: an asynchronous generator that closes the client. An event loop that ends closes
            its asynchronous generators first, so that no connection stays open where nobody
            called ``aclose``.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.closer = self._close_with_loop()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.http.aclose()


def _sends(
    build: Callable[_P, Request], answer: type[_T]
) -> Callable[Concatenate["AsyncTunnelsClient", _P], Coroutine[Any, Any, _T]]:
    """Make the coroutine method that sends the call and returns its answer."""

    async def method(self: "AsyncTunnelsClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: _T = await self.send(build(*args, **kwargs))
        return result

    present_as_method(method, build)
    return method


class AsyncTunnelsClient(BaseClient):
    """Synth's tunnels API for asyncio.

    Truly asynchronous: a call waits on the event loop, where the published client occupies a
    thread. One client may be used from several event loops, one after another or at once; each
    has its own pool of connections, which opens with the first call and closes with
    :meth:`aclose`, the ``async with`` block, or the event loop.

    Args:
        api_key: the key; else ``SYNTH_API_KEY``.
        backend_base: the backend's origin; else ``base_url``, else ``SYNTH_BACKEND_URL``, else
            the hosted one.
        base_url: the same under another name.
        timeout: how long a call waits to connect, to send and for the next bytes, in seconds.
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
        retries: int = 0,
    ) -> None:
        super().__init__(api_key, backend_base or base_url, timeout, retries)
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}

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

    async def send(self, request: Request) -> Any:
        """Send a call that :mod:`.requests` made as a value.

        Returns:
            The answer.
        """
        if not self._retries:
            return await self._send_once(request)
        from .retry import async_retrying

        return await async_retrying(request, self._retries)(self._send_once, request)

    async def aclose(self) -> None:
        """Close this event loop's connections. A later call opens new ones."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.closer.aclose()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _send_once(self, request: Request) -> Any:
        http = await self._pool()
        try:
            response = await http.request(
                request.method, request.path, params=request.params or None, json=request.body
            )
        except (httpx.RequestError, httpx.InvalidURL) as error:
            # Without the cause: its frames hold the key, which a traceback with locals shows.
            raise self._failure(error, request) from None
        return self._read(response, request)

    async def _pool(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for other in tuple(self._pools):
                if other.is_closed():
                    del self._pools[other]
            pool = self._pools[loop] = _Pool(self._new_http())
            await anext(pool.closer)
        return pool.http

    def _new_http(self) -> httpx.AsyncClient:
        options = self._http_options()
        if options["trust_env"] and getproxies().keys() - {"no"}:
            return httpx.AsyncClient(**options)  # httpx chooses the proxy
        return httpx.AsyncClient(**options, transport=ManyPools(options["verify"]))


class AsyncSynthClient:
    """The front door: ``AsyncSynthClient().tunnels`` is an :class:`AsyncTunnelsClient`.

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
        self.tunnels = AsyncTunnelsClient(
            api_key=api_key, base_url=base_url, timeout=timeout, retries=retries
        )
        self.api_key = self.tunnels.api_key
        self.base_url = self.tunnels.backend_base
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    async def aclose(self) -> None:
        """Close this event loop's connections. A later call opens new ones."""
        await self.tunnels.aclose()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
