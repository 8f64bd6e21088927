"""Programs that people use, through a real backend, relay and agent: what they see is the app."""

import asyncio
import http.client
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from ..support.live_tunnels import Lease, Tunnels, statuses
from .conftest import IN_CI
from .web_app import App, Server

pytestmark = pytest.mark.interop

CLIENTS = Path(__file__).parent / "clients"


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not installed, but never in CI."""
    missing = not IN_CI and not shutil.which(program)
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


class Running:
    """An app, and tunnels to it whose loop runs in a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tunnels: Tunnels, app: type[App]) -> None:
        self.loop = loop
        self.tunnels = tunnels
        self.app = app
        self.app_port = 0
        self.lease: Lease
        self.open_lease: Lease
        """One that wants no token."""
        self.socket_lease: Lease
        """Another, whose app says on a WebSocket what it is told."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    async def serve(self, port: int, *, websocket: bool, **options: Any) -> Lease:
        lease = self.tunnels.lease(port, capabilities={"max_inflight": 1024}, **options)
        await self.tunnels.attach(lease, {"": port}, websocket=websocket)
        return lease

    async def serve_websockets(self, *, websocket: bool) -> None:
        async def echo(peer: ServerConnection) -> None:
            async for message in peer:
                await peer.send(message)
                if message == "close":
                    await peer.close(4321, "bye")

        self._echo = await serve(echo, "127.0.0.1", 0, subprotocols=[Subprotocol("soap")])
        (sock,) = self._echo.sockets
        self.socket_lease = await self.serve(
            sock.getsockname()[1], websocket=websocket, metadata={"require_token": False}
        )

    async def stop(self) -> None:
        self._echo.close()
        await self.tunnels.__aexit__()

    @property
    def url(self) -> str:
        return self.lease.public_url

    @property
    def header(self) -> str:
        return f"Authorization: Bearer {self.lease.worker_token}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.lease.worker_token}"}


@pytest.fixture(scope="module", params=["memory", "websocket"])
def tunnel(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A tunnel to the app, with either kind of agent's link."""
    app = type(
        "ThisApp",
        (App,),
        {"reports": queue.Queue(), "ended": threading.Event(), "left": threading.Event()},
    )
    websocket = request.param == "websocket"
    with asyncio.Runner() as runner, Server(("127.0.0.1", 0), app) as server:
        loop = runner.get_loop()
        threads = [
            threading.Thread(target=server.serve_forever, args=(0.01,)),
            threading.Thread(target=loop.run_forever),
        ]
        for thread in threads:
            thread.start()
        running = Running(loop, Tunnels(), app)
        try:
            running.run(running.tunnels.__aenter__())
            running.app_port = server.server_port
            running.lease = running.run(running.serve(server.server_port, websocket=websocket))
            running.open_lease = running.run(
                running.serve(
                    server.server_port, websocket=websocket, metadata={"require_token": False}
                )
            )
            running.run(running.serve_websockets(websocket=websocket))
            yield running
            running.run(running.stop())
        finally:
            app.ended.set()
            server.shutdown()
            loop.call_soon_threadsafe(loop.stop)
            for thread in threads:
                thread.join(10)


