"""An httpx transport for many calls at once.

httpx's own pool compares every waiting call with every connection each time one of them changes:
500 calls at once, which a backend answers in 100 ms, take it 10 s. Here each connection is a pool
of its own, and a call takes one that is free.
"""

import asyncio
import ssl
from contextlib import aclosing
from typing import Final

import httpx

__all__ = ["MAX_CONNECTIONS", "ManyPools"]

MAX_CONNECTIONS: Final = 512
"""Calls beyond these wait their turn, for as long as it takes."""

_ONE: Final = httpx.Limits(max_connections=1)


class ManyPools(httpx.AsyncBaseTransport):
    """Sends each request through a pool that no other uses meanwhile; for one event loop.

    Calls that follow each other share a connection. The pools are httpx's own transports, so what
    replaces those in a test replaces them here.

    Args:
        ssl_context: for https.
    """

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._free: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and return the whole answer."""
        async with self._slots:
            # The last one in the list was used last, so its connection is likeliest to be open.
            pool = self._free.pop() if self._free else self._new_pool()
            try:
                async with aclosing(await pool.handle_async_request(request)) as answer:
                    body = b"".join([part async for part in answer.aiter_raw()])
            except BaseException:
                # A pool can lose track of a connection whose call is cancelled.
                await pool.aclose()
                raise
            self._free.append(pool)
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            stream=httpx.ByteStream(body),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        while self._free:
            await self._free.pop().aclose()

    def _new_pool(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._ssl_context, limits=_ONE)
