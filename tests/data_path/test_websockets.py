"""What travels on an open WebSocket, and how it ends, over both kinds of link."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.utils import accept_key

from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.websocket import tunnelled
from pytest_synth_tunnels.wire.frames import MAX_WS_MESSAGE_BYTES

from ..support.live_websockets import (
    asked,
    closed,
    echo,
    run,
    serving,
    tunnel_to,
)

MESSAGES = [
    "hello",
    "",
    b"",
    b"\x00\xff",
    "é" * 70_000,
    b"m" * (1 << 20),
    b"x" * MAX_WS_MESSAGE_BYTES,
]


def test_messages_come_back_as_they_were_sent(kind: str) -> None:
    async def test() -> None:
        async with serving(kind) as tunnel, tunnel.open() as caller:
            for message in MESSAGES:
                await caller.send(message)
                assert await caller.recv() == message

    run(test())


def test_fragments_arrive_while_the_message_is_being_sent(kind: str) -> None:
    async def echo_pieces(app: ServerConnection) -> None:
        async for piece in app.recv_streaming():
            await app.send(piece)

    async def test() -> None:
        async with serving(kind, echo_pieces) as tunnel, tunnel.open() as caller:

            async def pieces() -> AsyncIterator[str]:
                for piece in ("one", "two", "three"):
                    yield piece
                    assert await caller.recv() == piece

            await caller.send(pieces())

    run(test())


def test_pings_are_answered_with_their_payload(kind: str) -> None:
    async def ping(app: ServerConnection) -> None:
        pong = await app.ping(b"from the app")
        await pong
        await app.send("ponged")
        await app.wait_closed()

    async def test() -> None:
        async with serving(kind, ping) as tunnel, tunnel.open() as caller:
            pong = await caller.ping(b"\x00" * 125)
            await pong
            assert await caller.recv() == "ponged"

    run(test())


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "moving"), (1008, "é" * 61), (3000, ""), (4999, "own")]
)
def test_close_codes_travel_both_ways(kind: str, code: int, reason: str) -> None:
    seen: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def app(app: ServerConnection) -> None:
        if await app.recv() == "close":
            await app.close(code, reason)
        else:
            await app.wait_closed()
            seen.put_nowait((app.protocol.close_code, app.protocol.close_reason))

    async def test() -> None:
        async with serving(kind, app) as tunnel:
            async with tunnel.open() as caller:
                await caller.send("close")
                assert await closed(caller) == (code, reason)
            async with tunnel.open() as caller:
                await caller.send("wait")
                await caller.close(code, reason)
            assert await seen.get() == (code, reason)

    run(test())


def test_what_was_said_before_the_close_arrives(kind: str) -> None:
    async def app(app: ServerConnection) -> None:
        for _ in range(40):
            await app.send(b"x" * 100_000)
        await app.close(4000, "done")

    async def test() -> None:
        async with serving(kind, app) as tunnel, tunnel.open() as caller:
            for _ in range(40):
                assert len(await caller.recv()) == 100_000
            assert await closed(caller) == (4000, "done")

    run(test())


@pytest.mark.parametrize("side", ["app", "caller"])
def test_a_close_in_the_middle_of_a_message_is_the_peers_own(kind: str, side: str) -> None:
    """One end sends a fragment and closes; both see what they would see without the tunnel."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = head.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
        writer.write(
            b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
        )
        if side == "app":
            writer.write(b"\x01\x02hi\x88\x05\x03\xe8bye")
        else:
            await reader.readexactly(8)  # the fragment, masked
        close = await reader.readexactly(6 + 5)
        mask = close[2:6]
        at_app.set_result(bytes(x ^ y for x, y in zip(close[6:], mask * 2, strict=False)))
        if side == "caller":
            writer.write(b"\x88\x05\x03\xe8bye")
        writer.close()
        await writer.wait_closed()

    async def test() -> None:
        nonlocal at_app
        at_app = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(app, "127.0.0.1", 0)
        async with server, tunnel_to(kind, server.sockets[0].getsockname()[1]) as tunnel:
            reader, writer = await asked(tunnel)
            await reader.readuntil(b"\r\n\r\n")
            close = b"\x88\x85\0\0\0\0\x03\xe8bye"
            if side == "app":
                assert await reader.readexactly(11) == b"\x01\x02hi\x88\x05\x03\xe8bye"
                writer.write(close)
            else:
                writer.write(b"\x01\x82\0\0\0\0hi" + close)
                assert await reader.readexactly(7) == b"\x88\x05\x03\xe8bye"
            assert await at_app == b"\x03\xe8bye"
            writer.close()

    at_app: asyncio.Future[bytes]
    run(test())


