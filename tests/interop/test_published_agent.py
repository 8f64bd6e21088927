"""Agents in processes of their own serve traffic through the embedded relay over WebSocket: the
published one (synth-containers 0.4.6), and this project's."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from .conftest import Tunnel, agent_process

pytestmark = pytest.mark.interop


class App(BaseHTTPRequestHandler):
    """Tells what it was asked, on any path but ``/missing`` and ``/stream``."""

    protocol_version = "HTTP/1.1"
    read_on = threading.Event()
    """Set once the caller has the first piece of a stream."""

    def answer(self) -> None:
        body = self.body()
        if self.path == "/stream":
            self.stream()
            return
        told = {
            "method": self.command,
            "target": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": body.decode(),
        }
        content = json.dumps(told).encode()
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        self.wfile.flush()
        assert self.read_on.wait(10)
        self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  # the base's names

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def app() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), App) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module", params=["published", "own"])
def tunnel(
    request: pytest.FixtureRequest, standalone_backend: dict[str, str], app: str
) -> Iterator[Tunnel]:
    with agent_process(request.param, request, standalone_backend, app) as found:
        yield found


def test_the_lease_is_active(tunnel: Tunnel) -> None:
    status = tunnel.status()
    assert (status["status"], status["connected"]) == ("ACTIVE", True)
    assert status["last_seen_at"]


def test_a_get_reaches_the_app_as_it_was_sent(tunnel: Tunnel, app: str) -> None:
    response, raw = tunnel.ask(
        "GET",
        "/a%2Fb%20c/~d?x=%26&x=2",
        headers={"X-Mine": "1", "X-Forwarded-For": "6.6.6.6"},
    )
    assert response.status == 200
    assert response.headers.get_all("set-cookie") == ["a=1", "b=2"]
    told = json.loads(raw)
    assert (told["method"], told["target"]) == ("GET", "/a%2Fb%20c/~d?x=%26&x=2")
    headers = dict(told["headers"])
    public = urlsplit(tunnel.lease["public_url"])
    assert headers["host"] == urlsplit(app).netloc
    assert headers["x-mine"] == "1"
    assert headers["x-forwarded-host"] == public.netloc
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-for"] == "6.6.6.6, 127.0.0.1"
    assert headers["x-forwarded-prefix"] == public.path
    assert headers["x-synthtunnel-lease-id"] == tunnel.lease["lease_id"]
    assert headers["x-synthtunnel-request-id"]
    assert tunnel.lease["worker_token"] not in raw.decode()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_post_brings_its_body(tunnel: Tunnel, chunked: bool) -> None:
    text = "0123456789" * 60_000
    body = iter([text[:7].encode(), text[7:].encode()]) if chunked else text
    response, raw = tunnel.ask("POST", "/post", body, {"Content-Type": "text/plain"})
    told = json.loads(raw)
    assert (response.status, told["method"], told["body"]) == (200, "POST", text)


@pytest.mark.parametrize("method", ["HEAD", "DELETE", "PUT"])
def test_other_methods_arrive(tunnel: Tunnel, method: str) -> None:
    response, raw = tunnel.ask(method, "/x")
    assert response.status == 200
    assert raw == b"" if method == "HEAD" else json.loads(raw)["method"] == method


def test_the_apps_own_404_is_passed_on(tunnel: Tunnel) -> None:
    response, raw = tunnel.ask("GET", "/missing")
    assert (response.status, json.loads(raw)["target"]) == (404, "/missing")


def test_an_answer_is_streamed(tunnel: Tunnel) -> None:
    App.read_on.clear()
    connection = tunnel.connect()
    try:
        connection.request(
            "GET",
            urlsplit(tunnel.lease["public_url"]).path + "/stream",
            headers={"X-SynthTunnel-Worker-Token": tunnel.lease["worker_token"]},
        )
        response = connection.getresponse()
        assert response.read(5) == b"first"
        App.read_on.set()
        assert response.read() == b"last"
    finally:
        App.read_on.set()
        connection.close()


def test_each_of_many_gets_its_own_answer(tunnel: Tunnel) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda n: tunnel.ask("POST", f"/n/{n}", f"body {n}"), range(48))
        told = [json.loads(raw) for _, raw in answers]
    assert [(each["target"], each["body"]) for each in told] == [
        (f"/n/{n}", f"body {n}") for n in range(48)
    ]


def test_a_caller_without_the_token_is_refused(tunnel: Tunnel) -> None:
    response, raw = tunnel.ask("GET", "/x", token="wrong")
    assert (response.status, json.loads(raw)["code"]) == (401, "TUNNEL_AUTH_INVALID")


@pytest.mark.parametrize("kind", ["published", "own"])
def test_a_lease_ends_with_its_agent(
    kind: str, request: pytest.FixtureRequest, standalone_backend: dict[str, str], app: str
) -> None:
    with agent_process(kind, request, standalone_backend, app) as tunnel:
        out, _ = tunnel.process.communicate("", timeout=20)
        assert out == "closed\n"
        response, raw = tunnel.ask("GET", "/x")
        assert (response.status, json.loads(raw)["code"]) == (410, "TUNNEL_LEASE_EXPIRED")
        assert tunnel.status()["status"] == "EXPIRED"


@pytest.mark.parametrize("kind", ["published", "own"])
def test_a_dead_agent_is_offline(
    kind: str, request: pytest.FixtureRequest, standalone_backend: dict[str, str], app: str
) -> None:
    with agent_process(kind, request, standalone_backend, app) as tunnel:
        tunnel.process.kill()
        tunnel.process.wait(10)
        response, raw = tunnel.ask("GET", "/x")
        # Published supervisors look for exactly this code.
        assert (response.status, json.loads(raw)["code"]) == (503, "AGENT_OFFLINE")
        status = tunnel.status()
        assert (status["status"], status["connected"]) == ("ACTIVE", False)
