"""ForwardedRequest: requests on their way to small apps on real sockets, and their failures."""

import asyncio
import json

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.http.headers import Headers
from pytest_synth_tunnels.wire.frames import (
    WINDOW_BYTES,
    ReqBody,
    ReqEnd,
)

from ..support.agent_bench import (
    AgentBench,
    ok,
    read_request,
    run,
    unused_port,
)

pytestmark = pytest.mark.usefixtures("whole_messages")


def test_a_get_reaches_the_app_as_it_was_asked() -> None:
    async def scenario(bench: AgentBench) -> None:
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


def test_the_head_and_a_small_body_are_one_write() -> None:
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok())
        rid = bench.begin("POST", headers=[("Content-Length", str(length))])
        bench.link.send(ReqBody(rid, sent))
        bench.link.send(ReqEnd(rid))
        answer = await bench.answered(rid)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST_BODY")
        assert bench.seen == []
        assert bench.agent.inflight == 0

    run(scenario)


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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(f"HTTP/1.1 200 OK\r\n{head}".encode())

        await bench.run(script)
        answer = await bench.ask()
        assert (answer.status, answer.body, answer.error) == (200, b"half", "LOCAL_BAD_RESPONSE")

    run(scenario)


def test_an_app_that_is_reset_in_its_answer_is_seen() -> None:
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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


def test_an_app_that_is_not_there_is_502() -> None:
    async def scenario(bench: AgentBench) -> None:
        port = unused_port()
        bench.agent.leases.set_target("l1", "", Target("127.0.0.1", port))
        answers = await asyncio.gather(*(bench.ask() for _ in range(3)))
        for answer in answers:
            assert (answer.status, answer.code) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
            assert f"127.0.0.1:{port}: connection refused" in answer.body.decode()
            assert "tried for 0.1 s" in answer.body.decode()

    run(scenario, patience_s=0.1)


def test_an_app_that_starts_late_is_waited_for_once() -> None:
    async def scenario(bench: AgentBench) -> None:
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


def test_an_upload_is_credited_as_the_app_reads() -> None:
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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


class NotedLink:
    """The agent's end of a link, with a note of each pause."""

    def __init__(self, bench: AgentBench) -> None:
        self.log: list[str] = []
        self.send, self.close = bench.near.send, bench.near.close
        bench.agent.uplink._link = self

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")


def test_a_relay_without_windows_waits_for_a_slow_app_and_then_loses_it_alone() -> None:
    async def scenario(bench: AgentBench) -> None:
        log = NotedLink(bench).log
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


def test_a_link_that_waited_goes_on_when_the_app_reads() -> None:
    async def scenario(bench: AgentBench) -> None:
        log = NotedLink(bench).log
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


@pytest.mark.parametrize("body", [b"", b"hell", b"hello!"])
def test_a_whole_request_of_another_length_never_reaches_the_app(body: bytes) -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok())
        rid = bench.begin("POST", "/", [("Content-Length", "5")], body=body, end=True)
        answer = await bench.answered(rid)
        assert (answer.status, answer.code) == (400, "INVALID_REQUEST_BODY")
        assert not bench.seen
        assert not bench.agent.inflight

    run(scenario)
