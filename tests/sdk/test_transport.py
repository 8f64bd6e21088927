"""Asynchronous HTTP to a backend that behaves, and to some that do not."""

import asyncio
import gzip
import ssl
from collections.abc import Callable, Iterator
from socket import socket
from typing import Any

import httpx
import pytest

from pytest_synth_tunnels.sdk import transport
from pytest_synth_tunnels.sdk.transport import DirectTransport

INFORMATIONAL = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"

RawServer = Callable[[Callable[[socket], None]], str]


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def get(url: str, count: int = 1, **options: Any) -> list[httpx.Response]:
    """Ask ``count`` times, one after another."""
    async with httpx.AsyncClient(transport=DirectTransport(context()), **options) as http:
        return [await http.get(url) for _ in range(count)]


def answering(*answers: bytes, hang_up: bool = True) -> Callable[[socket], None]:
    """Read a request for each answer; at the end hang up, or wait until the client does."""

    def handle(connection: socket) -> None:
        for answer in answers:
            request = b""
            while b"\r\n\r\n" not in request:
                data = connection.recv(65_536)
                if not data:
                    return
                request += data
            connection.sendall(answer)
        if not hang_up:
            connection.recv(1)

    return handle


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        INFORMATIONAL + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_every_framing_of_an_answer(answer: bytes, raw_server: RawServer) -> None:
    (response,) = asyncio.run(get(raw_server(answering(answer))))
    assert (response.status_code, response.content) == (200, b"{}")
    assert "a" not in response.headers


def test_a_compressed_answer(raw_server: RawServer) -> None:
    data = gzip.compress(b'{"a": 1}')
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data)
    (response,) = asyncio.run(get(raw_server(answering(head + data))))
    assert response.json() == {"a": 1}
    broken = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n" + b"x" * 20
    with pytest.raises(httpx.DecodingError):
        asyncio.run(get(raw_server(answering(broken))))


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_a_body(status: bytes, raw_server: RawServer) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\n\r\n"
    first, second = asyncio.run(get(raw_server(answering(answer, answer, hang_up=False)), 2))
    assert first.content == second.content == b""


def test_a_connection_is_used_again(raw_server: RawServer) -> None:
    connections: list[socket] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    def handle(connection: socket) -> None:
        connections.append(connection)
        answering(answer, answer, answer, hang_up=False)(connection)

    asyncio.run(get(raw_server(handle), 3))
    assert len(connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n",  # two for one
    ],
)
def test_a_connection_that_is_not_to_be_used_again(answer: bytes, raw_server: RawServer) -> None:
    connections: list[socket] = []

    def handle(connection: socket) -> None:
        connections.append(connection)
        answering(answer, hang_up=False)(connection)

    first, second = asyncio.run(get(raw_server(handle), 2))
    assert first.content == second.content == b"{}"
    assert len(connections) == 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    raw_server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_MAX_IDLE_S", -1.0)
    connections: list[socket] = []

    def handle(connection: socket) -> None:
        connections.append(connection)
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", hang_up=False)(connection)

    asyncio.run(get(raw_server(handle), 2))
    assert len(connections) == 2


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"", httpx.RemoteProtocolError, "hung up without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-", httpx.RemoteProtocolError, "in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", httpx.RemoteProtocolError, "middle"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
            httpx.RemoteProtocolError,
            "middle",
        ),
        (b"SSH-2.0-OpenSSH\r\n", httpx.RemoteProtocolError, "not HTTP"),
        (b"HTTP/1.1 101 Up\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Exception, "not HTTP"),
    ],
)
def test_a_broken_answer(
    answer: bytes, error: type[Exception], says: str, raw_server: RawServer
) -> None:
    with pytest.raises(error, match=says):
        asyncio.run(get(raw_server(answering(answer))))


def test_an_answer_without_end(raw_server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(httpx.RemoteProtocolError, match="over 1000 bytes"):
        asyncio.run(get(raw_server(answering(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 2000))))


def test_nobody_listens(refusing_url: str) -> None:
    with pytest.raises(httpx.ConnectError):
        asyncio.run(get(refusing_url))


def test_a_tls_handshake_that_fails(raw_server: RawServer) -> None:
    def speak_no_tls(connection: socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    url = raw_server(speak_no_tls).replace("http:", "https:")
    with pytest.raises(httpx.ConnectError):
        asyncio.run(get(url))


def test_a_connection_that_never_comes_up() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        async def never(*_: object, **__: object) -> None:
            await loop.create_future()

        loop.create_connection = never  # type: ignore[method-assign, assignment]
        await get("http://127.0.0.1:1", timeout=0.01)

    with pytest.raises(httpx.ConnectTimeout):
        asyncio.run(scenario())


class FakeTransport(asyncio.Transport):
    """A transport that sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: Any) -> None:
        assert not self.aborted

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def fake() -> Iterator[FakeTransport]:
    return FakeTransport()


def test_a_connection_that_was_lost_before_it_was_used(fake: FakeTransport) -> None:
    connection = transport._Connection()
    connection.connection_made(fake)
    fake.abort()
    connection.connection_lost(None)
    with pytest.raises(httpx.RemoteProtocolError, match="without an answer"):
        asyncio.run(connection.exchange(b""))


def test_what_comes_unasked_ends_the_connection(fake: FakeTransport) -> None:
    connection = transport._Connection()
    connection.connection_made(fake)
    connection.reusable = True
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert fake.aborted
    assert not connection.reusable


def test_a_connection_that_breaks(fake: FakeTransport) -> None:
    connection = transport._Connection()
    connection.connection_made(fake)

    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(
            connection.connection_lost, ConnectionResetError("reset by peer")
        )
        await connection.exchange(b"")

    with pytest.raises(httpx.ReadError, match="reset by peer"):
        asyncio.run(scenario())


def test_calls_beyond_the_limit_wait_their_turn(
    raw_server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_CONNECTIONS", 2)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    connections: list[socket] = []

    def handle(connection: socket) -> None:
        connections.append(connection)
        answering(*[answer] * 20, hang_up=False)(connection)

    async def scenario(url: str) -> None:
        async with httpx.AsyncClient(transport=DirectTransport(context())) as http:
            await asyncio.gather(*(http.get(url) for _ in range(20)))

    asyncio.run(scenario(raw_server(handle)))
    assert len(connections) <= 2
