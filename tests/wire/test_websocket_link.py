"""WebSocketLink over real loopback sockets: against itself and against the websockets library."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast
from unittest import mock

import pytest
from websockets.asyncio.client import connect as library_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pytest_synth_tunnels.agent.dialer import connect
from pytest_synth_tunnels.wire import handshake, websocket_link
from pytest_synth_tunnels.wire.codec import encode
from pytest_synth_tunnels.wire.frames import (
    MAX_CHUNK_BYTES,
    Attach,
    AttachAck,
    AttachLease,
    Frame,
    FrameError,
    RelayCapabilities,
    ReqBody,
    ReqEnd,
    RespBody,
    RespEnd,
    RespHeaders,
)
from pytest_synth_tunnels.wire.handshake import HandshakeError, accept
from pytest_synth_tunnels.wire.link import Link
from pytest_synth_tunnels.wire.websocket_link import WebSocketLink


class Recorder:
    """A link handler that keeps what it is told and lets a test wait for it."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.failures: list[FrameError] = []
        self.lost: list[str] = []
        self.writing = True
        self._changed = asyncio.Event()

    def frame_received(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._changed.set()

    def frame_failed(self, error: FrameError) -> None:
        self.failures.append(error)
        self._changed.set()

    def link_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self._changed.set()

    def pause_writing(self) -> None:
        self.writing = False
        self._changed.set()

    def resume_writing(self) -> None:
        self.writing = True
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Upgrader(asyncio.Protocol):
    """The smallest HTTP server that hands its connection to a WebSocketLink."""

    def __init__(self, links: "list[WebSocketLink]", handler: Recorder) -> None:
        self.links, self.handler, self.received = links, handler, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.decode("latin-1").split("\r\n")[1:]
        pairs = [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]
        try:
            answer = accept(pairs)
        except HandshakeError as error:
            self.transport.write(f"HTTP/1.1 {error.status} No\r\n\r\n".encode())
            self.transport.close()
            return
        self.transport.write(answer)
        link = WebSocketLink(handler=self.handler)
        self.links.append(link)
        link.adopt(self.transport, rest)


class Pair:
    """A server that accepts links, and the two ends of a link to it."""

    def __init__(self) -> None:
        self.far, self.near = Recorder(), Recorder()
        self.links: list[WebSocketLink] = []

    async def __aenter__(self) -> "Pair":
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Upgrader(self.links, self.far), "127.0.0.1", 0
        )
        self.url = f"ws://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/agent?x=1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        for link in self.links:
            link.abort()
        self.server.close()
        await self.server.wait_closed()

    async def dial(self) -> tuple[WebSocketLink, WebSocketLink]:
        link = await connect(self.url, token="at_secret", handler=self.near)
        return link, self.links[-1]


