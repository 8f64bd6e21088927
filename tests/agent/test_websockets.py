"""The agent's end of a WebSocket: frames on a link in memory, real sockets to small apps."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any, cast

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.http.headers import Headers
from pytest_synth_tunnels.websocket import tunnelled
from pytest_synth_tunnels.wire.frames import (
    MAX_CHUNK_BYTES,
    WINDOW_BYTES,
    Frame,
    FrameError,
    RelayCapabilities,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespHeaders,
    Window,
    WsClose,
    WsFrame,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
    in_pieces,
)
from pytest_synth_tunnels.wire.link import memory_links

PUBLIC = "http://127.0.0.1:9/s/rt_1"


class Bench:
    """An agent, the relay's end of its link, and an app."""

    def __init__(self, *, flow_control: bool = True, **settings: Any) -> None:
        self.frames: list[Frame | str] = []
        self.apps: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self.closes: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.mutes: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
        self._servers: list[Server | asyncio.Server] = []
        self._rids = 0
        self.room = inf
        """What the link takes until it is full, in bytes."""
        self.sent: Counter[str] = Counter()
        """By rid, in bytes."""
        self.agent = Agent(patience_s=0, **settings)
        self.agent.leases.serve("l1", PUBLIC)
        self.near, self.link = memory_links()
        self.near.handler, self.link.handler = self.agent, self
        self.agent.connected(self.near, RelayCapabilities(flow_control))

    async def __aenter__(self) -> "Bench":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.agent.close()
        while not self.mutes.empty():
            self.mutes.get_nowait().abort()
        for server in self._servers:
            server.close()
            await server.wait_closed()

    def frame_received(self, frame: Frame) -> None:
        for piece in in_pieces(frame):
            self._take(piece)

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._changed.set()
        if isinstance(frame, WsFrame | RespBody):
            size = len(frame.chunk if isinstance(frame, RespBody) else frame.data)
            self.sent[frame.rid] += size
            self.room -= size
            if self.room <= 0 and not self.agent.uplink.link_paused:
                self.agent.pause_writing()

    def frame_failed(self, error: FrameError) -> None:
        raise AssertionError(error)

    def link_lost(self, reason: str) -> None:
        self.frames.append(reason)
        self._changed.set()

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    async def app(self, address: str = "", **options: Any) -> None:
        """Serve an app that waits to be told what to do."""

        async def handle(app: ServerConnection) -> None:
            self.apps.put_nowait(app)
            await app.wait_closed()
            self.closes.put_nowait((app.protocol.close_code, app.protocol.close_reason))

        server = await serve(handle, "127.0.0.1", 0, **options)
        self._servers.append(server)
        port = next(iter(server.sockets)).getsockname()[1]
        self.agent.leases.set_target("l1", address, Target("127.0.0.1", port))

    async def listen(self, serve: Callable[..., Awaitable[None]]) -> int:
        """Run a server, and return its port."""
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def go_on(self) -> None:
        """Take a window more off the link, and let the loop turn a few times."""
        self.room = WINDOW_BYTES
        if self.agent.uplink.link_paused:
            self.agent.resume_writing()
        for _ in range(10):
            await asyncio.sleep(0)

    async def mute_app(self) -> None:
        """Serve an app that accepts connections and no more."""
        mutes = self.mutes

        class Mute(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                mutes.put_nowait(cast("asyncio.Transport", transport))

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Mute, "127.0.0.1", 0)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        self.agent.leases.set_target("l1", "", Target("127.0.0.1", port))

    def ask(
        self,
        path: str = "/",
        headers: Headers | None = None,
        *,
        lease_id: str = "l1",
        deadline_ms: int = 5000,
    ) -> str:
        self._rids += 1
        rid = f"w{self._rids}"
        self.link.send(WsOpen(rid, path, "", headers or [], deadline_ms, lease_id))
        return rid

    async def open(self, path: str = "/", headers: Headers | None = None) -> str:
        """Open a WebSocket and return its rid."""
        rid = self.ask(path, headers)
        ack = await self.take(WsOpenAck)
        assert (ack.rid, ack.lease_id) == (rid, "l1")
        return rid

    async def take(self, kind: type[Any]) -> Any:
        """Return the next frame, which must be of this kind."""
        async with asyncio.timeout(10):
            while not self.frames:
                self._changed.clear()
                await self._changed.wait()
        frame = self.frames.pop(0)
        assert isinstance(frame, kind), frame
        return frame

    async def refused(self) -> tuple[int, str]:
        """Return status and code of a refusal by the agent."""
        reject = await self.take(WsOpenReject)
        assert reject.lease_id
        return reject.status, json.loads(reject.body)["code"]


