"""WebSockets from a caller to the app and back over real sockets: the ``websockets`` library's own
client and server at the ends, and either kind of link in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.sdk import requests

Handler = Callable[[ServerConnection], Awaitable[None]]


HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


class Tunnel:
    """A lease with its agent, and an app behind it."""

    def __init__(self, backend: Backend, lease: dict[str, Any], agent: Agent, link: Any) -> None:
        self.backend = backend
        self.lease = lease
        self.agent = agent
        self.link = link

    def open(self, path: str = "/", **options: Any) -> connect:
        """Call the app."""
        options.setdefault(
            "additional_headers", {"Authorization": f"Bearer {self.lease['worker_token']}"}
        )
        url = self.lease["public_url"].replace("http://", "ws://") + path
        return connect(url, max_size=None, **options)


async def echo(app: ServerConnection) -> None:
    async for message in app:
        await app.send(message)


@asynccontextmanager
async def serving(kind: str, handler: Handler = echo, **options: Any) -> AsyncIterator[Tunnel]:
    """Serve an app, and a tunnel to it over a link of one kind."""
    async with AsyncExitStack() as stack:
        options.setdefault("max_size", None)
        app = await stack.enter_async_context(serve(handler, "127.0.0.1", 0, **options))
        port = next(iter(app.sockets)).getsockname()[1]
        yield await stack.enter_async_context(tunnel_to(kind, port))


@asynccontextmanager
async def tunnel_to(
    kind: str, port: int, *, patience_s: float = 0.1, **settings: Any
) -> AsyncIterator[Tunnel]:
    """Serve a tunnel to a port over a link of one kind."""
    backend = Backend(**settings)
    await backend.start()
    lease = backend.call(
        requests.create_synth_lease(
            client_instance_id="client-12345678", local_host="127.0.0.1", local_port=port
        )
    )
    agent = Agent(patience_s=patience_s)
    agent.leases.serve(lease["lease_id"], lease["public_url"])
    agent.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", port))
    token = lease["agent_connect"]["agent_token"]
    dialer = None
    if kind == "memory":
        backend.attach(lease["lease_id"], agent, token)
    else:
        attached = asyncio.Event()
        url = lease["agent_connect"]["url"]
        dialer = Dialer(agent, url, token, on_change=lambda *_: attached.set())
        await dialer.start()
        await attached.wait()
    try:
        yield Tunnel(backend, lease, agent, dialer)
    finally:
        if dialer is not None:
            await dialer.close()
        await agent.close()
        await backend.close()


def run(test: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test

    asyncio.run(limited())


async def closed(
    end: Connection, action: Callable[[], Awaitable[Any]] | None = None
) -> tuple[int | None, str]:
    """Do something until the WebSocket is closed, and return the code and reason that come."""
    try:
        while True:
            await (action or end.recv)()
    except ConnectionClosed as error:
        close = error.rcvd
    return (close.code, close.reason) if close is not None else (None, "")


async def asked(tunnel: Tunnel, *lines: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a handshake by hand."""
    parts = urlsplit(tunnel.lease["public_url"])
    reader, writer = await asyncio.open_connection(*parts.netloc.split(":"))
    head = [
        f"GET {parts.path}/ HTTP/1.1",
        f"Host: {parts.netloc}",
        f"Authorization: Bearer {tunnel.lease['worker_token']}",
        *(lines or HANDSHAKE),
    ]
    writer.write("\r\n".join([*head, "", ""]).encode())
    return reader, writer


async def upgrade(tunnel: Tunnel, *lines: str) -> tuple[int, dict[str, str], bytes]:
    """Ask for a WebSocket by hand and return the whole answer."""
    reader, writer = await asked(tunnel, *lines)
    raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    text, _, body = raw.partition(b"\r\n\r\n")
    status, *fields = text.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in fields)
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}, body