def run(scenario: Callable[[Pair], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Pair() as pair:
            await scenario(pair)

    asyncio.run(main())


def test_a_frame_waits_for_others_unless_none_is_expected() -> None:
    async def scenario(pair: Pair) -> None:
        client, _ = await pair.dial()
        transport = client._transport
        assert transport is not None
        spy = mock.Mock(wraps=transport)
        client._transport = spy
        client.send(ReqEnd("r1"))
        client.send(ReqEnd("r2"), at_once=True)
        spy.write.assert_not_called()
        await asyncio.sleep(0)
        spy.write.assert_called_once()
        client.send(ReqEnd("r3"), at_once=True)
        assert spy.write.call_count == 2
        await pair.far.until(lambda: len(pair.far.frames) == 3)
        client._transport = transport

    run(scenario)


def test_frames_travel_both_ways_in_order() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        sent: list[Frame] = [Attach([AttachLease("l1")]), RespBody("r1", b"\x00\xff" * 500)]
        for frame in sent:
            client.send(frame)
        server.send(ReqEnd("r1", lease_id="l1"))
        await pair.far.until(lambda: len(pair.far.frames) == 2)
        await pair.near.until(lambda: pair.near.frames)
        assert pair.far.frames == sent
        assert pair.near.frames == [ReqEnd("r1", lease_id="l1")]
        client.abort()

    run(scenario)


def test_one_tick_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(pair: Pair) -> None:
        client, _ = await pair.dial()
        flushes = []
        flush = client._flush
        monkeypatch.setattr(client, "_flush", lambda: (flushes.append(1), flush()))
        for number in range(20):
            client.send(RespEnd(str(number)))
        await pair.far.until(lambda: len(pair.far.frames) == 20)
        assert len(flushes) == 1
        client.abort()

    run(scenario)


def test_long_bodies_are_split() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        body = bytes(range(256)) * 1000
        server.send(ReqBody("r1", body, lease_id="l1"))
        client.send(RespBody("r1", body))
        await pair.near.until(lambda: len(pair.near.frames) == 4)
        await pair.far.until(lambda: len(pair.far.frames) == 4)
        for side in (pair.near, pair.far):
            chunks = [f.chunk for f in side.frames if isinstance(f, ReqBody | RespBody)]
            assert b"".join(chunks) == body
            assert max(map(len, chunks)) == MAX_CHUNK_BYTES
        assert {f.lease_id for f in pair.near.frames if isinstance(f, ReqBody)} == {"l1"}
        client.abort()

    run(scenario)


def test_whole_messages_come_apart_for_a_peer_that_does_not_know_them() -> None:
    async def scenario(pair: Pair) -> None:
        near, far = await pair.dial()
        whole = RespHeaders("r1", 200, [], "l", b"body", end=True)
        pieces = [RespHeaders("r1", 200, [], "l"), RespBody("r1", b"body", lease_id="l")]
        near.send(whole)
        await pair.far.until(lambda: len(pair.far.frames) == 3)
        assert pair.far.frames == [*pieces, RespEnd("r1", "l")]
        far.send(AttachAck("agent", ["l"], RelayCapabilities(whole_messages=True)))
        await pair.near.until(lambda: pair.near.frames)
        near.send(whole)
        await pair.far.until(lambda: len(pair.far.frames) == 4)
        assert pair.far.frames[-1] == whole
        near.abort()

    run(scenario)


def test_close_tells_the_other_end_alone() -> None:
    async def scenario(pair: Pair) -> None:
        _, server = await pair.dial()
        server.close(1001, "lease closed " * 20)
        server.close()
        server.send(ReqEnd("late"))
        await pair.near.until(lambda: pair.near.lost)
        assert "1001" in pair.near.lost[0]
        assert "lease closed" in pair.near.lost[0]
        assert pair.far.lost == pair.near.frames == []

    run(scenario)


def test_a_close_from_both_ends_in_one_read() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        pair.far.frame_received = lambda _: server.close(1008, "no")  # type: ignore[method-assign]
        client.send(ReqEnd("r1"))
        client._protocol.send_close(1000)  # in the same write
        client._flush()
        await server.gone
        await pair.near.until(lambda: pair.near.lost)
        assert "1000" in pair.near.lost[0]
        assert pair.far.lost == []

    run(scenario)


def test_a_dead_connection_is_told_once() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        client.abort()
        await pair.far.until(lambda: pair.far.lost)
        assert pair.near.lost == []
        server.close()
        assert len(pair.far.lost) == 1

    run(scenario)


def test_a_silent_peer_is_given_up() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        client._beat()
        while not client._heard:  # noqa: ASYNC110 (until the pong is there)
            await asyncio.sleep(0)
        server.pause_reading()
        client._beat()
        client._beat()
        server.resume_reading()
        await pair.far.until(lambda: pair.far.lost)
        assert "no answer to a ping" in pair.near.lost[0]

    run(scenario)


def test_a_doubted_peer_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_link, "_PROBE_S", 0.02)

    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        server.pause_reading()
        client.probe()
        await pair.near.until(lambda: pair.near.lost)
        assert "no answer to a ping" in pair.near.lost[0]
        client.probe()

    run(scenario)


def test_a_doubted_peer_that_answers_is_kept() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        client.probe()
        client.probe()
        while not client._heard:  # noqa: ASYNC110 (until the pong is there)
            await asyncio.sleep(0)
        client._beat()
        server.send(ReqEnd("r1"))
        await pair.near.until(lambda: pair.near.frames)
        assert pair.near.lost == []
        client.abort()

    run(scenario)


def test_who_does_not_read_is_not_deaf() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        client.pause_reading()
        client._beat()
        client._beat()
        server.send(ReqEnd("r1"))
        client.resume_reading()
        await pair.near.until(lambda: pair.near.frames)
        assert pair.near.lost == []
        client.abort()

    run(scenario)


def test_a_full_buffer_pauses_the_handler() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        server.pause_reading()
        chunk = bytes(MAX_CHUNK_BYTES)
        sent = 0
        while pair.near.writing:
            client.send(RespBody("r1", chunk))
            sent += 1
            await asyncio.sleep(0)
        server.resume_reading()
        await pair.near.until(lambda: pair.near.writing)
        await pair.far.until(lambda: len(pair.far.frames) == sent)
        client.abort()

    run(scenario)


def test_a_full_buffer_pauses_the_handler_within_the_tick() -> None:
    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        server.pause_reading()
        sent = 0
        while pair.near.writing and sent < 1000:
            client.send(RespBody("r1", bytes(MAX_CHUNK_BYTES)))
            sent += 1
        assert not pair.near.writing
        assert client._transport is not None
        assert client._transport.get_write_buffer_size() < 1 << 20
        server.resume_reading()
        await pair.far.until(lambda: len(pair.far.frames) == sent)
        assert pair.near.lost == []
        client.abort()

    run(scenario)


def test_a_reader_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_link, "_MAX_BACKLOG_BYTES", 1 << 20)

    async def scenario(pair: Pair) -> None:
        client, server = await pair.dial()
        server.pause_reading()
        while not pair.near.lost:
            client.send(RespBody("r1", bytes(MAX_CHUNK_BYTES)))
            await asyncio.sleep(0)
        assert "reads nothing" in pair.near.lost[0]

    run(scenario)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 426),
        ([("Connection", "Upgrade"), ("Upgrade", "websocket")], 400),
        ([("Connection", "Upgrade"), ("Upgrade", "h2c")], 426),
    ],
)
def test_a_bad_handshake_has_its_status(headers: list[tuple[str, str]], status: int) -> None:
    with pytest.raises(HandshakeError) as caught:
        accept(headers)
    assert caught.value.status == status
    assert (("Upgrade", "websocket") in caught.value.headers) is (status == 426)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\nno such", 401, "401 no such"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 0, "no WebSocket handshake"),
        (b"HTTP/1.1 101 Switching", 0, "no WebSocket handshake"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", 0, "Connection"),
    ],
)
def test_a_refused_handshake_explains_itself(answer: bytes, status: int, words: str) -> None:
    async def main() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"Authorization: Bearer at_secret\r\n" in head
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            with pytest.raises(HandshakeError) as caught:
                await connect(url, token="at_secret", handler=Recorder())
        assert caught.value.status == status
        assert words in str(caught.value)
        assert "at_secret" not in str(caught.value)

    asyncio.run(main())


