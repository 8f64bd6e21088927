"""ForwardedRequest: the answers of small apps on real sockets, on their way back."""

import asyncio

import pytest

from pytest_synth_tunnels.wire.frames import (
    MAX_WHOLE_BYTES,
    WINDOW_BYTES,
    Frame,
    ReqBody,
    ReqEnd,
    RespBody,
    RespHeaders,
    Window,
)

from ..support.agent_bench import (
    AgentBench,
    ok,
    read_request,
    run,
)

pytestmark = pytest.mark.usefixtures("whole_messages")


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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: data)
        for _ in range(2):
            answer = await bench.ask()
            assert (answer.status, answer.body, answer.error) == (200, body, "")
        assert {seen.connection for seen in bench.seen} == {1, 2}

    run(scenario)


def test_a_response_may_end_with_its_connection() -> None:
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
        body = bytes(range(256)) * 5000
        await bench.app(lambda _: ok(body) + extra)
        for _ in range(2):
            rid = bench.begin(end=True)
            answer, taken = bench.answers[rid], 0
            while not answer.done:
                await bench.until(lambda: answer.done or len(answer.body) > taken)  # noqa: B023
                bench.link.send(Window(rid, len(answer.body) - taken))
                taken = len(answer.body)
            assert answer.body == body
            assert not answer.error
        assert {seen.connection for seen in bench.seen} == connections

    run(scenario)


def test_compressed_bodies_stay_as_they_are() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok(b"\x1f\x8b\x00", "Content-Encoding: gzip"))
        answer = await bench.ask()
        assert (answer.body, answer.get("content-encoding")) == (b"\x1f\x8b\x00", ["gzip"])

    run(scenario)


def test_an_early_answer_ends_the_upload() -> None:
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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


def test_response_headers_keep_their_latin_1() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok(b"", "X-Name: caf\xe9", "X-Empty:"))
        answer = await bench.ask()
        assert answer.get("x-name") == ["caf\xe9"]
        assert answer.get("x-empty") == [""]

    run(scenario)


def shape(bench: AgentBench) -> list[tuple[str, int]]:
    """Return the frames of the answer, with the length of what is in each."""
    return [
        (type(frame).__name__, len(frame.chunk if isinstance(frame, RespBody) else frame.body))
        for frame in bench.frames
        if isinstance(frame, RespHeaders | RespBody)
    ]


def test_what_comes_in_one_read_goes_in_one_frame(whole_messages: bool) -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok(b"hello"))
        answer = await bench.ask()
        assert answer.body == b"hello"
        whole = [("RespHeaders", 5)]
        assert shape(bench) == (whole if whole_messages else [("RespHeaders", 0), ("RespBody", 5)])

    run(scenario)


def test_a_short_chunked_answer_goes_in_one_frame(whole_messages: bool) -> None:
    async def scenario(bench: AgentBench) -> None:
        chunks = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        await bench.app(lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        answer = await bench.ask()
        assert answer.body == b"hello world"
        assert len(shape(bench)) == (1 if whole_messages else 2)

    run(scenario)


def test_a_long_answer_goes_in_pieces() -> None:
    async def scenario(bench: AgentBench) -> None:
        size = MAX_WHOLE_BYTES + 1
        await bench.app(lambda _: ok(b"x" * size))
        answer = await bench.ask()
        assert len(answer.body) == size
        assert shape(bench)[:1] == [("RespHeaders", 0)]

    run(scenario)


def test_an_answer_that_pauses_is_not_held_back() -> None:
    async def scenario(bench: AgentBench) -> None:
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


def test_an_answer_that_goes_wrong_in_the_read_it_began_in() -> None:
    async def scenario(bench: AgentBench) -> None:
        chunks = b"5\r\nhello\r\nno chunk"
        await bench.app(lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        answer = await bench.ask()
        assert answer.error == "LOCAL_BAD_RESPONSE"
        assert answer.body == b""

    run(scenario)


def test_a_response_stops_at_its_window() -> None:
    async def scenario(bench: AgentBench) -> None:
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


def test_credit_that_comes_while_a_piece_is_sent_counts() -> None:
    # In memory a relay whose caller reads at once grants credit before the agent's send returns.
    async def scenario(bench: AgentBench) -> None:
        body = bytes(range(256)) * 20_000
        await bench.app(lambda _: ok(body))
        rid = bench.begin()
        take = bench._take

        def take_and_grant(frame: Frame) -> None:
            take(frame)
            if isinstance(frame, RespBody):
                bench.link.send(Window(rid, len(frame.chunk)))

        bench._take = take_and_grant  # type: ignore[method-assign]
        bench.link.send(ReqEnd(rid))
        await bench.until(lambda: bench.answers[rid].done)
        assert bench.answers[rid].body == body

    run(scenario)
