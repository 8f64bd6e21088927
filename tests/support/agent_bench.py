"""An agent between a fake relay, at the other end of a link in memory, and small apps on real
sockets."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.http.headers import Headers
from pytest_synth_tunnels.wire.frames import (
    ConnClosed,
    Frame,
    FrameError,
    RelayCapabilities,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
    in_pieces,
)
from pytest_synth_tunnels.wire.link import memory_links

PUBLIC = "http://127.0.0.1:9/s/rt_1"


@dataclass
class Seen:
    """A request as an app got it."""

    method: str
    target: str
    headers: Headers
    body: bytes
    connection: int

    def get(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other.lower() == name.lower()]


@dataclass
class Answer:
    """What came back for one request."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    error: str = ""
    done: bool = False
    close: bool = False
    """The app closes its connection behind it."""

    def get(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other.lower() == name.lower()]

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


Respond = Callable[[Seen], bytes | None]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader, connection: int) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head[:-4].split("\r\n")
    method, target, _ = line.split(" ")
    headers = [(name, value) for name, _, value in (x.partition(": ") for x in lines)]
    seen = Seen(method, target, headers, b"", connection)
    if seen.get("content-length"):
        seen.body = await reader.readexactly(int(seen.get("content-length")[0]))
    elif seen.get("transfer-encoding") == ["chunked"]:
        while size := int(await reader.readline(), 16):
            seen.body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return seen


class AgentBench:
    """An agent, the relay's end of its link, and apps."""

    whole_messages = False

    def __init__(
        self, *, flow_control: bool = True, caller_connections: bool = True, patience_s: float = 0.0
    ) -> None:
        self.frames: list[Frame] = []
        self.answers: dict[str, Answer] = {}
        self.credits: dict[str, int] = {}
        self.closed: list[str] = []
        """The callers' connections for which the agent holds nothing any more."""
        self.seen: list[Seen] = []
        self.connections = 0
        self._changed = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._rids = 0
        self.agent = Agent(agent_id="me", timeout_s=5, patience_s=patience_s)
        self.agent.leases.serve("l1", PUBLIC)
        near, self.link = memory_links()
        near.handler, self.link.handler = self.agent, self
        self.near = near
        self.agent.connected(
            near, RelayCapabilities(flow_control, self.whole_messages, caller_connections)
        )

    async def __aenter__(self) -> "AgentBench":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.agent.close()
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- the relay's end

    def frame_received(self, frame: Frame) -> None:
        for piece in [frame] if self.whole_messages else in_pieces(frame):
            self._take(piece)

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        answer = self.answers.setdefault(getattr(frame, "rid", ""), Answer())
        if isinstance(frame, RespHeaders):
            assert not answer.status
            answer.status, answer.headers = frame.status, frame.headers
            answer.body, answer.done, answer.close = frame.body, frame.end, frame.close
        elif isinstance(frame, RespBody):
            assert answer.status
            assert not answer.done
            answer.body += frame.chunk
        elif isinstance(frame, RespEnd):
            assert not answer.done
            answer.done = True
        elif isinstance(frame, RespError):
            assert not answer.done
            answer.error, answer.done = frame.code, True
        elif isinstance(frame, ConnClosed):
            self.closed.append(frame.conn)
        elif isinstance(frame, Window):
            assert not answer.done
            self.credits[frame.rid] = self.credits.get(frame.rid, 0) + frame.credit_bytes
        self._changed.set()

    def frame_failed(self, error: FrameError) -> None:
        raise AssertionError(error)

    def link_lost(self, reason: str) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def begin(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Headers | None = None,
        *,
        query: str = "",
        lease_id: str = "l1",
        deadline_ms: int = 5000,
        body: bytes = b"",
        end: bool = False,
        conn: str = "c1",
    ) -> str:
        self._rids += 1
        rid = f"r{self._rids}"
        self.answers[rid] = Answer()
        headers = list(headers or [])
        self.link.send(
            ReqHeaders(
                lease_id, rid, method, path, query, headers, deadline_ms, body, end, conn=conn
            )
        )
        return rid

    async def answered(self, rid: str) -> Answer:
        await self.until(lambda: self.answers[rid].done)
        return self.answers[rid]

    async def ask(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        query: str = "",
        lease_id: str = "l1",
        deadline_ms: int = 5000,
        conn: str = "c1",
    ) -> Answer:
        if body:
            headers = [*(headers or []), ("Content-Length", str(len(body)))]
        about = {"query": query, "lease_id": lease_id, "deadline_ms": deadline_ms, "conn": conn}
        if self.whole_messages:
            rid = self.begin(method, path, headers, **about, body=body, end=True)
        else:
            rid = self.begin(method, path, headers, **about)
            if body:
                self.link.send(ReqBody(rid, body))
            self.link.send(ReqEnd(rid))
        return await self.answered(rid)

    # --- apps

    async def run(self, script: Script, address: str = "", port: int = 0) -> int:
        """Run a server that talks to one connection as it likes."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            self.connections += 1
            self._changed.set()
            try:
                await script(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                writer.close()
            self._changed.set()

        server = await asyncio.start_server(talk, "127.0.0.1", port)
        self._servers.append(server)
        port = int(server.sockets[0].getsockname()[1])
        self.agent.leases.set_target("l1", address, Target("127.0.0.1", port))
        return port

    async def app(self, respond: Respond, address: str = "") -> int:
        """Run an app that reads whole requests, keeps connections, and closes on ``None``."""

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = self.connections
            while not reader.at_eof():
                seen = await read_request(reader, connection)
                self.seen.append(seen)
                data = respond(seen)
                if data is None:
                    return
                writer.write(data)

        return await self.run(script, address)


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(scenario: Callable[[AgentBench], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with AgentBench(**options) as bench:  # type: ignore[arg-type]
            await scenario(bench)

    asyncio.run(main())


def ok(body: bytes = b"ok", *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    head = f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body
