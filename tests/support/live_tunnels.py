"""A backend, agents and strict apps on loopback sockets, all in the test's own loop."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import h11

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.sdk import requests

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Seen:
    """A request that an app got to its end."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other == name]


@dataclass
class StrictApp:
    """Answers every request with its name, and takes nothing that is not quite HTTP."""

    name: str
    seen: list[Seen] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """What the app could not take for HTTP: there must be nothing of that."""
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except h11.RemoteProtocolError as error:
            if "peer unexpectedly closed" not in str(error) and "without sending" not in str(error):
                self.refused.append(str(error))
        except OSError:
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        request: Seen | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                headers = [
                    (name.decode(), value.decode("latin-1")) for name, value in event.headers
                ]
                request = Seen(event.method.decode(), event.target.decode(), headers)
            elif isinstance(event, h11.Data) and request is not None:
                request.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                self.seen.append(request)
                writer.write(self._answer(http, request))
                if http.our_state is not h11.DONE:
                    return  # no request follows
                http.start_next_cycle()
            else:
                return

    def _answer(self, http: h11.Connection, request: Seen) -> bytes:
        body = f"{self.name} {request.target}".encode()
        headers = [("Content-Length", str(len(body)))]
        head = http.send(h11.Response(status_code=200, headers=headers)) or b""
        data = b"" if request.method == "HEAD" else body
        return (
            head + (http.send(h11.Data(data=data)) or b"") + (http.send(h11.EndOfMessage()) or b"")
        )


class Tunnels:
    """A backend; an asynchronous context manager that ends whatever was started through it."""

    def __init__(self, **options: Any) -> None:
        self.backend = Backend(**options)
        self._recorder = options.get("recorder")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.backend.start()
        self._stack.push_async_callback(self.backend.close)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def for_a_while(self) -> AsyncIterator[Self]:
        """Start things on the same backend that end sooner."""
        outer, self._stack = self._stack, AsyncExitStack()
        try:
            yield self
        finally:
            inner, self._stack = self._stack, outer
            await inner.aclose()

    @property
    def port(self) -> int:
        return urlsplit(self.backend.url).port or 0

    async def app(self, name: str) -> StrictApp:
        """Run an app."""
        app = StrictApp(name)
        app.port = await self.listen(app.serve)
        return app

    async def listen(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> int:
        """Run a server; its port is returned, its tasks end with the context."""
        tasks: set[asyncio.Task[None]] = set()

        async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await serve(reader, writer)
            except asyncio.CancelledError:
                writer.close()
            finally:
                tasks.discard(task)

        async def stop() -> None:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        server = await asyncio.start_server(tracked, "127.0.0.1", 0, backlog=1024)
        self._stack.push_async_callback(stop)
        return int(server.sockets[0].getsockname()[1])

    def lease(self, port: int, **options: Any) -> "Lease":
        """Create a lease for an app."""
        return Lease(
            self.backend.call(
                requests.create_synth_lease(
                    client_instance_id="client-12345678",
                    local_host="127.0.0.1",
                    local_port=port,
                    **options,
                )
            )
        )

    async def attach(
        self,
        lease: "Lease",
        targets: dict[str, int],
        *,
        websocket: bool,
        origins: dict[str, str] | None = None,
    ) -> Agent:
        """Serve a lease, with the ports of its targets, and their own origins, by address."""
        agent = Agent(recorder=self._recorder)
        agent.leases.serve(lease.id, lease.public_url, max_inflight=1024)
        for address, port in targets.items():
            origin = (origins or {}).get(address, "")
            agent.leases.set_target(lease.id, address, Target("127.0.0.1", port), origin=origin)
        self._stack.push_async_callback(agent.close)
        if websocket:
            await self.dial(agent, lease)
        else:
            self.backend.attach(lease.id, agent, lease.agent_token)
        return agent

    async def dial(self, agent: Agent, lease: "Lease") -> None:
        """Attach an agent by WebSocket, and keep it attached."""
        attached = asyncio.Event()
        dialer = Dialer(
            agent,
            lease.agent_url,
            lease.agent_token,
            on_change=lambda is_attached, _: attached.set() if is_attached else None,
            backoff_s=(0.001, 0.005),
        )
        self._stack.push_async_callback(dialer.close)
        await dialer.start()
        await attached.wait()

    async def serving(
        self, name: str, *, websocket: bool = False, **options: Any
    ) -> "tuple[StrictApp, Lease]":
        """Run an app behind a lease of its own."""
        app = await self.app(name)
        lease = self.lease(app.port, **options)
        await self.attach(lease, {"": app.port}, websocket=websocket)
        return app, lease

    async def send(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; return all that comes back until its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()


class Lease:
    """A lease as its creator knows it."""

    def __init__(self, created: dict[str, Any]) -> None:
        self.id = str(created["lease_id"])
        self.public_url = str(created["public_url"])
        self.prefix = urlsplit(self.public_url).path
        self.worker_token = str(created["worker_token"])
        self.agent_token = str(created["agent_connect"]["agent_token"])
        self.agent_url = str(created["agent_connect"]["url"])

    def get(self, path: str = "/", *, close: bool = False, token: str = "") -> bytes:
        """Return a GET request."""
        end = "Connection: close\r\n" if close else ""
        return (
            f"GET {self.prefix}{path} HTTP/1.1\r\nHost: relay.test\r\n"
            f"X-SynthTunnel-Worker-Token: {token or self.worker_token}\r\n{end}\r\n"
        ).encode("latin-1")


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all the answers in what came back."""
    return [int(status) for status in _STATUS.findall(answer)]


def run(scenario: Callable[[Tunnels], Awaitable[None]], *, debug: bool = False) -> None:
    """Run a scenario with a backend."""

    async def main() -> None:
        async with asyncio.timeout(30), Tunnels() as tunnels:
            await scenario(tunnels)

    asyncio.run(main(), debug=debug)
