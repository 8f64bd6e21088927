"""ReadinessProbes: what the agent says of its apps, asked through a whole agent."""

import asyncio

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.wire.frames import ReqEnd

from ..support.agent_bench import AgentBench, Script, ok, run, unused_port

READY = "/__synth/ready"


def test_ready_while_the_app_answers() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok())
        answer = await bench.ask(path=READY)
        assert (answer.status, answer.body) == (200, b'{"status":"ready"}')
        answer = await bench.ask("HEAD", READY)
        assert (answer.status, answer.body) == (200, b"")
        assert [seen.target for seen in bench.seen] == ["/", "/"]

    run(scenario)


def test_an_app_that_misses_a_page_is_ready() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert (await bench.ask(path=READY)).status == 200

    run(scenario)


def test_ready_where_one_of_several_apps_answers() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok(), "gw0")
        bench.agent.leases.set_target("l1", "gw1", Target("127.0.0.1", unused_port()))
        assert (await bench.ask(path=READY)).status == 200
        assert (await bench.ask(path=f"/~gw0{READY}")).status == 200
        assert (await bench.ask(path=f"/~gw1{READY}")).status == 503

    run(scenario)


async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")


async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(200_000 * b"x")


@pytest.mark.parametrize("script", [broken, mute, babbling])
def test_not_ready_while_the_app_does_not_answer_well(script: Script) -> None:
    async def scenario(bench: AgentBench) -> None:
        port = await bench.run(script)
        answer = await bench.ask(path=READY)
        assert (answer.status, answer.code) == (503, "target_unreachable")
        assert f"127.0.0.1:{port}" in answer.body.decode()
        answer = await bench.ask("HEAD", READY)
        assert (answer.status, answer.body) == (503, b"")

    run(scenario)


def test_not_ready_without_any_target() -> None:
    async def scenario(bench: AgentBench) -> None:
        assert (await bench.ask(path=READY)).status == 503

    run(scenario)


def test_many_questions_are_one_for_the_app() -> None:
    async def scenario(bench: AgentBench) -> None:
        go_on = asyncio.Event()

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await go_on.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        await bench.run(script)
        rids = [bench.begin(path=READY) for _ in range(20)]
        await bench.until(lambda: bench.connections)
        go_on.set()
        assert {(await bench.answered(rid)).status for rid in rids} == {200}
        assert bench.connections == 1

    run(scenario)


def test_a_lost_link_takes_the_questions_with_it() -> None:
    async def scenario(bench: AgentBench) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            closed.set()

        closed = asyncio.Event()
        await bench.run(script)
        rid = bench.begin(path=READY)
        bench.link.send(ReqEnd(rid))
        await bench.until(lambda: bench.connections)
        bench.near.close()
        bench.agent.link_lost("cut")
        async with asyncio.timeout(10):
            await closed.wait()
        assert not bench.answers[rid].done

    run(scenario)
