"""Agent and ForwardedRequest: frames on a link in memory, real sockets to small apps."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.wire.frames import (
    MAX_WHOLE_BYTES,
    WINDOW_BYTES,
    Cancel,
    Frame,
    FrameError,
    Headers,
    RelayCapabilities,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
)
from pytest_synth_tunnels.wire.link import MemoryLink, memory_links

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


@pytest.fixture(autouse=True, params=[False, True], ids=["pieces", "whole"])
def whole_messages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have short messages in pieces, and in one frame."""
    monkeypatch.setattr(Bench, "whole_messages", request.param)
    return bool(request.param)


class Bench:
    """An agent, the relay's end of its link, and apps."""

    whole_messages = False

    def __init__(self, *, flow_control: bool = True, patience_s: float = 0.0) -> None:
        self.frames: list[Frame] = []
        self.answers: dict[str, Answer] = {}
        self.credits: dict[str, int] = {}
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
        self.agent.connected(near, RelayCapabilities(flow_control, self.whole_messages))

    async def __aenter__(self) -> "Bench":
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
        self.frames.append(frame)
        answer = self.answers.setdefault(getattr(frame, "rid", ""), Answer())
        if isinstance(frame, RespHeaders):
            assert not answer.status
            assert self.whole_messages or not frame.end
            answer.status, answer.headers = frame.status, frame.headers
            answer.body, answer.done = frame.body, frame.end
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
    ) -> str:
        self._rids += 1
        rid = f"r{self._rids}"
        self.answers[rid] = Answer()
        headers = list(headers or [])
        self.link.send(
            ReqHeaders(lease_id, rid, method, path, query, headers, deadline_ms, body, end)
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
    ) -> Answer:
        if body:
            headers = [*(headers or []), ("Content-Length", str(len(body)))]
        about = {"query": query, "lease_id": lease_id, "deadline_ms": deadline_ms}
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


