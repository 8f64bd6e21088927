"""Agent: what it does with frames, leases and links; frames on a link in memory."""

import asyncio
from collections.abc import Callable

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.wire.frames import (
    Cancel,
    FrameError,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespEnd,
    Window,
)

from ..support.agent_bench import (
    PUBLIC,
    AgentBench,
    ok,
    run,
)

pytestmark = pytest.mark.usefixtures("whole_messages")


def test_the_agent_proves_itself_with_a_nonce() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok(b"app"), "gw0")
        answer = await bench.ask(path="/~gw0/__synth/nonce/0123456789abcdef")
        assert (answer.status, answer.body) == (200, b"0123456789abcdef")
        assert answer.get("x-synth-tunnels-agent") == ["me"]
        for path in ("/~gw0/__synth/nonce/", "/~gw0/__synth/nonce/<script>", "/~gw0/__synth/x"):
            assert (await bench.ask(path=path)).body == b"app"
        assert (await bench.ask(path="/~gw9/__synth/nonce/0123456789abcdef")).status == 404

    run(scenario)


def test_too_many_requests_are_refused() -> None:
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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


def test_many_requests_each_get_their_own_answer() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda seen: ok(seen.target.encode() + seen.body))
        answers = await asyncio.gather(
            *(bench.ask("POST", f"/{n}", body=b"%d" % n * 50) for n in range(100))
        )
        assert [a.body for a in answers] == [b"/%d" % n + b"%d" % n * 50 for n in range(100)]
        assert bench.connections <= 100
        assert bench.agent.inflight == 0

    run(scenario)


def test_cancel_drops_the_request() -> None:
    async def scenario(bench: AgentBench) -> None:
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
    async def scenario(bench: AgentBench) -> None:
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


def test_a_full_link_stops_all_responses() -> None:
    async def scenario(bench: AgentBench) -> None:
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
