"""The agent's connections to apps, and the callers' connections that they are tied to."""

import asyncio

import pytest

from pytest_synth_tunnels.http.sockets import reset as cut
from pytest_synth_tunnels.wire.frames import (
    CONNECTION_CLOSED,
    CONNECTION_RESET,
    CallerEof,
    ConnClosed,
    ReqBody,
    ReqEnd,
)

from ..support.agent_bench import AgentBench, Seen, ok, read_request, run

pytestmark = pytest.mark.usefixtures("whole_messages")


def number(seen: Seen) -> bytes:
    """Answer with the number of the connection."""
    return ok(b"%d" % seen.connection)


def test_a_connection_of_a_caller_is_one_to_the_app() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(number)
        bodies = [(await bench.ask(conn=conn)).body for conn in ("a", "a", "b", "a", "c", "b")]
        assert bodies == [b"1", b"1", b"2", b"1", b"3", b"2"]
        assert not any(seen.get("connection") for seen in bench.seen)

    run(scenario)


def test_the_end_of_a_callers_connection_ends_the_one_to_the_app() -> None:
    async def scenario(bench: AgentBench) -> None:
        ended: asyncio.Queue[bytes] = asyncio.Queue()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(ok())
            ended.put_nowait(await reader.read())

        await bench.run(script)
        await bench.ask(conn="a")
        await bench.ask(conn="b")
        bench.link.send(ConnClosed("a"))
        assert await asyncio.wait_for(ended.get(), 5) == b""
        assert ended.empty()
        assert bench.closed == []
        bench.link.send(ConnClosed("unheard-of"))
        bench.agent.link_lost("cut")
        assert await asyncio.wait_for(ended.get(), 5) == b""

    run(scenario)


@pytest.mark.parametrize("conn", ["", "a"])
def test_a_request_without_company_says_so_to_the_app(conn: str) -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(number)
        for count in (1, 2):
            answer = await bench.ask(conn=conn)
            assert answer.body == b"%d" % count
            assert not answer.close
        assert [seen.get("connection") for seen in bench.seen] == [["close"]] * 2
        assert bench.closed == []

    # A relay that ties nothing may send the field all the same: it means nothing then.
    run(scenario, caller_connections=not conn)


def test_an_app_that_closes_is_told_of() -> None:
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(ok(b"%d" % bench.connections))

        await bench.run(script)
        for count in (1, 2):
            assert (await bench.ask("POST")).body == b"%d" % count
            await bench.until(lambda: len(bench.closed) == count)  # noqa: B023
        assert bench.closed == ["c1", "c1"]

    run(scenario)


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
def test_an_app_that_says_it_will_close_is_believed(head: str) -> None:
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(head.encode())

        await bench.run(script)
        answer = await bench.ask()
        assert (answer.body, answer.close) == (b"ok", True)
        assert (await bench.ask()).body == b"ok"

    run(scenario)


def test_what_another_app_holds_for_the_same_caller_is_left_alone() -> None:
    async def scenario(bench: AgentBench) -> None:
        leave = asyncio.Event()

        async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(ok())
            await leave.wait()

        await bench.run(closes, "gw0")
        await bench.app(lambda _: ok(), "gw1")
        for path in ("/~gw0/", "/~gw1/"):
            assert (await bench.ask(path=path)).status == 200
        leave.set()
        while all(pool.holds("c1") for pool in bench.agent.leases.pools):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert bench.closed == []
        assert any(pool.holds("c1") for pool in bench.agent.leases.pools)

    run(scenario)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_app_that_closes_instead_of_answering_on_a_used_connection(
    method: str, reset: bool
) -> None:
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(ok())
            if reset:
                await read_request(reader, 0)
                cut(writer.transport)
            else:
                await read_request(reader, 0)

        await bench.run(script)
        assert (await bench.ask(method)).status == 200
        answer = await bench.ask(method)
        assert answer.error == (CONNECTION_RESET if reset else CONNECTION_CLOSED)
        assert bench.connections == 1

    run(scenario)


def test_an_app_that_closes_a_new_connection_instead_of_answering_is_at_fault() -> None:
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)

        await bench.run(script)
        answer = await bench.ask()
        assert (answer.status, answer.code) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
        assert answer.close  # the caller's connection ends as the app's did

    run(scenario)


def test_an_app_that_refuses_ends_no_connection() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(number)
        bench._servers[0].close()
        answer = await bench.ask()
        assert (answer.status, answer.close) == (502, False)

    run(scenario)


@pytest.mark.parametrize("conn", ["", "c1"])
def test_the_end_of_the_callers_side_reaches_the_app_behind_the_request(conn: str) -> None:
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen = await read_request(reader, 0)
            assert await reader.read() == b""
            writer.write(ok(seen.body))

        await bench.run(script)
        rid = bench.begin("POST", headers=[("Content-Length", "5")], conn=conn)
        bench.link.send(ReqBody(rid, b"hello"))
        bench.link.send(ReqEnd(rid))
        bench.link.send(CallerEof(rid))
        bench.link.send(CallerEof("unheard-of"))
        answer = await bench.answered(rid)
        assert answer.body == b"hello"

    run(scenario)


def test_the_end_of_the_callers_side_reaches_an_app_that_is_connected_already() -> None:
    async def scenario(bench: AgentBench) -> None:
        asked = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            asked.set()
            assert await reader.read() == b""
            writer.write(ok())

        await bench.run(script)
        rid = bench.begin(end=True)
        await asyncio.wait_for(asked.wait(), 5)
        bench.link.send(CallerEof(rid))
        assert (await bench.answered(rid)).body == b"ok"

    run(scenario)


def test_an_app_that_leaves_with_the_caller_is_not_at_fault() -> None:
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()  # takes the end of the caller for its loss, and closes

        await bench.run(script)
        rid = bench.begin(end=True)
        bench.link.send(CallerEof(rid))
        assert (await bench.answered(rid)).error == CONNECTION_CLOSED

    run(scenario)


def test_another_target_has_a_connection_of_its_own() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok(b"old"))
        assert (await bench.ask()).body == b"old"
        await bench.app(lambda _: ok(b"new"))
        assert (await bench.ask()).body == b"new"

    run(scenario)
