"""What a caller, an app or a lease may cost, and who waits for whom."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from pytest_synth_tunnels.http import limiter as limiter_module
from pytest_synth_tunnels.relay import slow_readers
from pytest_synth_tunnels.relay.route import Limits
from pytest_synth_tunnels.wire.frames import WINDOW_BYTES

from ..support.end_to_end import (
    HUGE,
    OK,
    App,
    Tunnel,
    both,
    run,
    scripted,
    tunnel,
)

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