def run(*command: str | Path, timeout_s: float = 60) -> str:
    """Run a program that must succeed; return what it says."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, env=no_proxy()
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def no_proxy() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


# --- curl


@pytest.fixture
def curl(tunnel: Running) -> Callable[..., str]:
    """Run curl with the worker token; the last argument is a path below the public URL."""

    def ask(*arguments: str) -> str:
        *options, path = arguments
        common = ("curl", "-sS", "--max-time", "30", "-H", tunnel.header)
        return run(*common, *options, tunnel.url + path)

    return ask


@needs("curl")
def test_curl(tunnel: Running, curl: Callable[..., str], tmp_path: Path) -> None:
    told = json.loads(curl("/echo?a=b"))
    assert (told["method"], told["target"]) == ("GET", "/echo?a=b")
    assert told["headers"]["host"] == f"127.0.0.1:{tunnel.app_port}"
    assert "authorization" not in told["headers"]
    assert json.loads(curl("-d", "x=1", "/echo"))["body"] == "x=1"
    assert json.loads(curl("-F", "f=content", "/echo"))["method"] == "POST"
    assert "content-length: 7" in curl("-I", "/bytes/7").lower()
    assert json.loads(curl("-L", "/redirect"))["target"] == "/echo?redirected"
    assert curl("--compressed", "/gzip") == "compressed " * 100
    assert curl("-N", "/events") == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert "204 No Content" in curl("-i", "/status/204")
    assert curl("-X", "DELETE", "-o", "/dev/null", "-w", "%{http_code}", "/echo") == "200"
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    for options in (
        ("-T", str(large)),
        ("-T", str(large), "-H", "Expect: 100-continue"),
        ("-T", str(large), "-H", "Transfer-Encoding: chunked"),
        ("-T", str(large), "--http1.0"),
        ("-X", "PUT", "--data-binary", f"@{large}"),
    ):
        assert curl(*options, "/count") == "3000000", options
    # What a newer protocol asks for is answered in this one.
    assert curl("--http2", "-o", "/dev/null", "-w", "%{http_version}", "/echo") == "1.1"
    assert json.loads(curl("--http1.0", "/echo"))["method"] == "GET"
    assert curl("--http1.0", "-o", "/dev/null", "-w", "%{size_download}", "/events") == "27"


@needs("curl")
def test_curl_keeps_its_connection(tunnel: Running, curl: Callable[..., str]) -> None:
    urls = [f"{tunnel.url}/echo?{number}" for number in range(5)]
    said = curl(*urls, "-w", "\nconnects: %{num_connects}\n", "/echo")
    assert re.findall(r"connects: (\d)", said) == ["1", *"00000"]


@needs("curl")
def test_curl_sees_that_an_answer_was_cut_off(tunnel: Running) -> None:
    command = ["curl", "-sS", "-H", tunnel.header, f"{tunnel.url}/cut"]
    for options in ([], ["--http1.0"]):
        done = subprocess.run(
            [*command, *options], capture_output=True, timeout=30, check=False, env=no_proxy()
        )
        # A partial transfer, or a connection that was reset.
        assert done.returncode in (18, 56), done


@needs("curl")
def test_curl_is_told_before_it_sends_what_nobody_takes(tunnel: Running, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    for expect in ("Expect: 100-continue", "Expect:"):
        said = run(
            *("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_upload}", "-H", expect),
            *("-T", large, f"{tunnel.url}/count"),
        )
        status, sent = said.split()
        assert status == "401"
        assert sent == "0" or "continue" not in expect


# --- wrk


@needs("wrk")
def test_wrk(tunnel: Running) -> None:
    said = run("wrk", "-t1", "-c16", "-d1s", "-H", tunnel.header, f"{tunnel.url}/echo")
    found = re.search(r"(\d+) requests in", said)
    assert found is not None
    assert int(found[1]) > 50
    assert "Non-2xx" not in said
    assert "Socket errors" not in said


# --- Python's clients


def test_httpx(tunnel: Running) -> None:
    with httpx.Client(base_url=tunnel.url, headers=tunnel.headers, trust_env=False) as client:
        assert client.get("/echo", params={"a": "1 2"}).json()["target"] == "/echo?a=1+2"
        assert client.post("/echo", json={"x": 1}).json()["body"] == '{"x":1}'
        assert client.post("/echo", content=iter([b"ab"] * 3)).json()["body"] == "ababab"
        assert client.get("/gzip").text == "compressed " * 100
        answer = client.get("/redirect", follow_redirects=True)
        assert answer.json()["target"] == "/echo?redirected"
        assert client.put("/count", content=bytes(5_000_000)).text == "5000000"
        assert len(client.get("/bytes/5000000").content) == 5_000_000
        with client.stream("GET", "/events") as events:
            lines = [line for line in events.iter_lines() if line]
        assert lines == ["data: 0", "data: 1", "data: 2"]
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/cut")
        # A client that loses its patience.
        tunnel.app.left.clear()
        with pytest.raises(httpx.ReadTimeout):
            client.get("/hang", timeout=0.1)
        assert tunnel.app.left.wait(10)
        with ThreadPoolExecutor(20) as pool:
            answers = pool.map(lambda n: client.post("/echo", content=str(n)), range(100))
            assert [answer.json()["body"] for answer in answers] == list(map(str, range(100)))


def test_asynchronous_httpx(tunnel: Running) -> None:
    async def main() -> list[str]:
        async with httpx.AsyncClient(
            base_url=tunnel.url, headers=tunnel.headers, trust_env=False, timeout=30
        ) as client:
            calls = (client.post("/echo", content=str(number)) for number in range(100))
            return [answer.json()["body"] for answer in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == list(map(str, range(100)))


def test_requests_and_aiohttp(tunnel: Running, python_of: Callable[..., Path]) -> None:
    python = python_of("aiohttp", "requests")
    script = CLIENTS / "web_clients.py"
    said = run(python, "-I", script, tunnel.url, tunnel.lease.worker_token)
    assert said.split() == ["requests", "aiohttp"]


# --- Node and Chromium


@needs("node")
def test_node_fetch(tunnel: Running) -> None:
    script = CLIENTS / "node_fetch.mjs"
    tunnel.app.left.clear()
    assert run("node", script, tunnel.url, tunnel.lease.worker_token).strip() == "fetch"
    assert tunnel.app.left.wait(10)


@needs("chromium")
def test_chromium(tunnel: Running, tmp_path: Path) -> None:
    tunnel.app.left.clear()
    log = tmp_path / "log"
    with log.open("wb") as output:
        browser = subprocess.Popen(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                *("--disable-component-update", "--no-proxy-server", "--disable-dev-shm-usage"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0"),
                f"{tunnel.open_lease.public_url}/page?{tunnel.socket_lease.prefix}",
            ],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        told = tunnel.app.reports.get(timeout=60)
    except queue.Empty:
        pytest.fail(f"the page did not report: {log.read_text(errors='replace')[-3000:]}")
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait(10)
    assert told == {
        "echoes": ",".join(map(str, range(20))),
        "gzip": 1100,
        "bytes": 3_000_000,
        "count": "3000000",
        "redirected": True,
        "style": "rgb(1, 2, 3)",
        "events": "0,1,2",
        "cut": "seen",
        "left": "AbortError",
        "socket": "soap: hello, 1000000 bytes, 4321 bye",
    }
    assert tunnel.app.left.wait(10)


# --- by hand


def send(tunnel: Running, data: bytes) -> bytes:
    """Send bytes; return all that comes back."""
    with socket.create_connection(("127.0.0.1", tunnel.tunnels.port), timeout=20) as connection:
        connection.sendall(data)
        received = b""
        while more := connection.recv(65_536):
            received += more
        return received


def test_http_1_0(tunnel: Running) -> None:
    request = f"GET {tunnel.lease.prefix}/events HTTP/1.0\r\n{tunnel.header}\r\n\r\n"
    head, _, body = send(tunnel, request.encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    keep = "Connection: keep-alive\r\n"
    one = f"GET {tunnel.lease.prefix}/bytes/3 HTTP/1.0\r\n{tunnel.header}\r\n"
    answer = send(tunnel, f"{one}{keep}\r\n{one}\r\n".encode())
    assert statuses(answer) == [200, 200]
    assert answer.lower().count(b"connection: keep-alive") == 1


def test_pipelining(tunnel: Running) -> None:
    requests = []
    for number in range(100):
        body = f"{number}" * (number % 3)
        requests.append(
            f"POST {tunnel.lease.prefix}/echo?{number} HTTP/1.1\r\nHost: a\r\n{tunnel.header}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
    last = tunnel.lease.get("/bytes/1", close=True)
    answer = send(tunnel, "".join(requests).encode() + last)
    assert statuses(answer) == [200] * 101
    told = re.findall(rb'"target": "/echo\?(\d+)"', answer)
    assert told == [b"%d" % number for number in range(100)]


# --- nginx as the app

LAST = {"Connection": "close"}
"""Headers of the last request on a connection."""

NGINX = """
daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; default_type application/octet-stream;
    gzip on; gzip_types text/plain; gzip_min_length 100;
    types {{ text/plain txt; }}
    client_body_temp_path {path}; proxy_temp_path {path}; fastcgi_temp_path {path};
    uwsgi_temp_path {path}; scgi_temp_path {path};
    server {{
        listen 127.0.0.1:{port}; root {path}/files; client_max_body_size 1m;
        keepalive_requests 3;
        location /moved {{ return 301 /file.txt; }}
        location /upload {{
            proxy_pass http://127.0.0.1:{port}/taken; proxy_request_buffering off;
        }}
        location /taken {{ return 200 "taken"; }}
    }}
}}
"""


@pytest.fixture
def nginx() -> Iterator[int]:
    """The port of an nginx that serves files, and takes uploads of up to 1 MiB."""
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        path = Path(folder)
        path.chmod(0o755)  # nginx's workers may be another user
        files = path / "files"
        files.mkdir()
        (files / "file.txt").write_text("0123456789" * 100)
        (files / "large.bin").write_bytes(bytes(5_000_000))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = path / "nginx.conf"
        config.write_text(NGINX.format(path=path, port=port))
        with subprocess.Popen(["nginx", "-e", path / "error.log", "-c", config]) as process:
            try:
                yield port
            finally:
                process.terminate()
                process.wait(10)


@needs("nginx")
def test_nginx_as_the_app(tunnel: Running, nginx: int) -> None:
    lease = tunnel.run(tunnel.serve(nginx, websocket=False))
    headers = {"X-SynthTunnel-Worker-Token": lease.worker_token}
    with httpx.Client(base_url=lease.public_url, headers=headers, trust_env=False) as client:
        # nginx may still be starting, which the agent waits for; and it closes every third
        # connection that it keeps.
        for _ in range(10):
            answer = client.get("/file.txt")
            assert answer.text == "0123456789" * 100
            assert answer.headers["content-encoding"] == "gzip"
        same = client.get("/file.txt", headers={"If-None-Match": answer.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        part = client.get(
            "/file.txt", headers={"Range": "bytes=10-14", "Accept-Encoding": "identity"}
        )
        assert (part.status_code, part.text) == (206, "01234")
        assert part.headers["content-range"] == "bytes 10-14/1000"
        assert client.head("/large.bin").headers["content-length"] == "5000000"
        assert len(client.get("/large.bin").content) == 5_000_000
        moved = client.get("/moved")
        assert (moved.status_code, moved.headers["location"]) == (
            301,
            f"{lease.public_url}/file.txt",
        )
        # nginx answers these early, and then closes its connection without having said so: the
        # next request on it may be lost, as it may be without a tunnel.
        for content in (b"x" * 500_000, iter([b"x" * 1000] * 100)):
            assert client.post("/upload", content=content, headers=LAST).text == "taken"
        # An answer in the middle of an upload.
        assert client.post("/upload", content=b"x" * 5_000_000).status_code == 413
        assert client.get("/none").status_code == 404
        assert client.request("BREW", "/file.txt").status_code == 405
        assert client.get("/file.txt").status_code == 200


def test_the_standard_library(tunnel: Running) -> None:
    connection = http.client.HTTPConnection(urlsplit(tunnel.url).netloc, timeout=20)
    try:
        for number in range(3):
            body = iter([b"ab"] * number)
            path = f"{tunnel.lease.prefix}/echo"
            connection.request("POST", path, body, tunnel.headers, encode_chunked=True)
            assert json.load(connection.getresponse())["body"] == "ab" * number
    finally:
        connection.close()