def run(scenario: Callable[[Bench], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Bench(**settings) as bench:
            await scenario(bench)

    asyncio.run(main())


def test_messages_both_ways() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        rid = await bench.open()
        app = await bench.apps.get()
        for frame in (
            WsFrame(rid, "hé".encode()[:2], "text", False, "l1"),
            WsFrame(rid, "hé".encode()[2:], "text", True, "l1"),
            WsFrame(rid, b"\xff", "binary", True, "l1"),
        ):
            bench.link.send(frame)
        assert [await app.recv(), await app.recv()] == ["hé", b"\xff"]
        await app.send("hi")
        assert await bench.take(WsFrame) == WsFrame(rid, b"hi", "text", True, "l1")

    run(scenario)


def test_what_comes_with_the_101_is_not_lost() -> None:
    async def scenario(bench: Bench) -> None:
        from websockets.utils import accept_key

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            key = head.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
            writer.write(
                "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode()
                + b"\x81\x02hi\x88\x02\x0f\xa0"
            )
            assert len(await reader.readexactly(8)) == 8  # the close, masked
            writer.close()
            await writer.wait_closed()
            done.set()

        done = asyncio.Event()
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            bench.agent.leases.set_target("l1", "", Target("127.0.0.1", port))
            rid = await bench.open()
            assert (await bench.take(WsFrame)).data == b"hi"
            assert await bench.take(WsClose) == WsClose(rid, 4000, "", "l1")
            await done.wait()

    run(scenario)


def test_the_address_is_stripped_and_told() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app("gw0")
        await bench.app("gw1")
        await bench.open("/~gw1/chat", [("Origin", "https://a.test"), ("Connection", "x-hop")])
        app = await bench.apps.get()
        assert app.request is not None
        assert app.request.path == "/chat"
        headers = app.request.headers
        assert headers["X-Forwarded-Prefix"] == "/s/rt_1/~gw1"
        assert headers["X-SynthTunnel-Request-Id"] == "w1"
        assert headers["Origin"] == "https://a.test"
        assert headers.get_all("Connection") == ["Upgrade"]
        bench.ask("/~gw7/chat")
        assert await bench.refused() == (404, "UNKNOWN_ADDRESS")

    run(scenario)


def test_a_lease_may_go_without_saying() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        bench.ask(lease_id="")
        assert (await bench.take(WsOpenAck)).lease_id == "l1"
        bench.ask(lease_id="l2")
        assert await bench.refused() == (502, "LEASE_NOT_SERVED")
        bench.agent.leases.serve("l2", "http://127.0.0.1:9/s/rt_2")
        bench.link.send(WsOpen("w9", "/", "", [], 0))
        reject = await bench.take(WsOpenReject)
        assert (reject.rid, reject.status) == ("w9", 502)

    run(scenario)


def test_64_for_a_lease_and_no_more() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        rids = [await bench.open() for _ in range(64)]
        bench.ask()
        assert await bench.refused() == (503, "TUNNEL_CAPACITY_EXCEEDED")
        assert bench.agent.inflight == 0
        bench.link.send(WsClose(rids[0], 1000))
        await bench.open()

    run(scenario)


def test_a_name_that_is_taken() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        rid = await bench.open()
        bench.link.send(WsOpen(rid, "/", "", [], 0, "l1"))
        assert (await bench.take(WsClose)).code == 1002
        assert (await bench.closes.get())[0] == 1002

    run(scenario)


@pytest.mark.parametrize(
    ("code", "reason", "seen"),
    [
        (4001, "own", (4001, "own")),
        (None, "", (1005, "")),
        (1005, "", (1005, "")),
        (1006, "", (1011, "")),
        (1000, "", (1000, "")),
    ],
)
def test_the_relays_close_reaches_the_app(
    code: int | None, reason: str, seen: tuple[int, str]
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        rid = await bench.open()
        bench.link.send(WsClose(rid, code, reason))
        bench.link.send(WsClose(rid, code, reason))
        bench.link.send(WsFrame(rid, b"late"))
        assert await bench.closes.get() == seen
        assert bench.frames == []

    run(scenario)


def test_the_apps_close_reaches_the_relay() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        rid = await bench.open()
        app = await bench.apps.get()
        await app.close(4002, "enough")
        assert await bench.take(WsClose) == WsClose(rid, 4002, "enough", "l1")
        rid = await bench.open()
        app = await bench.apps.get()
        app.transport.abort()
        close = WsClose(rid, 1011, "the app's connection was lost", "l1")
        assert await bench.take(WsClose) == close

    run(scenario)


def test_an_app_that_is_late_is_given_up() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.mute_app()
        bench.ask(deadline_ms=20)
        assert await bench.refused() == (504, "TUNNEL_TIMEOUT")
        rid = bench.ask()
        bench.link.send(WsClose(rid, 1011))
        bench.link.send(WsFrame(rid, b"late"))
        bench.ask(deadline_ms=20)
        assert await bench.refused() == (504, "TUNNEL_TIMEOUT")
        bench.ask()
        bench.agent.drop("l1")
        assert (await bench.take(WsClose)).code == 1001

    run(scenario)


def test_an_app_that_resets_is_unreachable() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.mute_app()
        bench.ask()
        (await bench.mutes.get()).abort()
        assert await bench.refused() == (502, "TUNNEL_ENDPOINT_UNREACHABLE")

    run(scenario)


def test_what_ends_with_the_link() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        await bench.open()
        bench.link.close(1001, "gone")
        assert await bench.closes.get() == (1012, "the tunnel's agent lost its relay")
        assert not bench.agent.attached

    run(scenario)


def test_what_ends_with_the_lease() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        await bench.open()
        bench.agent.leases.serve("l2", "http://127.0.0.1:9/s/rt_2")
        bench.agent.drop("l2")
        assert bench.frames == []
        bench.agent.drop("l1")
        assert (await bench.take(WsClose)).code == 1001
        assert (await bench.closes.get())[0] == 1001

    run(scenario)


def test_what_ends_with_the_agent() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        await bench.open()
        await bench.agent.close()
        assert (await bench.closes.get())[0] == 1012

    run(scenario)


def test_a_broken_frame_ends_its_websocket_alone() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        rid, other = await bench.open(), await bench.open()
        bench.agent.frame_failed(FrameError("not base64", rid))
        assert (await bench.take(WsClose)).code == 1002
        assert (await bench.closes.get())[0] == 1002
        bench.link.send(Window("unheard-of", 1))
        bench.link.send(WsFrame("unheard-of", b"x"))
        bench.link.send(WsClose("unheard-of"))
        (first, second) = await bench.apps.get(), await bench.apps.get()
        bench.link.send(WsFrame(other, b"still here"))
        assert await second.recv() == b"still here"
        assert first.protocol.close_code == 1002

    run(scenario)


def test_requests_beside_websockets() -> None:
    def answer(app: ServerConnection, request: Any) -> Any:
        return None if "Upgrade" in request.headers else app.respond(200, "plain")

    async def scenario(bench: Bench) -> None:
        await bench.app(process_request=answer)
        for _ in range(3):
            await bench.open()
            bench.link.send(ReqHeaders("l1", "r1", "GET", "/", "", [], 5000))
            bench.link.send(ReqEnd("r1"))
            while not isinstance(await bench.take(object), RespEnd):
                pass

    run(scenario)


def test_a_download_beside_websockets_that_fill_the_link() -> None:
    async def download(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * MAX_CHUNK_BYTES)
                await writer.drain()
        writer.close()

    async def say(app: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await app.send(b"x" * WINDOW_BYTES)

    async def scenario(bench: Bench) -> None:
        await bench.app(ping_interval=None)
        port = await bench.listen(download)
        bench.agent.leases.set_target("l1", "big", Target("127.0.0.1", port))
        rids = [await bench.open() for _ in range(4)]
        bench.link.send(ReqHeaders("l1", "r1", "GET", "/~big/", "", [], 5000))
        bench.link.send(ReqEnd("r1"))
        await bench.take(RespHeaders)
        bench.room = 0
        talking = [asyncio.create_task(say(await bench.apps.get())) for _ in rids]
        async with asyncio.timeout(10):
            while min(bench.sent[rid] for rid in rids) < WINDOW_BYTES:
                await bench.go_on()
            before = bench.sent["r1"]
            while bench.sent["r1"] < before + 10 * MAX_CHUNK_BYTES:
                await bench.go_on()
        await bench.agent.close()
        await asyncio.gather(*talking)

    run(scenario, flow_control=False)


def test_the_relays_credit_is_respected() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app()
        rid = await bench.open()
        app = await bench.apps.get()
        sending = asyncio.create_task(app.send(b"x" * (WINDOW_BYTES + 1)))
        got = 0
        while got < WINDOW_BYTES:
            got += len((await bench.take(WsFrame)).data)
        assert got == WINDOW_BYTES
        bench.agent.pause_writing()
        bench.link.send(Window(rid, WINDOW_BYTES))
        assert bench.frames == []
        bench.agent.resume_writing()
        last = await bench.take(WsFrame)
        assert (len(last.data), last.fin) == (1, True)
        await sending

    run(scenario)


def test_a_slow_app_gets_no_more_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnelled, "_STALL_S", 0.05)

    async def scenario(bench: Bench) -> None:
        await bench.app(ping_interval=None)
        rid = await bench.open()
        app = await bench.apps.get()
        app.transport.pause_reading()
        granted = 0
        sent = 0
        # The system takes some megabytes before the app's slowness is felt.
        while True:
            while sent < granted + WINDOW_BYTES:
                bench.link.send(WsFrame(rid, b"x" * MAX_CHUNK_BYTES))
                sent += MAX_CHUNK_BYTES
            frame = await bench.take(Window | WsClose)
            if isinstance(frame, WsClose):
                break
            granted += frame.credit_bytes
        assert frame.code == 1013
        app.transport.resume_reading()
        app.transport.abort()

    run(scenario)


def test_a_slow_app_has_a_bounded_queue_where_there_are_no_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnelled, "_MAX_QUEUE_BYTES", 1_000_000)

    async def scenario(bench: Bench) -> None:
        await bench.app(ping_interval=None)
        rid = await bench.open()
        app = await bench.apps.get()
        app.transport.pause_reading()
        for _ in range(1000):
            bench.link.send(WsFrame(rid, b"x" * MAX_CHUNK_BYTES))
            await asyncio.sleep(0)
            if bench.frames:
                break
        close = await bench.take(WsClose)
        assert (close.code, close.reason) == (1013, "the queue of this WebSocket is full")
        app.transport.abort()

    run(scenario, flow_control=False)


def test_a_refusal_too_long_for_one_frame_is_502(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_synth_tunnels.agent import websockets

    monkeypatch.setattr(websockets, "_MAX_BODY_BYTES", 1000)

    async def scenario(bench: Bench) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 403 No\r\n\r\n" + b"x" * 1001)
            await reader.read()
            writer.close()

        port = await bench.listen(refuse)
        bench.agent.leases.set_target("l1", "", Target("127.0.0.1", port))
        bench.ask()
        assert await bench.refused() == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
        assert not bench.agent.uplink.websockets

    run(scenario)


def test_what_an_answer_says_of_the_apps_own_paths_is_mapped() -> None:
    async def scenario(bench: Bench) -> None:
        def answer(connection: ServerConnection, request: Request) -> Response | None:
            if request.path == "/":
                return Response(307, "", WireHeaders({"Location": "/ws"}))
            return None

        def greet(connection: ServerConnection, request: Request, response: Response) -> None:
            response.headers["Set-Cookie"] = "a=1; Path=/"

        await bench.app("gw1", process_request=answer, process_response=greet)
        bench.ask("/~gw1/")
        reject = await bench.take(WsOpenReject)
        assert ("Location", "/s/rt_1/~gw1/ws") in reject.headers
        bench.ask("/~gw1/ws")
        ack = await bench.take(WsOpenAck)
        assert ("Set-Cookie", "a=1; Path=/s/rt_1/~gw1") in ack.headers

    run(scenario)


def test_a_message_too_long_is_1009(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_synth_tunnels.agent import websockets

    monkeypatch.setattr(websockets, "MAX_WS_MESSAGE_BYTES", 1000)

    async def scenario(bench: Bench) -> None:
        await bench.app()
        rid = await bench.open()
        bench.link.send(WsFrame(rid, b"x" * 1001))
        assert (await bench.take(WsClose)).code == 1009
        assert (await bench.closes.get())[0] == 1009
        await bench.open()
        await bench.apps.get()
        app = await bench.apps.get()
        await app.send(b"x" * 1001)
        assert (await bench.take(WsClose)).code == 1009
        assert (await bench.closes.get())[0] == 1009

    run(scenario)