def run(scenario: Callable[[Bench], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        async with Bench(**options) as bench:  # type: ignore[arg-type]
            await scenario(bench)

    asyncio.run(main())


def ok(body: bytes = b"ok", *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    head = f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


# --- requests


def test_a_get_reaches_the_app_as_it_was_asked() -> None:
    async def scenario(bench: Bench) -> None:
        port = await bench.app(lambda _: ok(b"hello", "X-A: 1", "Set-Cookie: a", "Set-Cookie: b"))
        answer = await bench.ask(
            "GET",
            "/a%2Fb/%C3%A9",
            [("Host", "relay"), ("Accept", "x"), ("accept", "y"), ("X-Name", "caf\xe9")],
            query="q=%20&r",
        )
        assert (answer.status, answer.body) == (200, b"hello")
        assert answer.headers == [
            ("X-A", "1"),
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
            ("Content-Length", "5"),
        ]
        (seen,) = bench.seen
        assert seen.target == "/a%2Fb/%C3%A9?q=%20&r"
        assert seen.get("host") == [f"127.0.0.1:{port}"]
        assert seen.get("accept") == ["x", "y"]
        assert seen.get("x-name") == ["caf\xe9"]
        assert seen.get("content-length") == seen.get("transfer-encoding") == []
        assert {getattr(frame, "lease_id", "") for frame in bench.frames} == {"l1"}

    run(scenario)


def test_response_headers_keep_their_latin_1() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok(b"", "X-Name: caf\xe9", "X-Empty:"))
        answer = await bench.ask()
        assert answer.get("x-name") == ["caf\xe9"]
        assert answer.get("x-empty") == [""]

    run(scenario)


def test_the_head_and_a_small_body_are_one_write() -> None:
    async def scenario(bench: Bench) -> None:
        reads = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reads.append(await reader.read(65536))
            writer.write(ok())

        await bench.run(script)
        await bench.ask("POST", body=b"small")
        (data,) = reads
        assert data.endswith(b"\r\n\r\nsmall")

    run(scenario)


@pytest.mark.parametrize(
    ("method", "headers", "chunks", "expected"),
    [
        ("POST", [], [], ("content-length", "0")),
        ("GET", [], [], None),
        ("DELETE", [("Content-Length", "0")], [], ("content-length", "0")),
        ("POST", [], [b"ab", b"c"], ("content-length", "3")),
        ("POST", [("Content-Length", "3")], [b"ab", b"c"], ("content-length", "3")),
        ("GET", [], [b"body"], ("content-length", "4")),
        ("PUT", [("Content-Length", "x")], [b"y"], ("content-length", "1")),
    ],
)
def test_bodies_that_are_there_at_once_have_a_length(
    method: str, headers: Headers, chunks: list[bytes], expected: tuple[str, str] | None
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok())
        rid = bench.begin(method, headers=headers)
        for chunk in chunks:
            bench.link.send(ReqBody(rid, chunk))
        bench.link.send(ReqEnd(rid))
        await bench.answered(rid)
        (seen,) = bench.seen
        framing = [(name.lower(), value) for name, value in seen.headers]
        framing = [pair for pair in framing if pair[0] in ("content-length", "transfer-encoding")]
        assert framing == ([expected] if expected else [])
        assert seen.body == b"".join(chunks)

    run(scenario)


def test_a_body_that_comes_later_is_chunked_unless_its_length_is_known() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok())
        for length in ([], [("Content-Length", "6")]):
            rid = bench.begin("POST", headers=length)
            for chunk in (b"one", b"", b"two"):
                await asyncio.sleep(0.001)
                bench.link.send(ReqBody(rid, chunk))
            await asyncio.sleep(0.001)
            bench.link.send(ReqEnd(rid))
            await bench.answered(rid)
        assert [seen.body for seen in bench.seen] == [b"onetwo", b"onetwo"]
        assert bench.seen[0].get("transfer-encoding") == ["chunked"]
        assert bench.seen[1].get("content-length") == ["6"]
        assert {seen.connection for seen in bench.seen} == {1}

    run(scenario)


def test_the_head_of_a_slow_upload_does_not_wait_for_the_body() -> None:
    async def scenario(bench: Bench) -> None:
        heads = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while line := await reader.readline():  # an echo while the request goes on
                size = int(line, 16)
                data = await reader.readexactly(size)
                await reader.readline()
                writer.write(b"%x\r\n%b\r\n" % (size, data))
                if not size:
                    return

        await bench.run(script)
        rid = bench.begin("POST")
        await bench.until(lambda: bench.answers[rid].status)
        for number in range(3):
            bench.link.send(ReqBody(rid, b"%d" % number))
            await bench.until(lambda n=number: len(bench.answers[rid].body) == n + 1)
        bench.link.send(ReqEnd(rid))
        assert (await bench.answered(rid)).body == b"012"

    run(scenario)


@pytest.mark.parametrize(("sent", "length"), [(b"too long", 3), (b"ab", 3)])
def test_a_body_that_belies_its_length_is_refused(sent: bytes, length: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok())
        rid = bench.begin("POST", headers=[("Content-Length", str(length))])
        bench.link.send(ReqBody(rid, sent))
        bench.link.send(ReqEnd(rid))
        answer = await bench.answered(rid)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST_BODY")
        assert bench.seen == []
        assert bench.agent.inflight == 0

    run(scenario)


# --- responses


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
        (b"HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n", 299, b""),
        (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
                b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
            ),
            200,
            b"abcde",
        ),
        (
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            ),
            200,
            b"ok",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nok",
            200,
            b"ok",
        ),
    ],
)
def test_responses_that_keep_the_connection(data: bytes, status: int, body: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: data)
        for _ in range(2):
            answer = await bench.ask()
            assert (answer.status, answer.body, answer.error) == (status, body, "")
            names = {name.lower() for name, _ in answer.headers}
            assert not names & {
                "x-t",
                "link",
                "x-hop",
                "connection",
                "transfer-encoding",
                "trailer",
            }
        assert {seen.connection for seen in bench.seen} == {1}

    run(scenario)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\njunk", b"ok"),
        # More than one response to one request: the first counts.
        (
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nmore"
            ),
            b"ok",
        ),
        (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmore\r\n0\r\n\r\n"
            ),
            b"ok",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n",
            b"ok",
        ),
    ],
)
def test_responses_that_end_the_connection(data: bytes, body: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: data)
        for _ in range(2):
            answer = await bench.ask()
            assert (answer.status, answer.body, answer.error) == (200, body, "")
        assert {seen.connection for seen in bench.seen} == {1, 2}

    run(scenario)


