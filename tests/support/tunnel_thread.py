"""Tunnels on an event loop in a thread of its own, for callers and apps that block."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Self, TypeVar

from .live_tunnels import Tunnels

_T = TypeVar("_T")


class Way(NamedTuple):
    """How a caller reaches an app."""

    host: str
    port: int
    prefix: str = ""
    headers: dict[str, str] = {}

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """Return the head of a request."""
        all_lines = [
            f"{method} {self.prefix}{path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            *lines,
        ]
        return "".join(f"{line}\r\n" for line in all_lines).encode() + b"\r\n"


class TunnelThread(AbstractContextManager["TunnelThread"]):
    """A backend, with leases that agents serve over either link."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tunnels: Tunnels

    def __enter__(self) -> Self:
        self._thread.start()

        async def begin() -> Tunnels:
            return await Tunnels().__aenter__()

        self._tunnels = self.run(begin())
        return self

    def __exit__(self, *exc: object) -> None:
        self.run(self._tunnels.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run something on the loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def way(self, port: int, link: str) -> Way:
        """Return the way to an app on this machine.

        Args:
            port: the app's.
            link: ``direct`` for no tunnel; ``memory`` or ``websocket``.
        """
        if link == "direct":
            return Way("127.0.0.1", port)

        async def open_lease() -> Way:
            lease = self._tunnels.lease(port)
            await self._tunnels.attach(lease, {"": port}, websocket=link == "websocket")
            headers = {"X-SynthTunnel-Worker-Token": lease.worker_token}
            return Way("127.0.0.1", self._tunnels.port, lease.prefix, headers)

        return self.run(open_lease())
