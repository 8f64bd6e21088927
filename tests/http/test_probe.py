"""The loopback GET, against servers on real sockets."""

import asyncio
import socket
import time
from collections.abc import Callable

import pytest

from pytest_synth_tunnels.http.probe import get, get_status

from ..conftest import Recorder

RawServer = Callable[[Callable[[socket.socket], None]], str]


def status_of(url: str, *, timeout_s: float = 5.0) -> int:
    port = int(url.rpartition(":")[2])
    return asyncio.run(get_status("127.0.0.1", port, "/p", host_header="h", timeout_s=timeout_s))


def answer_of(url: str, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
    port = int(url.rpartition(":")[2])
    question = get(
        "127.0.0.1", port, "/p", host_header="h", headers=[("X-A", "1")], timeout_s=timeout_s
    )
    return asyncio.run(question)


def test_a_status(recorder: Recorder) -> None:
    recorder.reply(503, b"busy")
    assert status_of(recorder.url) == 503
    assert (recorder.last.method, recorder.last.target) == ("GET", "/p")
    assert recorder.last.headers["host"] == "h"


def test_a_status_does_not_wait_for_the_body(raw_server: RawServer) -> None:
    def endless(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nevent: first\n")
        connection.recv(1000)  # ends when the asking side closes

    assert status_of(raw_server(endless)) == 200


def test_an_answer(recorder: Recorder) -> None:
    recorder.reply(404, b"no\r\n\r\nsuch")
    assert answer_of(recorder.url) == (404, b"no\r\n\r\nsuch")
    assert recorder.last.headers["x-a"] == "1"


def test_an_answer_is_bounded(raw_server: RawServer) -> None:
    def endless(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        for _ in range(10_000):
            connection.sendall(bytes(65_536))

    status, body = answer_of(raw_server(endless))
    assert status == 200
    assert len(body) < 1_000_000


@pytest.mark.parametrize("ask", [status_of, answer_of])
@pytest.mark.parametrize("said", [b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 OK\r\n", b""])
def test_what_is_no_http(ask: Callable[[str], object], said: bytes, raw_server: RawServer) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(said)

    with pytest.raises(ValueError, match="does not speak HTTP"):
        ask(raw_server(talk))


@pytest.mark.parametrize("ask", [status_of, answer_of])
def test_who_does_not_listen(ask: Callable[[str], object], refusing_url: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        ask(refusing_url)


@pytest.mark.parametrize("ask", [status_of, answer_of])
def test_who_does_not_answer(ask: Callable[..., object], raw_server: RawServer) -> None:
    url = raw_server(lambda connection: connection.recv(1000) and connection.recv(1000) and None)
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(url, timeout_s=0.1)
    assert time.monotonic() - began_s < 5
