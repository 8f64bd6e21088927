"""Caller, relay, agent and app with real sockets, over both kinds of link: what must survive the
whole way, and what must not spread."""

import asyncio
import base64
import gzip
import hashlib
import json
import re
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
from pytest_synth_tunnels.backend import server
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.http import connection as connection_module
from pytest_synth_tunnels.http import limiter as limiter_module
from pytest_synth_tunnels.http.sockets import reset
from pytest_synth_tunnels.relay import slow_readers
from pytest_synth_tunnels.relay.route import Limits
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.wire.frames import WINDOW_BYTES, Attach, Frame, ReqHeaders

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


# What HTTP has beside a head and a body.


@both
def test_interim_and_empty_responses(kind: str) -> None:
    async def test() -> None:
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        app = scripted(
            interim + b"HTTP/1.1 204 No Content\r\nX-N: 1\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        )
        async with tunnel(kind, app) as opened:
            caller = await opened.caller()
            for method, head in [
                ("GET", b"HTTP/1.1 204 No Content\r\nX-N: 1\r\n\r\n"),
                ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
                ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
                ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            ]:
                caller.send(method)
                if head.startswith(b"HTTP/1.1 204"):
                    hints, going_on, _ = interim.split(b"\r\n\r\n")
                    assert await caller.head() == hints + b"\r\n\r\n"
                    assert await caller.head() == going_on + b"\r\n\r\n"
                assert await caller.head() == head

    run(test)


@both
def test_compressed_bodies_stay_as_they_are(kind: str) -> None:
    packed = gzip.compress(b"hello " * 1000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"

    async def test() -> None:
        async with tunnel(kind, scripted(head.encode() + packed)) as opened:
            caller = await opened.caller()
            caller.send("GET", "/", "Accept-Encoding: gzip, br")
            assert b"\r\nAccept-Encoding: gzip, br\r\n" in await opened.arrived.get()
            assert b"\r\nContent-Encoding: gzip\r\n" in await caller.head()
            assert await caller.reader.readexactly(len(packed)) == packed

    run(test)


@both
def test_events_arrive_as_they_are_written(kind: str) -> None:
    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for number in range(3):
                event = b"data: %d\n\n" % number
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await opened.left.get()  # until the caller has it
            writer.write(b"0\r\n\r\n")

        return serve

    async def test() -> None:
        async with tunnel(kind, app) as opened:
            caller = await opened.caller()
            caller.send("GET", "/", "Accept: text/event-stream")
            assert b"text/event-stream" in await caller.head()
            for number in range(3):
                expected = b"9\r\ndata: %d\n\n\r\n" % number
                assert await caller.reader.readexactly(len(expected)) == expected
                opened.left.put_nowait(None)
            assert await caller.reader.readexactly(5) == b"0\r\n\r\n"

    run(test)


@both
@pytest.mark.parametrize("framing", ["Content-Length: 8", "Transfer-Encoding: chunked"])
def test_a_body_reaches_the_app_while_it_is_sent(kind: str, framing: str) -> None:
    chunked = "chunked" in framing

    def piece(data: bytes) -> bytes:
        return b"4\r\n%b\r\n" % data if chunked else data

    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(2):
                opened.arrived.put_nowait(await reader.readexactly(9 if chunked else 4))
            if chunked:
                await reader.readexactly(5)
            writer.write(OK)

        return serve

    async def test() -> None:
        async with tunnel(kind, app) as opened:
            caller = await opened.caller()
            caller.send("POST", "/", framing, body=piece(b"one,"))
            assert await opened.arrived.get() == piece(b"one,")
            caller.writer.write(piece(b"two.") + (b"0\r\n\r\n" if chunked else b""))
            assert await opened.arrived.get() == piece(b"two.")
            assert await caller.answer() == (200, b"ok")

    run(test)


# Ends.


@every
@pytest.mark.parametrize("at", ["waiting", "answering", "uploading"])
def test_a_caller_that_goes_away_ends_the_apps_request(kind: str, at: str) -> None:
    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened.arrived.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            if at == "answering":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst")
            await opened.wait_here(reader)

        return serve

    async def test() -> None:
        async with tunnel(kind, app) as opened:
            caller = await opened.caller()
            if at == "uploading":
                caller.send("POST", "/", f"Content-Length: {HUGE}", body=bytes(100_000))
            else:
                caller.send()
            await opened.arrived.get()
            if at == "answering":
                await caller.head()
            caller.close()
            await opened.left.get()
            lease_id = opened.lease["lease_id"]
            question = requests.get_synth_lease(lease_id)
            # The app has left upon the caller's end, which is told a moment later.
            while opened.backend.call(question)["inflight"] or opened.agent.inflight:  # noqa: ASYNC110
                await asyncio.sleep(0)

    run(test)


@both
@pytest.mark.parametrize("answering", [False, True])
def test_a_caller_that_goes_away_while_the_app_does_not_read(
    kind: str, answering: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_LOOK_S", 0.02)
    reads_on = asyncio.Event()

    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (head := await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
                writer.write(OK)
            opened.arrived.put_nowait(head)
            if answering:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst")
            await reads_on.wait()
            await opened.wait_here(reader)

        return serve

    async def test() -> None:
        async with tunnel(kind, app, request_timeout_s=60) as opened:
            caller = await opened.caller()
            caller.send("POST", "/", f"Content-Length: {HUGE}", body=bytes(24 << 20))
            await opened.arrived.get()
            if answering:
                await caller.head()
            known = opened.backend._running.http.limiter.connections
            (connection,) = known
            paused = 0
            while paused < 20:
                assert await opened.ask() == (200, b"ok")
                paused = paused + 1 if connection._body_paused else 0
            caller.reset()
            while opened.agent.inflight or connection in known:  # noqa: ASYNC110
                await asyncio.sleep(0)
            lease_id = opened.lease["lease_id"]
            assert opened.backend.call(requests.get_synth_lease(lease_id))["inflight"] == 0
            reads_on.set()
            await opened.left.get()

    run(test)


@every
def test_an_app_that_never_answers_is_left_at_the_deadline(kind: str) -> None:
    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await opened.wait_here(reader)

        return serve

    async def test() -> None:
        async with tunnel(kind, app, request_timeout_s=0.1) as opened:
            caller = await opened.caller()
            caller.send()
            status, code = await caller.error()
            assert (status, code) == (504, "TUNNEL_TIMEOUT")
            await opened.left.get()

    run(test)


@both
def test_an_agent_that_ignores_deadlines_is_not_waited_for(kind: str) -> None:
    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened.arrived.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            await opened.wait_here(reader)

        return serve

    async def test() -> None:
        heedless = HeedlessAgent
        async with tunnel(kind, app, request_timeout_s=0.1, agent_type=heedless) as opened:
            callers = [await opened.caller() for _ in range(2)]
            callers[0].send()
            callers[1].send("POST", "/", "Content-Length: 2", body=b"ok")
            for caller in callers:
                assert await caller.error() == (504, "TUNNEL_TIMEOUT")
            for _ in callers:
                await opened.arrived.get()
                await opened.left.get()
            assert opened.agent.inflight == 0

    run(test)


@every
@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_an_interrupted_answer_has_no_clean_end(kind: str, framing: bytes) -> None:
    def broken(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            part = b"part" if b"Length" in framing else b"4\r\npart\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, part))

        return serve

    async def test() -> None:
        async with tunnel(kind, broken) as opened:
            caller = await opened.caller()
            caller.send()
            assert (await caller.head()).startswith(b"HTTP/1.1 200")
            rest = await caller.reader.read()
            assert rest == (b"part" if b"Length" in framing else b"4\r\npart\r\n")

    run(test)


@both
def test_closing_the_lease_acts_at_once(kind: str) -> None:
    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/answering" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            opened.arrived.put_nowait(head)
            await opened.wait_here(reader)

        return serve

    async def test() -> None:
        async with tunnel(kind, app) as opened:
            waiting, answering = await opened.caller(), await opened.caller()
            waiting.send()
            answering.send("GET", "/answering")
            for _ in range(2):
                await opened.arrived.get()
            await answering.reader.readuntil(b"x\r\n")
            opened.backend.call(requests.close_synth_lease(opened.lease["lease_id"]))
            assert await waiting.error() == (410, "TUNNEL_LEASE_EXPIRED")
            assert await answering.reader.read() == b""
            for _ in range(2):
                await opened.left.get()

    run(test)


# Outages.


def asking(opened: Tunnel) -> App:
    """An app that keeps each first request for ever, and answers the next ones."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            opened.arrived.put_nowait(head)
            if opened.arrived.qsize() == 1:
                await opened.wait_here(reader)
            writer.write(OK)

    return serve


def test_a_request_survives_the_loss_of_its_agent() -> None:
    async def test() -> None:
        async with tunnel("websocket", asking) as opened:
            caller = await opened.caller()
            caller.send("GET", "/again")
            while opened.arrived.empty():  # noqa: ASYNC110 (the app counts what is there)
                await asyncio.sleep(0)
            opened.cut_link()
            assert await caller.answer() == (200, b"ok")
            heads = [await opened.arrived.get() for _ in range(2)]
            assert [head.split()[:2] for head in heads] == [[b"GET", b"/again"]] * 2
            await opened.left.get()
            assert not await opened.news.get()
            assert await opened.news.get()

    run(test)


def test_what_may_do_harm_is_not_sent_again() -> None:
    async def test() -> None:
        async with tunnel("websocket", asking) as opened:
            caller = await opened.caller()
            caller.send("POST", "/once", "Content-Length: 1", body=b"x")
            while opened.arrived.empty():  # noqa: ASYNC110
                await asyncio.sleep(0)
            opened.cut_link()
            assert await caller.error() == (502, "AGENT_LOST")
            caller.send("POST", "/other", "Content-Length: 0")
            assert await caller.answer() == (200, b"ok")
            assert opened.arrived.qsize() == 2

    run(test)


def test_a_rotated_agent_token_cuts_off_the_agent_that_has_the_old_one() -> None:
    async def test() -> None:
        async with tunnel("websocket", scripted(OK)) as opened:
            path = f"/api/v1/synthtunnel/leases/{opened.lease['lease_id']}/agent-token:refresh"
            connection = await opened.caller()
            key = opened.backend.api_key
            connection.writer.write(
                f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
            )
            _, body = await connection.answer()
            assert not await opened.news.get()
            caller = await opened.caller()
            caller.send()
            fresh = json.loads(body)["agent_connect"]
            assert opened.dialer is not None
            opened.dialer.update(fresh["url"], fresh["agent_token"])
            assert await caller.answer() == (200, b"ok")

    run(test)


class Live:
    """A request that waits, an answer on its way and an open WebSocket, through one tunnel."""

    def __init__(self, opened: Tunnel) -> None:
        self._opened = opened

    @staticmethod
    def app(opened: Tunnel) -> App:
        """An app that keeps the first of each, and answers the next one that waits."""
        waited = False

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal waited
            head = await reader.readuntil(b"\r\n\r\n")
            opened.arrived.put_nowait(head)
            if b"/answering" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            elif b"/websocket" in head:
                writer.write(_switching(head))
                await reader.read(65_536)
                opened.left.put_nowait(None)
                return
            elif waited:
                writer.write(OK)
            else:
                waited = True
            await opened.wait_here(reader)

        return serve

    async def begin(self) -> None:
        opened = self._opened
        self.waiting, self.answering = await opened.caller(), await opened.caller()
        self.websocket = await opened.caller()
        self.waiting.send()
        self.answering.send("GET", "/answering")
        self.websocket.send(
            "GET",
            "/websocket",
            *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        for _ in range(3):
            await opened.arrived.get()
        await self.answering.reader.readuntil(b"x\r\n")
        assert (await self.websocket.head()).startswith(b"HTTP/1.1 101 ")

    async def close_code(self) -> int:
        """Return the code with which the WebSocket is closed."""
        frame = await self.websocket.reader.readexactly(4)
        assert frame[0] == 0x88
        return int.from_bytes(frame[2:])


def _switching(head: bytes) -> bytes:
    """Return an app's answer to an upgrade."""
    found = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
    assert found is not None
    digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


def test_a_rotated_agent_token_moves_what_can_be_moved_and_ends_the_rest() -> None:
    async def test() -> None:
        async with tunnel("websocket", Live.app) as opened:
            live = Live(opened)
            await live.begin()
            path = f"/api/v1/synthtunnel/leases/{opened.lease['lease_id']}/agent-token:refresh"
            fresh = opened.backend.call(requests.Request("POST", path))["agent_connect"]
            assert not await opened.news.get()
            assert await live.close_code() == 1012
            assert await live.answering.reader.read() == b""
            # The old agent has let go of all three.
            for _ in range(3):
                await opened.left.get()
            assert opened.dialer is not None
            opened.dialer.update(fresh["url"], fresh["agent_token"])
            assert await live.waiting.answer() == (200, b"ok")

    run(test)


@both
def test_a_lease_that_expires_ends_what_is_under_way(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SWEEP_S", 0.02)

    async def test() -> None:
        moment = time.time()
        async with tunnel(kind, Live.app, now=lambda: moment) as opened:
            live = Live(opened)
            await live.begin()
            moment += 100_000
            assert await live.waiting.error() == (410, "TUNNEL_LEASE_EXPIRED")
            assert await live.close_code() == 1001
            assert await live.answering.reader.read() == b""
            for _ in range(3):
                await opened.left.get()
            status = opened.backend.call(requests.get_synth_lease(opened.lease["lease_id"]))
            assert (status["status"], status["inflight"]) == ("EXPIRED", 0)

    run(test)


# Limits.


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        (["X: " + "x" * 2000], 431, "HEADERS_TOO_LARGE"),
        (["X: 1"] * 20, 431, "HEADERS_TOO_LARGE"),
        (["Content-Length: 11"], 413, "TUNNEL_PAYLOAD_TOO_LARGE"),
    ],
)
def test_requests_over_the_advertised_limits(lines: list[str], status: int, code: str) -> None:
    async def test() -> None:
        limits = Limits(max_header_bytes=2000, max_headers=15, max_request_bytes=10)
        async with tunnel("memory", scripted(OK), limits=limits) as opened:
            found = opened.lease["limits"]
            assert (found["max_header_bytes"], found["max_headers"]) == (2000, 15)
            caller = await opened.caller()
            caller.send("GET", "/", *lines)
            assert await caller.error() == (status, code)
            assert await opened.ask() == (200, b"ok")

    run(test)


def test_responses_over_the_advertised_limit() -> None:
    async def test() -> None:
        limits = Limits(max_response_bytes=1)
        async with tunnel("memory", scripted(OK), limits=limits) as opened:
            caller = await opened.caller()
            caller.send()
            assert await caller.error() == (413, "TUNNEL_PAYLOAD_TOO_LARGE")

    run(test)


def test_slow_heads_and_idle_connections_end() -> None:
    async def test() -> None:
        limits = Limits(header_timeout_s=0.2, idle_timeout_s=0.05)
        async with tunnel("memory", scripted(OK), limits=limits) as opened:
            slow, idle, silent = [await opened.caller() for _ in range(3)]
            slow.writer.write(b"GET /s/")
            idle.send()
            assert await idle.answer() == (200, b"ok")
            assert await idle.reader.read() == b""
            assert await slow.error() == (408, "TUNNEL_TIMEOUT")
            assert await silent.reader.read() == b""

    run(test)


def test_strangers_do_not_take_the_places_of_others() -> None:
    async def test() -> None:
        limits = Limits(max_unauthenticated_connections=3)
        async with tunnel("memory", scripted(*[OK] * 3), limits=limits) as opened:
            known = await opened.caller()
            known.send()
            assert await known.answer() == (200, b"ok")
            strangers = [await opened.caller() for _ in range(4)]
            assert await strangers[3].error() == (503, "TUNNEL_CAPACITY_EXCEEDED")
            known.send()
            assert await known.answer() == (200, b"ok")
            strangers[0].send()
            assert await strangers[0].answer() == (200, b"ok")

    run(test)


def is_open(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.fileno() >= 0


def test_strangers_that_do_not_read_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "_GRACE_S", 0.0)

    async def test() -> None:
        limits = Limits(max_unauthenticated_connections=1)
        async with tunnel("memory", scripted(*[OK] * 3), limits=limits) as opened:
            dropped = []
            for _ in range(3):
                stranger = await opened.caller(buffer_bytes=4096)
                while not (found := list(opened.backend._running.http.limiter.strangers)):  # noqa: ASYNC110
                    await asyncio.sleep(0)
                while not found[0].write_paused:
                    stranger.writer.write(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
                    await asyncio.sleep(0)
                dropped.append(found[0].transport)
                assert await opened.ask() == (200, b"ok")
            while any(map(is_open, dropped)):  # noqa: ASYNC110
                await asyncio.sleep(0)

    run(test)


# Flow control.


def streaming(sent: list[int]) -> Callable[[Tunnel], App]:
    """An app whose ``/huge`` is huge, and which counts what it could write of it."""

    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"GET /huge"):
                    writer.write(OK)
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUGE)
                try:
                    for _ in range(HUGE // 65_536):
                        writer.write(bytes(65_536))
                        await writer.drain()
                        sent[0] += 65_536
                finally:
                    opened.left.put_nowait(None)

        return serve

    return app


def buffered_bytes(opened: Tunnel) -> int:
    """Return what the relay holds for callers."""
    return sum(
        x.transport.get_write_buffer_size()
        for x in opened.backend._running.http.limiter.connections
    )


@both
def test_a_stalled_reader_costs_its_window_and_slows_nobody(kind: str) -> None:
    async def test() -> None:
        sent = [0]
        async with tunnel(kind, streaming(sent)) as opened:
            stalled = await opened.caller(buffer_bytes=4096)
            stalled.send("GET", "/huge")
            assert (await stalled.head()).startswith(b"HTTP/1.1 200")
            before = -1
            while sent[0] != before:
                before = sent[0]
                for _ in range(20):
                    async with asyncio.timeout(2):
                        assert await opened.ask() == (200, b"ok")
            # Beside the window there is what the system keeps for the sockets on the way.
            assert sent[0] < 24 << 20
            assert buffered_bytes(opened) <= 2 * WINDOW_BYTES
            stalled.close()
            await opened.left.get()

    run(test)


@both
def test_a_caller_that_asks_ahead_and_does_not_read_costs_one_answer_at_a_time(kind: str) -> None:
    size, count = 200_000, 100

    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                opened.arrived.put_nowait(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                writer.write(bytes(size))

        return serve

    async def test() -> None:
        async with tunnel(kind, app) as opened:
            ahead, other = await opened.caller(), await opened.caller()
            for _ in range(count):
                ahead.send()
            before = -1
            while opened.arrived.qsize() != before:
                before = opened.arrived.qsize()
                for _ in range(5):
                    other.send()
                    assert (await other.answer())[0] == 200
                    opened.arrived.get_nowait()
                assert buffered_bytes(opened) <= 2 * WINDOW_BYTES
            assert before < count
            for _ in range(count):
                assert await ahead.answer() == (200, bytes(size))

    run(test)


def test_without_windows_a_stalled_reader_holds_up_nobody_and_is_cut_past_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_readers, "_MAX_UNREAD_BYTES", 24 << 20)

    async def test() -> None:
        sent = [0]
        async with tunnel("plain", streaming(sent)) as opened:
            stalled = await opened.caller(buffer_bytes=4096)
            stalled.send("GET", "/huge")
            assert (await stalled.head()).startswith(b"HTTP/1.1 200")
            while sent[0] < 16 << 20:
                async with asyncio.timeout(2):
                    assert await opened.ask() == (200, b"ok")
            await opened.left.get()
            assert sent[0] < 64 << 20
            for _ in range(20):
                assert await opened.ask() == (200, b"ok")

    run(test)


@both
def test_an_app_that_does_not_read_costs_its_window_and_slows_nobody(kind: str) -> None:
    def app(opened: Tunnel) -> App:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"POST"):
                    opened.arrived.put_nowait(head)
                    await opened.left.get()  # never
                writer.write(OK)

        return serve

    async def test() -> None:
        async with tunnel(kind, app) as opened:
            caller = await opened.caller()
            caller.send("POST", "/", f"Content-Length: {HUGE}")
            await opened.arrived.get()
            sent = 0

            async def upload() -> None:
                nonlocal sent
                while True:
                    caller.writer.write(bytes(65_536))
                    await caller.writer.drain()
                    sent += 65_536

            uploading = asyncio.create_task(upload())
            before = -1
            while sent != before:
                before = sent
                for _ in range(20):
                    async with asyncio.timeout(2):
                        assert await opened.ask() == (200, b"ok")
            assert sent < 24 << 20
            (forward,) = opened.agent.uplink.requests.values()
            assert forward._receive_window.untold_bytes <= 2 * WINDOW_BYTES
            uploading.cancel()
            with suppress(asyncio.CancelledError):
                await uploading
            opened.left.put_nowait(None)

    run(test)