def test_a_close_without_a_code_stays_one(kind: str) -> None:
    seen: asyncio.Queue[int | None] = asyncio.Queue()

    async def app(app: ServerConnection) -> None:
        if await app.recv() == "close":
            app.protocol.send_close()
            app.send_data()
        await app.wait_closed()
        seen.put_nowait(app.protocol.close_code)

    async def test() -> None:
        async with serving(kind, app) as tunnel:
            async with tunnel.open() as caller:
                await caller.send("close")
                assert await closed(caller) == (1005, "")
            await seen.get()
            async with tunnel.open() as caller:
                await caller.send("wait")
                caller.protocol.send_close()
                caller.send_data()
                assert await seen.get() == 1005

    run(test())


def test_an_app_that_dies_is_1011(kind: str) -> None:
    async def app(app: ServerConnection) -> None:
        app.transport.abort()

    async def test() -> None:
        async with serving(kind, app) as tunnel, tunnel.open() as caller:
            assert await closed(caller) == (1011, "the app's connection was lost")

    run(test())


def test_a_caller_that_vanishes_is_1011(kind: str) -> None:
    seen: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def app(app: ServerConnection) -> None:
        assert await app.recv() == "last words"
        await app.wait_closed()
        seen.put_nowait((app.protocol.close_code, app.protocol.close_reason))

    async def test() -> None:
        async with serving(kind, app) as tunnel, tunnel.open() as caller:
            await caller.send("last words")
            caller.transport.abort()
            assert await seen.get() == (1011, "the caller is gone")

    run(test())


def test_64_at_once_and_no_more(kind: str) -> None:
    async def test() -> None:
        async with serving(kind) as tunnel, AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(tunnel.open()) for _ in range(64)]
            with pytest.raises(InvalidStatus) as caught:
                await stack.enter_async_context(tunnel.open())
            response = caught.value.response
            assert response.status_code == 503
            assert json.loads(response.body or b"")["code"] == "TUNNEL_CAPACITY_EXCEEDED"
            for number, caller in enumerate(callers):
                await caller.send(f"mine is {number}")
            for number, caller in enumerate(callers):
                assert await caller.recv() == f"mine is {number}"
            lease_id = tunnel.lease["lease_id"]
            assert tunnel.backend.call(requests.get_synth_lease(lease_id))["inflight"] == 0
            await callers[0].close()
            async with tunnel.open() as caller:
                await caller.send("room again")
                assert await caller.recv() == "room again"

    run(test())