def test_a_response_may_end_with_its_connection() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\n")
            for _ in range(3):
                writer.write(b"piece ")
                await asyncio.sleep(0.001)

        await bench.run(script)
        for _ in range(2):
            answer = await bench.ask()
            assert (answer.body, answer.error, answer.get("x-a")) == (b"piece " * 3, "", ["1"])
        assert bench.connections == 2

    run(scenario)


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_head_has_no_body_and_keeps_the_connection(head: str) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda seen: head.encode() if seen.method == "HEAD" else ok())
        lengths = "1234" if "1234" in head else ""
        for _ in range(2):
            answer = await bench.ask("HEAD")
            assert (answer.status, answer.body) == (200, b"")
            assert "".join(answer.get("content-length")) == lengths
        assert (await bench.ask()).body == b"ok"
        assert len({seen.connection for seen in bench.seen}) <= (3 if head.count(":") == 0 else 1)

    run(scenario)


@pytest.mark.parametrize(("extra", "connections"), [(b"", {1}), (b"junk", {1, 2})])
def test_long_bodies_end_where_they_say(extra: bytes, connections: set[int]) -> None:
    async def scenario(bench: Bench) -> None:
        body = bytes(range(256)) * 5000
        await bench.app(lambda _: ok(body) + extra)
        for _ in range(2):
            rid = bench.begin()
            bench.link.send(Window(rid, len(body)))
            bench.link.send(ReqEnd(rid))
            answer = await bench.answered(rid)
            assert answer.body == body
            assert not answer.error
        assert {seen.connection for seen in bench.seen} == connections

    run(scenario)


def test_compressed_bodies_stay_as_they_are() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok(b"\x1f\x8b\x00", "Content-Encoding: gzip"))
        answer = await bench.ask()
        assert (answer.body, answer.get("content-encoding")) == (b"\x1f\x8b\x00", ["gzip"])

    run(scenario)


def test_an_early_answer_ends_the_upload() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

        await bench.run(script)
        rid = bench.begin("POST", headers=[("Content-Length", "1000000")])
        answer = await bench.answered(rid)
        assert (answer.status, answer.body, answer.error) == (413, b"big", "")
        bench.link.send(ReqBody(rid, bytes(500_000)))  # late, and dropped
        bench.link.send(ReqBody(rid, bytes(500_000)))
        bench.link.send(ReqEnd(rid))
        await bench.ask()
        assert bench.connections == 2

    run(scenario)


def test_an_app_that_closes_on_a_long_upload_is_still_heard() -> None:
    async def scenario(bench: Bench) -> None:
        closed = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            bench.agent.pause_writing()  # so that the agent writes before it reads
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            closed.append(1)

        await bench.run(script)
        rid = bench.begin("POST", headers=[("Content-Length", str(100 << 20))])
        await bench.until(lambda: closed)
        for _ in range(40):
            if not bench.answers[rid].done:
                bench.link.send(ReqBody(rid, bytes(20_000)))
                await asyncio.sleep(0)
        answer = await bench.answered(rid)
        assert (answer.status, answer.body, answer.error) == (401, b"no", "")

    run(scenario)


# --- failures


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", "without an answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, "over 256 KiB"),
    ],
)
def test_an_app_that_breaks_off_before_its_answer_is_502(data: bytes, words: str) -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(data)

        port = await bench.run(script)
        answer = await bench.ask()
        assert (answer.status, answer.code) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
        message = json.loads(answer.body)["message"]
        assert words in message
        assert f"127.0.0.1:{port}" in message
        head = await bench.ask("HEAD")
        assert (head.status, head.body) == (502, b"")

    run(scenario)


