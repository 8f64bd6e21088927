"""A backend, an agent of each kind, an app that a test writes, and callers: over real sockets."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.http.sockets import reset
from pytest_synth_tunnels.relay.route import Limits
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.wire.frames import Attach, Frame, ReqHeaders

App = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HUGE = 1 << 30
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class PlainAgent(Agent):
    """An agent that knows no windows, like the published ones."""

    def attach_frame(self) -> Attach:
        frame = super().attach_frame()
        return Attach(frame.leases, agent_id=frame.agent_id)


class HeedlessAgent(Agent):
    """An agent that ignores deadlines."""

    def frame_received(self, frame: Frame) -> None:
        if isinstance(frame, ReqHeaders):
            frame = msgspec.structs.replace(frame, deadline_ms=0)
        super().frame_received(frame)


class Caller:
    """One connection to a tunnel."""

    def __init__(self, tunnel: "Tunnel") -> None:
        self._tunnel = tunnel

    async def open(self, buffer_bytes: int = 0) -> "Caller":
        sock = socket.socket()
        if buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.setblocking(False)
        url = urlsplit(self._tunnel.backend.url)
        await asyncio.get_running_loop().sock_connect(sock, (url.hostname, url.port))
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
        self._tunnel.callers.append(self)
        return self

    def send(self, method: str = "GET", path: str = "/", *lines: str, body: bytes = b"") -> None:
        public_path = urlsplit(self._tunnel.lease["public_url"]).path
        head = [
            f"{method} {public_path}{path} HTTP/1.1",
            "Host: relay",
            f"X-SynthTunnel-Worker-Token: {self._tunnel.lease['worker_token']}",
            *lines,
        ]
        self.writer.write("".join(f"{x}\r\n" for x in head).encode() + b"\r\n" + body)

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[int, bytes]:
        """Return status and body of an answer that says its length."""
        head = await self.head()
        lengths = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length: ")]
        length = int(lengths[0].split()[1]) if lengths else 0
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def error(self) -> tuple[int, str]:
        status, body = await self.answer()
        return status, json.loads(body)["code"]

    def close(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        """Leave without a trace of what was sent and not read."""
        reset(self.writer.transport)


class Tunnel:
    """A backend, a lease, an agent and an app."""

    backend: Backend
    lease: dict[str, Any]
    agent: Agent
    dialer: Dialer | None = None

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.news: asyncio.Queue[bool] = asyncio.Queue()
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        """The heads of the requests that reached the app."""
        self.left: asyncio.Queue[None] = asyncio.Queue()
        """The connections that the app saw end."""

    async def caller(self, **options: int) -> Caller:
        return await Caller(self).open(**options)

    async def ask(self, *args: str, body: bytes = b"") -> tuple[int, bytes]:
        caller = await self.caller()
        caller.send(*args, body=body)
        found = await caller.answer()
        caller.close()
        return found

    def cut_link(self) -> None:
        """Let the network between agent and relay break."""
        assert self.dialer is not None
        assert self.dialer._link is not None
        assert self.dialer._link._transport is not None
        self.dialer._link._transport.abort()

    async def wait_here(self, reader: asyncio.StreamReader) -> None:
        """Be an app that waits until its caller is gone."""
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass
        self.left.put_nowait(None)


@asynccontextmanager
async def tunnel(
    kind: str,
    app: Callable[[Tunnel], App],
    *,
    limits: Limits | None = None,
    request_timeout_s: float = 20.0,
    agent_type: type[Agent] = Agent,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[Tunnel]:
    """Open a tunnel over a link in memory, over WebSocket, or to an agent without windows."""
    made = Tunnel()
    serve = app(made)

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(guarded, sock=listening)
    made.backend = Backend(limits=limits, request_timeout_s=request_timeout_s, now=now)
    await made.backend.start()
    port = listening.getsockname()[1]
    made.lease = made.backend.call(
        requests.create_synth_lease(
            client_instance_id="client-12345678", local_host="127.0.0.1", local_port=port
        )
    )
    lease_id, connect = made.lease["lease_id"], made.lease["agent_connect"]
    made.agent = PlainAgent() if kind == "plain" else agent_type()
    made.agent.leases.serve(lease_id, made.lease["public_url"])
    made.agent.leases.set_target(lease_id, "", Target("127.0.0.1", port))
    if kind == "memory":
        made.backend.attach(lease_id, made.agent, connect["agent_token"])
    else:
        made.dialer = Dialer(
            made.agent,
            connect["url"],
            connect["agent_token"],
            on_change=lambda attached, _: made.news.put_nowait(attached),
            backoff_s=(0.05, 0.05),
        )
        await made.dialer.start()
        assert await made.news.get()
    try:
        yield made
    finally:
        for caller in made.callers:
            caller.close()
        if made.dialer is not None:
            await made.dialer.close()
        await made.agent.close()
        await made.backend.close()
        server.close()
        await server.wait_closed()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


def scripted(*answers: bytes) -> Callable[[Tunnel], App]:
    """An app that answers one request after the other with these bytes."""

    def app(tunnel: Tunnel) -> App:
        left = list(answers)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                tunnel.arrived.put_nowait(await reader.readuntil(b"\r\n\r\n"))
                writer.write(left.pop(0))

        return serve

    return app


both = pytest.mark.parametrize("kind", ["memory", "websocket"])
every = pytest.mark.parametrize("kind", ["memory", "websocket", "plain"])