def test_nobody_answers_the_handshake() -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.wait([asyncio.ensure_future(reader.read())])
            writer.close()
            gone.set()

        async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
                await connect(url, token="t", handler=Recorder(), timeout_s=0.05)
            await gone.wait()

    asyncio.run(main())


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "not a url", "ws://relay.example/agent"])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"WebSocket|wss"):
        asyncio.run(connect(url, token="t", handler=Recorder()))


# --- against the library's own connections


def test_a_library_client_talks_to_our_server() -> None:
    async def scenario(pair: Pair) -> None:
        async with library_connect(pair.url, max_size=None, compression=None) as peer:
            await peer.send(encode(ReqEnd("r1")).decode())
            # A message in pieces, an unknown type, broken JSON: the connection lives on.
            await peer.send(iter(['{"type":"REQ_', 'END","rid', '":"r2"}']))
            await peer.send('{"type":"NEWS","rid":"r3"}')
            await peer.send('{"type":"REQ_END","rid":7}')
            await peer.send("{")
            await peer.send(encode(ReqEnd("r4")))
            await (await peer.ping(b"payload"))
            await pair.far.until(lambda: len(pair.far.frames) == 3)
            assert pair.far.frames == [ReqEnd("r1"), ReqEnd("r2"), ReqEnd("r4")]
            assert len(pair.far.failures) == 2
            pair.links[0].send(RespBody("r1", b"abc"))
            message: Any = await peer.recv()
            assert isinstance(message, str)
            assert json.loads(message)["chunk_b64"] == "YWJj"
        await pair.far.until(lambda: pair.far.lost)
        assert "1000" in pair.far.lost[0]

    run(scenario)


def test_a_message_too_long_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_link, "MAX_MESSAGE_BYTES", 1000)
    monkeypatch.setattr(handshake, "MAX_MESSAGE_BYTES", 1000)

    async def scenario(pair: Pair) -> None:
        async with library_connect(pair.url, compression=None) as peer:
            await peer.send("x" * 2000)
            with pytest.raises(ConnectionClosed) as caught:
                await peer.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009
        await pair.far.until(lambda: pair.far.lost)
        assert "protocol error" in pair.far.lost[0]

    run(scenario)


def test_our_client_talks_to_a_library_server() -> None:
    async def main() -> None:
        async def echo(peer: ServerConnection) -> None:
            assert peer.request is not None
            assert peer.request.headers["Authorization"] == "Bearer at_secret"
            async for message in peer:
                assert isinstance(message, str)
                await peer.send(message)
                if "last" in message:
                    await peer.close(1012, "agent lost")

        async with serve(echo, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            handler = Recorder()
            link: Link = await connect(
                f"ws://127.0.0.1:{port}/", token="at_secret", handler=handler
            )
            sent = [RespBody("r1", bytes(50_000)), RespBody("r2", b""), RespEnd("last")]
            for frame in sent:
                link.send(frame)
            await handler.until(lambda: handler.lost)
            assert handler.frames == sent
            assert "agent lost" in handler.lost[0]

    asyncio.run(main())