@pytest.mark.parametrize(
    "head", ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_an_app_that_breaks_off_in_its_answer_is_seen(head: str) -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(f"HTTP/1.1 200 OK\r\n{head}".encode())

        await bench.run(script)
        answer = await bench.ask()
        assert (answer.status, answer.body, answer.error) == (200, b"half", "LOCAL_BAD_RESPONSE")

    run(scenario)


def test_an_app_that_is_reset_in_its_answer_is_seen() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\npart")  # would end with the connection
            await bench.until(lambda: bench.answers["r1"].body)
            writer.transport.abort()
            sock = writer.get_extra_info("socket")
            sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: reset

        await bench.run(script)
        answer = await bench.ask()
        assert (answer.body, answer.error) == (b"part", "LOCAL_BAD_RESPONSE")

    run(scenario)


def test_an_app_that_hangs_is_504() -> None:
    async def scenario(bench: Bench) -> None:
        gone = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            gone.append(await reader.read() or b"")

        port = await bench.run(script)
        answer = await bench.ask(deadline_ms=50)
        assert (answer.status, answer.code) == (504, "TUNNEL_TIMEOUT")
        assert f"127.0.0.1:{port} did not answer within 0.05 s" in answer.body.decode()
        await bench.until(lambda: gone)  # the request was dropped
        assert bench.agent.inflight == 0

    run(scenario)


def test_the_deadline_waits_for_the_upload_and_ends_with_the_head() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            await bench.until(lambda: bench.answers["r1"].status)
            due.append(forward.due_at)
            writer.write(b"ok")

        await bench.run(script)
        now = asyncio.get_running_loop().time()
        bench.agent.uplink.now = lambda: now
        rid = bench.begin("POST", headers=[("Content-Length", "2")], deadline_ms=5000)
        forward = bench.agent.uplink.requests[rid]
        due = [forward.due_at]
        await bench.until(lambda: bench.connections)
        for frame in (ReqBody(rid, b"x"), ReqBody(rid, b"x"), ReqEnd(rid)):
            now += 4
            bench.link.send(frame)
            due.append(forward.due_at)
        answer = await bench.answered(rid)
        assert (answer.status, answer.body, answer.error) == (200, b"ok", "")
        assert [at - due[0] for at in due] == pytest.approx([0, 4, 8, 12, float("inf")])

    run(scenario)


def unused_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_an_app_that_is_not_there_is_502() -> None:
    async def scenario(bench: Bench) -> None:
        port = unused_port()
        bench.agent.leases.set_target("l1", "", Target("127.0.0.1", port))
        answers = await asyncio.gather(*(bench.ask() for _ in range(3)))
        for answer in answers:
            assert (answer.status, answer.code) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
            assert f"127.0.0.1:{port}: connection refused" in answer.body.decode()
            assert "tried for 0.1 s" in answer.body.decode()

    run(scenario, patience_s=0.1)


def test_an_app_that_starts_late_is_waited_for_once() -> None:
    async def scenario(bench: Bench) -> None:
        port = unused_port()
        bench.agent.leases.set_target("l1", "", Target("127.0.0.1", port))
        rids = [bench.begin("POST", headers=[("Content-Length", "3")]) for _ in range(3)]
        for rid in rids:
            bench.link.send(ReqBody(rid, b"abc"))
            bench.link.send(ReqEnd(rid))
        await asyncio.sleep(0.06)
        assert not any(bench.answers[rid].done for rid in rids)

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen = await read_request(reader, 0)
            writer.write(ok(seen.body, "Connection: close"))

        await bench.run(script, port=port)
        for rid in rids:
            assert (await bench.answered(rid)).body == b"abc"
        # From now on a refusal is what it is.
        bench._servers[0].close()
        began = asyncio.get_running_loop().time()
        assert (await bench.ask()).status == 502
        assert asyncio.get_running_loop().time() - began < 2

    run(scenario, patience_s=5.0)


def test_a_connection_that_was_being_closed_is_tried_again_once() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen = await read_request(reader, bench.connections)
            bench.seen.append(seen)
            writer.write(ok(str(bench.connections).encode()))
            await reader.readuntil(b"\r\n\r\n")  # and closes instead of answering

        await bench.run(script)
        assert (await bench.ask()).body == b"1"
        assert (await bench.ask()).body == b"2"
        # Nothing that may have happened is repeated.
        answer = await bench.ask("POST")
        assert (answer.status, bench.connections) == (502, 2)

    run(scenario)


def test_an_idle_connection_that_the_app_closed_is_not_used() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(ok())
            await bench.until(lambda: bench.answers[f"r{bench.connections}"].done)

        await bench.run(script)
        _, origin = bench.agent.leases.get("l1").destinations[""]
        for count in (1, 2):
            assert (await bench.ask("POST")).status == 200
            assert bench.connections == count
            while origin._idle:  # noqa: ASYNC110 (until the agent has seen it)
                await asyncio.sleep(0)

    run(scenario)


def test_cancel_drops_the_request() -> None:
    async def scenario(bench: Bench) -> None:
        gone = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
            gone.append(await reader.read() or b"")

        await bench.run(script)
        rid = bench.begin()
        bench.link.send(ReqEnd(rid))
        await bench.until(lambda: bench.answers[rid].body)
        bench.link.send(Cancel(rid))
        bench.link.send(Cancel(rid))
        await bench.until(lambda: gone)
        assert not bench.answers[rid].done
        assert bench.agent.inflight == 0

    run(scenario)


def test_a_lost_link_drops_everything() -> None:
    async def scenario(bench: Bench) -> None:
        begun = asyncio.Semaphore(0)
        gone = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            begun.release()
            gone.append(await reader.read() or b"")

        await bench.run(script)
        bench.link.send(ReqEnd(bench.begin()))
        bench.link.send(ReqEnd(bench.begin("POST")))
        assert (bench.agent.attached, bench.agent.inflight) == (True, 2)
        async with asyncio.timeout(10):
            await begun.acquire()
            await begun.acquire()
        bench.link.close()
        assert (bench.agent.attached, bench.agent.inflight) == (False, 0)
        await bench.until(lambda: len(gone) == 2)

    run(scenario)


# --- flow control


def test_a_response_stops_at_its_window() -> None:
    async def scenario(bench: Bench) -> None:
        body = bytes(range(256)) * 20_000
        await bench.app(lambda _: ok(body))
        rid = bench.begin()
        bench.link.send(ReqEnd(rid))
        answer, taken = bench.answers[rid], 0
        while not answer.done:
            await bench.until(lambda t=taken: answer.done or len(answer.body) - t >= WINDOW_BYTES)
            for _ in range(20):  # nothing comes beyond the read in which the window ended
                await asyncio.sleep(0)
            count = len(answer.body)
            assert count - taken < 3 * WINDOW_BYTES
            bench.link.send(Window(rid, count - taken))
            taken = count
        assert bench.answers[rid].body == body

    run(scenario)


def test_a_full_link_stops_all_responses() -> None:
    async def scenario(bench: Bench) -> None:
        body = bytes(5_000_000)
        await bench.app(lambda _: ok(body))
        bench.agent.pause_writing()
        rids = [bench.begin() for _ in range(2)]
        for rid in rids:
            bench.link.send(ReqEnd(rid))
        await asyncio.sleep(0.05)
        assert all(not bench.answers[rid].status for rid in rids)
        bench.agent.resume_writing()
        for rid in rids:
            assert (await bench.answered(rid)).body == body

    run(scenario, flow_control=False)


def test_an_upload_is_credited_as_the_app_reads() -> None:
    async def scenario(bench: Bench) -> None:
        go_on = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await go_on.wait()
            await reader.readexactly(total)
            writer.write(ok())

        await bench.run(script)
        total, sent = 20_000_000, 0
        rid = bench.begin("POST", headers=[("Content-Length", str(total))])

        async def pump(limit: float) -> None:
            """Send what the credit allows until the body or the time is over."""
            nonlocal sent
            quiet = 0.0
            while sent < total and quiet < limit:
                if sent - bench.credits.get(rid, 0) < WINDOW_BYTES:
                    bench.link.send(ReqBody(rid, bytes(min(50_000, total - sent))))
                    sent += min(50_000, total - sent)
                    quiet = 0.0
                else:
                    await asyncio.sleep(0.01)
                    quiet += 0.01

        await pump(0.1)
        assert sent < total - 2_000_000  # what kernel and buffers hold, then no more credit
        go_on.set()
        await pump(5)
        bench.link.send(ReqEnd(rid))
        assert (await bench.answered(rid)).status == 200

    run(scenario)


def test_a_relay_that_ignores_its_window_fails_the_request_alone() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(60)

        await bench.run(script)
        rid = bench.begin("POST", headers=[("Content-Length", str(1 << 30))])
        for _ in range(1000):
            bench.link.send(ReqBody(rid, bytes(100_000)))
            if bench.answers[rid].done:
                break
            await asyncio.sleep(0)
        assert "more than its window" in bench.answers[rid].body.decode()

    run(scenario)


def test_a_relay_without_windows_waits_for_a_slow_app_and_then_loses_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    monkeypatch.setattr(MemoryLink, "pause_reading", lambda _: log.append("pause"))
    monkeypatch.setattr(MemoryLink, "resume_reading", lambda _: log.append("resume"))

    async def scenario(bench: Bench) -> None:
        bench.agent.uplink.stall_s = 0.05
        reached = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            reached.set()
            await asyncio.sleep(60)

        await bench.run(script)
        rid = bench.begin("POST", headers=[("Content-Length", str(1 << 30))])
        await reached.wait()
        while not log:
            bench.link.send(ReqBody(rid, bytes(100_000)))
        answer = await bench.answered(rid)
        assert (answer.status, answer.code) == (504, "TUNNEL_TIMEOUT")
        assert "took nothing" in answer.body.decode()
        assert log == ["pause", "resume"]

    run(scenario, flow_control=False)


def test_a_link_that_waited_goes_on_when_the_app_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(MemoryLink, "pause_reading", lambda _: log.append("pause"))
    monkeypatch.setattr(MemoryLink, "resume_reading", lambda _: log.append("resume"))

    async def scenario(bench: Bench) -> None:
        go_on = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await go_on.wait()
            while b"last" not in await reader.read(1 << 20):
                pass
            writer.write(ok())

        await bench.run(script)
        rid = bench.begin("POST")
        await asyncio.sleep(0.01)
        while not log:
            bench.link.send(ReqBody(rid, bytes(100_000)))
        go_on.set()
        while len(log) < 2:  # noqa: ASYNC110 (the link has nothing to wait for)
            await asyncio.sleep(0.001)
        bench.link.send(ReqBody(rid, b"last"))
        bench.link.send(ReqEnd(rid))
        assert (await bench.answered(rid)).status == 200
        assert log[:2] == ["pause", "resume"]

    run(scenario, flow_control=False)


# --- leases and addresses


def test_each_address_leads_to_its_own_app() -> None:
    async def scenario(bench: Bench) -> None:
        for address in ("gw0", "gw1"):
            await bench.app(
                lambda seen, name=address: ok(f"{name} {seen.target}".encode()), address
            )
        assert (await bench.ask(path="/~gw0/x")).body == b"gw0 /x"
        assert (await bench.ask(path="/~gw1")).body == b"gw1 /"
        assert (await bench.ask(path="/%7Egw1/a", query="b=c")).body == b"gw1 /a?b=c"
        assert bench.seen[0].get("x-forwarded-prefix") == ["/s/rt_1/~gw0"]
        for path in ("/x", "/~gw2/x"):
            answer = await bench.ask(path=path)
            assert (answer.status, answer.code) == (404, "UNKNOWN_ADDRESS")
            assert "/~gw0, /~gw1" in answer.body.decode()
        bench.agent.leases.remove_target("l1", "gw1")
        assert (await bench.ask(path="/only")).body == b"gw0 /only"
        assert (await bench.ask(path="/~gw1/")).status == 404

    run(scenario)


def test_a_tilde_may_be_the_apps_own() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda seen: ok(seen.target.encode()))
        assert (await bench.ask(path="/~user/x")).body == b"/~user/x"

    run(scenario)