def test_a_message_too_long_is_1009_for_both(kind: str) -> None:
    seen: asyncio.Queue[int | None] = asyncio.Queue()

    async def app(app: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            if await app.recv() == "send":
                await app.send(b"x" * (MAX_WS_MESSAGE_BYTES + 1))
            await app.recv()
        seen.put_nowait(app.protocol.close_code)

    async def test() -> None:
        async with serving(kind, app) as tunnel, tunnel.open() as witness:
            async with tunnel.open() as caller:
                await caller.send("send")
                code, _ = await closed(caller)
                assert (code, await seen.get()) == (1009, 1009)
            async with tunnel.open() as caller:
                await caller.send("wait")
                long = [b"x" * (1 << 20)] * 16 + [b"x"]
                code, _ = await closed(caller, lambda: caller.send(long))
                assert (code, await seen.get()) == (1009, 1009)
            await (await witness.ping())

    run(test())


def test_a_lease_that_closes_is_1001_for_both(kind: str) -> None:
    seen: asyncio.Queue[int | None] = asyncio.Queue()

    async def app(app: ServerConnection) -> None:
        await app.wait_closed()
        seen.put_nowait(app.protocol.close_code)

    async def test() -> None:
        async with serving(kind, app) as tunnel, tunnel.open() as caller:
            tunnel.backend.call(requests.close_synth_lease(tunnel.lease["lease_id"]))
            code, reason = await closed(caller)
            assert (code, await seen.get()) == (1001, 1001)
            assert "this tunnel is over" in reason

    run(test())


def test_an_agent_that_is_lost_is_1012_for_both(kind: str) -> None:
    seen: asyncio.Queue[int | None] = asyncio.Queue()

    async def app(app: ServerConnection) -> None:
        await app.wait_closed()
        seen.put_nowait(app.protocol.close_code)

    async def test() -> None:
        async with serving(kind, app) as tunnel, tunnel.open() as caller:
            if tunnel.link is not None:
                await tunnel.link.close()
            else:
                await tunnel.agent.close()
            code, reason = await closed(caller)
            assert (code, await seen.get()) == (1012, 1012)
            assert "agent" in reason

    run(test())


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\xc1\x82\0\0\0\0hi", 1002),  # compressed, which nobody agreed on
        (b"\x83\x80\0\0\0\0", 1002),  # no such opcode
        (b"\x80\x80\0\0\0\0", 1002),  # goes on with nothing
        (b"\x89\xfe\x00\x7e\0\0\0\0", 1002),  # a ping that is too long
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # a close that says 1005
        (b"\x82\xff\x00\x00\x00\x00\x01\x00\x00\x01\0\0\0\0", 1009),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
    ],
)
def test_bad_frames_end_their_own_websocket(kind: str, frame: bytes, code: int) -> None:
    seen: asyncio.Queue[int | None] = asyncio.Queue()

    async def app(app: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await echo(app)
        seen.put_nowait(app.protocol.close_code)

    async def test() -> None:
        async with serving(kind, app) as tunnel, tunnel.open() as witness:
            reader, writer = await asked(tunnel)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.write(frame + b"\0" * 1000)
            head = await reader.readexactly(4)
            assert (head[0], int.from_bytes(head[2:])) == (0x88, code)
            writer.close()
            await writer.wait_closed()
            assert await seen.get() == code
            await witness.send("still here")
            assert await witness.recv() == "still here"

    run(test())


def test_a_slow_reader_makes_its_own_app_wait(kind: str) -> None:
    sent = 0

    async def pour(app: ServerConnection) -> None:
        nonlocal sent
        if await app.recv() == "echo":
            await echo(app)
            return
        for _ in range(64):
            await app.send(b"x" * (1 << 20))
            sent += 1

    async def test() -> None:
        async with (
            serving(kind, pour) as tunnel,
            tunnel.open() as other,
            tunnel.open(max_queue=1) as slow,
        ):
            await slow.send("pour")
            await other.send("echo")
            before = -1
            while before != sent:
                before = sent
                for number in range(200):
                    await other.send(f"{number}")
                    assert await other.recv() == f"{number}"
            assert sent < 40
            for _ in range(64):
                assert len(await slow.recv()) == 1 << 20
            assert await closed(slow) == (1000, "")

    run(test())


@pytest.mark.parametrize("reader", ["caller", "app"])
def test_a_reader_that_stands_still_is_cut_off_alone(
    kind: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnelled, "_STALL_S", 0.1)
    monkeypatch.setattr(tunnelled, "_CLOSE_TIMEOUT_S", 0.1)

    seen: asyncio.Queue[tuple[int | None, str]] = asyncio.Queue()
    done = asyncio.Event()

    async def pour(end: Connection) -> tuple[int | None, str]:
        return await closed(end, lambda: end.send(b"x" * (1 << 20)))

    async def app(app: ServerConnection) -> None:
        role = await app.recv()
        if role == "echo":
            await echo(app)
        elif reader == "caller":
            seen.put_nowait(await pour(app))
        else:
            app.transport.pause_reading()
            await done.wait()
            app.transport.abort()

    async def test() -> None:
        async with serving(kind, app, ping_interval=None) as tunnel, tunnel.open() as other:
            await other.send("echo")
            slow = await tunnel.open(ping_interval=None)
            await slow.send("slow")
            if reader == "caller":
                slow.transport.pause_reading()
                code, reason = await seen.get()
            else:
                code, reason = await pour(slow)
            assert code == 1013
            assert "nothing was read" in reason
            await other.send("still here")
            assert await other.recv() == "still here"
            done.set()
            slow.transport.abort()

    run(test())


class PlainAgent:
    """An agent that knows no windows, and answers for the app itself."""

    def __init__(self, link: Connection, lease_id: str) -> None:
        self._link = link
        self._lease_id = lease_id

    async def attach(self) -> None:
        capabilities = {"streaming": True, "websocket": True}
        leases = [{"lease_id": self._lease_id}]
        await self.send({"type": "ATTACH", "leases": leases, "capabilities": capabilities})
        assert (await self.take())["type"] == "ATTACH_ACK"

    async def send(self, frame: dict[str, Any]) -> None:
        await self._link.send(json.dumps({"lease_id": self._lease_id, **frame}))

    async def take(self) -> Any:
        return json.loads(await self._link.recv())

    async def open(self) -> str:
        """Open what a caller has asked for."""
        frame = await self.take()
        assert frame["type"] == "WS_OPEN"
        await self.send({"type": "WS_OPEN_ACK", "rid": frame["rid"], "headers": []})
        return str(frame["rid"])

    async def say(self, rid: str, data: bytes) -> None:
        data_b64 = base64.b64encode(data).decode()
        await self.send(
            {"type": "WS_FRAME", "rid": rid, "opcode": "binary", "data_b64": data_b64, "fin": True}
        )


def test_a_reader_that_stands_still_before_an_agent_without_windows() -> None:
    async def test() -> None:
        async with tunnel_to("memory", 9) as tunnel, AsyncExitStack() as stack:
            connecting = tunnel.lease["agent_connect"]
            token = {"Authorization": f"Bearer {connecting['agent_token']}"}
            link = connect(connecting["url"], additional_headers=token, ping_interval=None)
            agent = PlainAgent(await stack.enter_async_context(link), tunnel.lease["lease_id"])
            await agent.attach()
            callers = []
            for _ in range(2):
                opening = asyncio.ensure_future(tunnel.open(ping_interval=None).__aenter__())
                callers.append((await agent.open(), await opening))
            (other_rid, other), (slow_rid, slow) = callers
            slow.transport.pause_reading()

            closed = asyncio.ensure_future(agent.take())
            sent = 0
            while not closed.done():
                await agent.say(slow_rid, bytes(1 << 20))
                sent += 1 << 20
                await agent.say(other_rid, b"not disturbed")
                assert await other.recv() == b"not disturbed"
            frame = closed.result()
            assert (frame["type"], frame["rid"], frame["code"]) == ("WS_CLOSE", slow_rid, 1013)
            assert frame["reason"] == "the queue of this WebSocket is full"
            assert MAX_WS_MESSAGE_BYTES < sent < 4 * MAX_WS_MESSAGE_BYTES
            slow.transport.abort()
            await other.close()

    run(test())
