"""A backend that is reached over HTTP, counts what it is asked, and can refuse everything."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_synth_tunnels.backend.control import control
from pytest_synth_tunnels.backend.routes import Routes
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.http.exchange import IGNORE, Exchange, RequestHandler


class HostedBackend(Backend):
    """A backend whose control plane remembers the method of each call.

    Attributes:
        seen: the methods, oldest first.
        down: every call is answered with 503.
    """

    def __init__(self, api_key: str) -> None:
        super().__init__(api_key=api_key, control=self._count)
        self.seen: list[str] = []
        self.down = False

    def _count(self, exchange: Exchange, routes: Routes) -> RequestHandler:
        self.seen.append(exchange.head.method)
        if self.down:
            exchange.respond(503, [("Content-Type", "application/json")], b"{}")
            return IGNORE
        return control(exchange, routes)

    @property
    def creates(self) -> int:
        return self.seen.count("POST")

    @property
    def releases(self) -> int:
        return self.seen.count("DELETE")


@contextmanager
def hosted_backend(api_key: str) -> Iterator[HostedBackend]:
    """Serve a backend in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(20)

    backend = HostedBackend(api_key)
    run(backend.start())
    try:
        yield backend
    finally:
        run(backend.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