def test_a_lease_without_targets_says_so() -> None:
    async def scenario(bench: Bench) -> None:
        answer = await bench.ask()
        assert (answer.status, answer.code) == (404, "UNKNOWN_ADDRESS")
        assert "none yet" in answer.body.decode()

    run(scenario)


def test_the_agent_proves_itself_with_a_nonce() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok(b"app"), "gw0")
        answer = await bench.ask(path="/~gw0/__synth/nonce/0123456789abcdef")
        assert (answer.status, answer.body) == (200, b"0123456789abcdef")
        assert answer.get("x-synth-tunnels-agent") == ["me"]
        for path in ("/~gw0/__synth/nonce/", "/~gw0/__synth/nonce/<script>", "/~gw0/__synth/x"):
            assert (await bench.ask(path=path)).body == b"app"
        assert (await bench.ask(path="/~gw9/__synth/nonce/0123456789abcdef")).status == 404

    run(scenario)


def test_a_new_target_takes_new_requests_while_old_ones_end_where_they_began() -> None:
    async def scenario(bench: Bench) -> None:
        go_on = asyncio.Event()

        async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
            await go_on.wait()
            writer.write(b"old")
            await reader.read()

        await bench.run(old)
        rid = bench.begin()
        bench.link.send(ReqEnd(rid))
        await bench.until(lambda: bench.answers[rid].status)
        await bench.app(lambda _: ok(b"new"))
        assert (await bench.ask()).body == b"new"
        go_on.set()
        assert (await bench.answered(rid)).body == b"old"
        assert (await bench.ask()).body == b"new"

    run(scenario)


