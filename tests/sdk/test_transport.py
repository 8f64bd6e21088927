"""Many calls at once, each over a connection of its own."""

import asyncio
import ssl
from collections.abc import Callable
from socket import socket
from typing import Any

import httpx
import pytest

from pytest_synth_tunnels.sdk import transport
from pytest_synth_tunnels.sdk.transport import ManyPools

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

RawServer = Callable[[Callable[[socket], None]], str]


def client() -> httpx.AsyncClient:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(transport=ManyPools(context), trust_env=False)


def keeping(connections: list[socket]) -> Callable[[socket], None]:
    """Answer one request after another; keep the connections in ``connections``."""

    def handle(connection: socket) -> None:
        connections.append(connection)
        while connection.recv(65_536):
            connection.sendall(ANSWER)

    return handle


def test_calls_that_follow_each_other_share_a_connection(raw_server: RawServer) -> None:
    connections: list[socket] = []
    url = raw_server(keeping(connections))

    async def scenario() -> None:
        async with client() as http:
            for _ in range(3):
                assert (await http.get(url)).content == b"{}"

    asyncio.run(scenario())
    assert len(connections) == 1


def test_calls_beyond_the_limit_wait_their_turn(
    raw_server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_CONNECTIONS", 2)
    connections: list[socket] = []
    url = raw_server(keeping(connections))

    async def scenario() -> None:
        async with client() as http:
            answers = await asyncio.gather(*(http.get(url) for _ in range(20)))
            assert [answer.content for answer in answers] == [b"{}"] * 20

    asyncio.run(scenario())
    assert len(connections) <= 2


def test_a_call_that_is_cancelled_anywhere_holds_up_no_other(recorder: Any) -> None:
    async def scenario() -> None:
        async with client() as http, asyncio.timeout(30):
            for steps in range(60):
                if steps % 2:  # on a connection that there is, else on one to make
                    await http.get(recorder.url)
                call = asyncio.create_task(http.get(recorder.url))
                for _ in range(steps // 2):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])
                assert (await http.get(recorder.url)).content == b"{}"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"],
)
def test_an_answer_that_breaks_off(answer: bytes, raw_server: RawServer) -> None:
    def handle(connection: socket) -> None:
        connection.recv(65_536)
        connection.sendall(answer)

    url = raw_server(handle)

    async def scenario() -> None:
        async with client() as http:
            for _ in range(2):
                with pytest.raises(httpx.RemoteProtocolError):
                    await http.get(url)

    asyncio.run(scenario())


def test_an_answer_as_httpx_gives_it(recorder: Any) -> None:
    async def scenario() -> httpx.Response:
        async with client() as http:
            return await http.get(recorder.url)

    recorder.reply(404, {"a": 1}, X_Request_Id="r1")
    answer = asyncio.run(scenario())
    assert (answer.status_code, answer.reason_phrase) == (404, "Not Found")
    assert answer.http_version == "HTTP/1.1"
    assert answer.json() == {"a": 1}
    assert answer.headers["x-request-id"] == "r1"
    assert answer.elapsed.total_seconds() > 0
