"""Connections to the app, as if there were no tunnel: each test runs directly and by both links.

The apps and the callers are ordinary programs that block, each in a thread.
"""

import http.client
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

import pytest

from ..support.tunnel_thread import TunnelThread, Way

LINKS = ("direct", "memory", "websocket")
TIMEOUT_S = 20
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

every_link = pytest.mark.parametrize("link", LINKS)


@pytest.fixture(scope="module")
def tunnels() -> Iterator[TunnelThread]:
    with TunnelThread() as opened:
        yield opened


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def ask(way: Way, method: str = "GET", path: str = "/", body: bytes | None = None) -> Any:
    """Send a request on a connection of its own; return status and body."""
    connection = http.client.HTTPConnection(way.host, way.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, way.prefix + path, body, way.headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class App:
    """A server that talks to each connection as a test tells it, in a thread each."""

    def __init__(self, talk: Callable[[socket.socket, "App"], None], port: int = 0) -> None:
        self.accepted = 0
        self.heard: list[bytes] = []
        """What a test wants to keep of what came."""
        self.changed = threading.Condition()
        self._talk = talk
        self._listening = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT_S)
            self.accepted += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            self._talk(connection, self)

    def hear(self, data: bytes) -> None:
        with self.changed:
            self.heard.append(data)
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S)

    def close(self) -> None:
        self._listening.close()


@contextmanager
def app(talk: Callable[[socket.socket, App], None]) -> Iterator[App]:
    served = App(talk)
    try:
        yield served
    finally:
        served.close()


def read_request(connection: socket.socket) -> bytes:
    """Return a request with its body, or what came of it before the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65_536)):
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


class Answering(BaseHTTPRequestHandler):
    """Says which server it belongs to, and keeps its connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.name.encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Threading(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    name = ""


class Single(HTTPServer):
    request_queue_size = 64
    name = "single"
    accepted = 0

    def get_request(self) -> Any:
        self.accepted += 1
        return super().get_request()


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(TIMEOUT_S)


# Whose answer it is.


@every_link
def test_no_test_is_answered_by_the_app_of_the_last_one(tunnels: TunnelThread, link: str) -> None:
    port = unused_port()
    way = tunnels.way(port, link)
    for number in range(12):
        server = Threading(("127.0.0.1", port), Answering)
        server.name = f"app {number}"
        with running(server):
            assert ask(way) == (200, server.name.encode())


@every_link
@pytest.mark.parametrize("closes_after_s", [0.002, 0.02])
def test_an_app_that_closes_soon_after_its_answer_loses_nothing(
    tunnels: TunnelThread, link: str, closes_after_s: float
) -> None:
    def talk(connection: socket.socket, _: App) -> None:
        read_request(connection)
        connection.sendall(OK)
        time.sleep(closes_after_s)

    with app(talk) as served:
        way = tunnels.way(served.port, link)
        answers = {ask(way, "POST", body=b"hello") for _ in range(40)}
    assert answers == {(200, b"ok")}
    assert served.accepted == 40


@every_link
def test_a_single_threaded_app_is_held_up_by_nobody(tunnels: TunnelThread, link: str) -> None:
    server = Single(("127.0.0.1", 0), Answering)
    with running(server), ThreadPoolExecutor(6) as callers:
        way = tunnels.way(server.server_port, link)
        began = time.monotonic()
        answers = list(callers.map(lambda _: ask(way), range(60)))
        took_s = time.monotonic() - began
    assert set(answers) == {(200, b"single")}
    assert server.accepted == 60
    # Kept connections would hold it up for a second and more, each time.
    assert took_s < 10


# Who ends a connection.


@every_link
def test_the_app_closes_and_the_caller_sees_it(tunnels: TunnelThread, link: str) -> None:
    def talk(connection: socket.socket, _: App) -> None:
        read_request(connection)
        connection.sendall(OK)

    with app(talk) as served, ExitStack() as stack:
        way = tunnels.way(served.port, link)
        caller = stack.enter_context(socket.create_connection((way.host, way.port), TIMEOUT_S))
        caller.sendall(way.head("GET", "/"))
        answer = b""
        while data := caller.recv(65_536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"ok")


@every_link
@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_caller_goes_and_the_app_sees_it(tunnels: TunnelThread, link: str, how: str) -> None:
    def talk(connection: socket.socket, served: App) -> None:
        read_request(connection)
        connection.sendall(OK)
        try:
            served.hear(connection.recv(1))
        except ConnectionResetError:
            served.hear(b"")

    with app(talk) as served:
        way = tunnels.way(served.port, link)
        with socket.create_connection((way.host, way.port), TIMEOUT_S) as caller:
            caller.sendall(way.head("GET", "/"))
            answer = b""
            while not answer.endswith(b"ok"):
                answer += caller.recv(65_536)
            assert served.heard == []
            if how == "reset":
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        served.wait_for(lambda: served.heard == [b""])


@every_link
def test_the_requests_of_a_connection_stay_on_one(tunnels: TunnelThread, link: str) -> None:
    def talk(connection: socket.socket, served: App) -> None:
        mine = b"%d" % served.accepted
        while read_request(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(mine) + mine)

    with app(talk) as served:
        way = tunnels.way(served.port, link)
        for number in (b"1", b"2"):
            connection = http.client.HTTPConnection(way.host, way.port, timeout=TIMEOUT_S)
            for _ in range(5):
                connection.request("POST", way.prefix + "/", b"x", way.headers)
                assert connection.getresponse().read() == number
            connection.close()


@every_link
@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 300_000])
def test_a_caller_that_has_said_all_it_wants_is_answered(
    tunnels: TunnelThread, link: str, body: bytes
) -> None:
    def talk(connection: socket.socket, served: App) -> None:
        request = read_request(connection)
        served.hear(connection.recv(1))
        size = b"%d" % len(request.partition(b"\r\n\r\n")[2])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(size) + size)

    with app(talk) as served:
        way = tunnels.way(served.port, link)
        with socket.create_connection((way.host, way.port), TIMEOUT_S) as caller:
            caller.sendall(way.head("POST", "/", f"Content-Length: {len(body)}") + body)
            caller.shutdown(socket.SHUT_WR)
            answer = b""
            while data := caller.recv(65_536):
                answer += data
    assert served.heard == [b""]  # the app has seen the end of the caller's side
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n%d" % len(body))


@every_link
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_app_that_closes_instead_of_answering_leaves_that_to_the_caller(
    tunnels: TunnelThread, link: str, method: str
) -> None:
    def talk(connection: socket.socket, served: App) -> None:
        read_request(connection)
        connection.sendall(OK)
        read_request(connection)

    with app(talk) as served:
        way = tunnels.way(served.port, link)
        connection = http.client.HTTPConnection(way.host, way.port, timeout=TIMEOUT_S)
        connection.request(method, way.prefix + "/", b"x", way.headers)
        assert connection.getresponse().read() == b"ok"
        connection.auto_open = 0
        connection.request(method, way.prefix + "/", b"x", way.headers)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            connection.getresponse()
        connection.close()
        assert served.accepted == 1  # nothing was sent again