def test_too_many_requests_are_refused() -> None:
    async def scenario(bench: Bench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        await bench.run(script)
        bench.agent.leases.serve("l1", PUBLIC, max_inflight=2)
        rids = [bench.begin() for _ in range(3)]
        for rid in rids:
            bench.link.send(ReqEnd(rid))
        assert [bench.answers[rid].error for rid in rids] == [
            "",
            "",
            "TOO_MANY_IN_FLIGHT_REQUESTS",
        ]
        bench.link.send(Cancel(rids[0]))
        bench.link.send(ReqEnd(bench.begin()))
        assert bench.agent.inflight == 2

    run(scenario)


def test_only_served_leases_are_answered() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok())
        assert (await bench.ask(lease_id="l2")).error == "LEASE_NOT_SERVED"
        rid = bench.begin("POST", headers=[("Content-Length", "3")])
        bench.agent.drop("l1")
        bench.agent.drop("l1")
        assert bench.answers[rid].error == "LEASE_NOT_SERVED"
        assert (await bench.ask()).error == "LEASE_NOT_SERVED"
        with pytest.raises(KeyError):
            bench.agent.leases.set_target("l1", "", Target("127.0.0.1", 1))

    run(scenario)


def test_broken_frames_fail_their_request_alone(refused: Callable[[], list[str]]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok())
        rid = bench.begin("POST")
        bench.agent.frame_failed(FrameError("bad", rid))
        assert bench.answers[rid].error == "BAD_REQUEST_FRAME"
        bench.agent.frame_failed(FrameError("bad", "unheard-of"))
        assert bench.answers["unheard-of"].error == "BAD_REQUEST_FRAME"
        bench.agent.frame_failed(FrameError("bad"))
        assert refused() == ["a frame of the relay: 400 BAD_FRAME"] * 3
        for frame in (ReqBody("x", b"y"), ReqEnd("x"), Cancel("x"), Window("x", 1), RespEnd("x")):
            bench.link.send(frame)
        rid = bench.begin("POST")
        bench.link.send(ReqHeaders("l1", rid, "GET", "/", "", [], 1))
        assert bench.answers[rid].error == "BAD_REQUEST_FRAME"
        assert (await bench.ask()).status == 200

    run(scenario)


