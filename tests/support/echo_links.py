"""An app that says exactly what a test wants, asked directly or through a tunnel, byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.sdk import requests

WAYS: Final = ("direct", "memory", "websocket")
"""How an app is asked: by itself, over a link in memory, over a WebSocket."""

TIMEOUT_S: Final = 20.0


class Talk:
    """One connection, of a caller or of an app."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, end: bytes) -> bytes:
        """Read up to these bytes."""
        return await self.reader.readuntil(end)

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def exactly(self, count: int) -> bytes:
        return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Read up to the end of the connection."""
        return await self.reader.read()

    def finish(self) -> None:
        """End this side."""
        self.writer.write_eof()


App = Callable[[Talk], Awaitable[None]]


class Way:
    """A way to an app."""

    def __init__(self, host: str, port: int, prefix: str, token: str) -> None:
        self.host, self.port, self.prefix, self.token = host, port, prefix, token
        self.tunnelled = bool(token)
        self._talks: list[Talk] = []

    async def connect(self) -> Talk:
        """Be a caller."""
        talk = Talk(*await asyncio.open_connection(self.host, self.port))
        self._talks.append(talk)
        return talk

    def request(self, method: str, *lines: str, target: str = "/", version: str = "1.1") -> bytes:
        """Return a request's head."""
        head = [f"{method} {self.prefix}{target} HTTP/{version}", f"Host: {self.host}:{self.port}"]
        if self.token:
            head.append(f"X-SynthTunnel-Worker-Token: {self.token}")
        return "".join(f"{line}\r\n" for line in (*head, *lines, "")).encode("latin-1")

    async def ask(self, method: str, *lines: str, target: str = "/", body: bytes = b"") -> Talk:
        """Send a request on a connection of its own."""
        talk = await self.connect()
        talk.say(self.request(method, *lines, target=target) + body)
        return talk

    async def aclose(self) -> None:
        """End the callers."""
        for talk in self._talks:
            talk.writer.transport.abort()
            with suppress(ConnectionError):
                await talk.writer.wait_closed()


@asynccontextmanager
async def way_to(
    kind: str, app: App, *, agent: Callable[[], Agent] = Agent, request_timeout_s: float = 20.0
) -> AsyncIterator[Way]:
    """Serve an app, and open a way to it.

    Args:
        kind: one of :data:`WAYS`.
        app: called with each of its connections.
        agent: makes the agent.
        request_timeout_s: how long the relay waits for the app.
    """

    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await app(Talk(reader, writer))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def stop() -> None:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)

    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
        stack.push_async_callback(stop)
        port = server.sockets[0].getsockname()[1]
        if kind == "direct":
            way = Way("127.0.0.1", port, "", "")
            stack.push_async_callback(way.aclose)
            yield way
            return
        backend = Backend(request_timeout_s=request_timeout_s)
        await backend.start()
        stack.push_async_callback(backend.close)
        lease = backend.call(
            requests.create_synth_lease(
                client_instance_id="client-12345678", local_host="127.0.0.1", local_port=port
            )
        )
        made = agent()
        stack.push_async_callback(made.close)
        made.leases.serve(lease["lease_id"], lease["public_url"])
        made.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", port))
        connect = lease["agent_connect"]
        if kind == "memory":
            backend.attach(lease["lease_id"], made, connect["agent_token"])
        else:
            attached = asyncio.Event()
            dialer = Dialer(
                made, connect["url"], connect["agent_token"], on_change=lambda *_: attached.set()
            )
            await dialer.start()
            stack.push_async_callback(dialer.close)
            await attached.wait()
        url = urlsplit(lease["public_url"])
        way = Way("127.0.0.1", url.port or 80, url.path, lease["worker_token"])
        stack.push_async_callback(way.aclose)
        yield way


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop of its own, with a deadline."""

    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await test()

    asyncio.run(limited())
