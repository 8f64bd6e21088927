"""Caller, relay, agent and app with real sockets, over both kinds of link: what must survive the
whole way, and what must not spread."""

import asyncio
import gzip

import pytest

from pytest_synth_tunnels.http import connection as connection_module
from pytest_synth_tunnels.sdk import requests

from ..support.end_to_end import (
    HUGE,
    OK,
    App,
    HeedlessAgent,
    Tunnel,
    both,
    every,
    run,
    scripted,
    tunnel,
)

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