def test_the_attach_frame_names_leases_and_the_only_target() -> None:
    async def scenario(bench: Bench) -> None:
        port = await bench.app(lambda _: ok())
        bench.agent.leases.serve("l2", "http://127.0.0.1:9/s/rt_2", max_inflight=1024)
        frame = bench.agent.attach_frame()
        first, second = frame.leases
        assert (first.lease_id, first.local_target and first.local_target.port) == ("l1", port)
        assert (second.lease_id, second.local_target) == ("l2", None)
        assert frame.capabilities.max_inflight == 1024
        assert frame.capabilities.flow_control
        assert frame.capabilities.websocket

    run(scenario)


def test_redirects_to_the_app_become_public() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok(b"", "LOCATION: /login?x=1", "Content-Location: /doc"), "gw0")
        answer = await bench.ask(path="/~gw0/")
        assert answer.get("location") == [f"{PUBLIC}/~gw0/login?x=1"]
        assert answer.get("content-location") == [f"{PUBLIC}/~gw0/doc"]
        bench.agent.leases.serve("l1", "https://public.example/s/rt_1")
        answer = await bench.ask(path="/~gw0/")
        assert answer.get("location") == ["https://public.example/s/rt_1/~gw0/login?x=1"]

    run(scenario)


def test_many_requests_each_get_their_own_answer() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda seen: ok(seen.target.encode() + seen.body))
        answers = await asyncio.gather(
            *(bench.ask("POST", f"/{n}", body=b"%d" % n * 50) for n in range(100))
        )
        assert [a.body for a in answers] == [b"/%d" % n + b"%d" % n * 50 for n in range(100)]
        assert bench.connections <= 100
        assert bench.agent.inflight == 0

    run(scenario)


# --- whole messages in one frame


def shape(bench: Bench) -> list[tuple[str, int]]:
    """Return the frames of the answer, with the length of what is in each."""
    return [
        (type(frame).__name__, len(frame.chunk if isinstance(frame, RespBody) else frame.body))
        for frame in bench.frames
        if isinstance(frame, RespHeaders | RespBody)
    ]


def test_what_comes_in_one_read_goes_in_one_frame(whole_messages: bool) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok(b"hello"))
        answer = await bench.ask()
        assert answer.body == b"hello"
        whole = [("RespHeaders", 5)]
        assert shape(bench) == (whole if whole_messages else [("RespHeaders", 0), ("RespBody", 5)])

    run(scenario)


def test_a_short_chunked_answer_goes_in_one_frame(whole_messages: bool) -> None:
    async def scenario(bench: Bench) -> None:
        chunks = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        await bench.app(lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        answer = await bench.ask()
        assert answer.body == b"hello world"
        assert len(shape(bench)) == (1 if whole_messages else 3)

    run(scenario)


def test_a_long_answer_goes_in_pieces() -> None:
    async def scenario(bench: Bench) -> None:
        size = MAX_WHOLE_BYTES + 1
        await bench.app(lambda _: ok(b"x" * size))
        answer = await bench.ask()
        assert len(answer.body) == size
        assert shape(bench)[:1] == [("RespHeaders", 0)]

    run(scenario)


def test_an_answer_that_pauses_is_not_held_back() -> None:
    async def scenario(bench: Bench) -> None:
        go_on = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 1)
            writer.write(ok(b"hello world")[:-6])
            await go_on.wait()
            writer.write(b" world")

        await bench.run(slow)
        rid = bench.begin(end=True)
        await bench.until(lambda: bench.answers[rid].body == b"hello")
        assert not bench.answers[rid].done
        go_on.set()
        assert (await bench.answered(rid)).body == b"hello world"

    run(scenario)


def test_an_answer_that_goes_wrong_in_the_read_it_began_in(whole_messages: bool) -> None:
    async def scenario(bench: Bench) -> None:
        chunks = b"5\r\nhello\r\nno chunk"
        await bench.app(lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        answer = await bench.ask()
        assert answer.error == "LOCAL_BAD_RESPONSE"
        assert answer.body == (b"" if whole_messages else b"hello")

    run(scenario)


@pytest.mark.parametrize("body", [b"", b"hell", b"hello!"])
def test_a_whole_request_of_another_length_never_reaches_the_app(body: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.app(lambda _: ok())
        rid = bench.begin("POST", "/", [("Content-Length", "5")], body=body, end=True)
        answer = await bench.answered(rid)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST_BODY")
        assert not bench.seen
        assert not bench.agent.inflight

    run(scenario)
