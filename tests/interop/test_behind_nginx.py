"""The backend behind a real nginx, with the configuration that the documentation recommends."""

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import websockets

from pytest_synth_tunnels.sdk import requests

from ..support.live_tunnels import Lease, Tunnels

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-a-proxy.md"
AUTHORITY = trustme.CA()
LEAF = AUTHORITY.issue_cert("localhost")

AROUND = """
daemon off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {path}; proxy_temp_path {path}; fastcgi_temp_path {path};
    uwsgi_temp_path {path}; scgi_temp_path {path};
    {recipe}
}}
"""

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx:
    """An nginx in front of a backend."""

    def __init__(self, path: Path, port: int) -> None:
        self.port = port
        self.url = f"https://localhost:{port}"
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, backend_port: int) -> None:
        found = re.search(r"```nginx\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        assert found is not None
        recipe = found[1]
        for text, here in {
            "443 ssl": f"127.0.0.1:{self.port} ssl",
            "tunnels.example.com;": "localhost;",
            "/etc/ssl/tunnels.example.com.pem": f"{self._path}/cert.pem",
            "/etc/ssl/tunnels.example.com.key": f"{self._path}/cert.pem",
            "127.0.0.1:8787": f"127.0.0.1:{backend_port}",
        }.items():
            assert text in recipe
            recipe = recipe.replace(text, here)
        config = self._path / "nginx.conf"
        config.write_text(AROUND.format(path=self._path, recipe=recipe))
        self._process = subprocess.Popen(["nginx", "-e", self._path / "error.log", "-c", config])

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


@pytest.fixture
def nginx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        path = Path(folder)
        path.chmod(0o755)  # nginx's workers may be another user
        LEAF.private_key_and_cert_chain_pem.write_to_path(path / "cert.pem")
        AUTHORITY.cert_pem.write_to_path(path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(path / "ca.pem"))
        started = Nginx(path, free_port())
        try:
            yield started
        finally:
            started.stop()


class App:
    """Answers by hand, so that the test says when each piece is sent."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        path = head.split()[1]
        if path == "/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await self.heard.wait()
            writer.write(b"data: 2\n\n")
        elif path == "/upload":
            # The first piece is here while the caller still has the second.
            assert b"first" in await reader.readuntil(b"first")
            self.heard.set()
            body = b""
            while not body.endswith(b"\r\n0\r\n\r\n"):
                body += await reader.read(65_536)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken")
        else:
            host = head.lower().partition("\r\nhost: ")[2].partition("\r\n")[0]
            writer.write(
                f"HTTP/1.1 302 Found\r\nLocation: http://{host}/there\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
        await writer.drain()
        writer.close()


async def until_up(nginx: Nginx) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", nginx.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def check_http(app: App, lease: Lease) -> None:
    headers = {"X-SynthTunnel-Worker-Token": lease.worker_token}
    async with httpx.AsyncClient(headers=headers, timeout=20) as client:
        moved = await client.get(f"{lease.public_url}/away")
        assert moved.headers["location"] == f"{lease.public_url}/there"
        head = app.heads[-1].lower()
        assert "x-forwarded-proto: https\r\n" in head
        assert "x-forwarded-for: 127.0.0.1\r\n" in head
        assert f"x-forwarded-host: {httpx.URL(lease.public_url).netloc.decode()}\r\n" in head
        async with client.stream("GET", f"{lease.public_url}/events") as events:
            lines = events.aiter_lines()
            assert await anext(lines) == "data: 1"
            app.heard.set()
            assert [line async for line in lines if line] == ["data: 2"]
        app.heard.clear()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.wait_for(app.heard.wait(), 20)
            yield b"second" * 100_000

        taken = await client.post(f"{lease.public_url}/upload", content=pieces())
        assert taken.text == "taken"
    async with httpx.AsyncClient(timeout=20) as stranger:
        assert (await stranger.get(lease.public_url)).status_code == 401


async def check_websockets(tunnels: Tunnels) -> None:
    async def echo(peer: Any) -> None:
        async for message in peer:
            await peer.send(message)

    async with websockets.serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        lease = tunnels.lease(port)
        await tunnels.attach(lease, {"": port}, websocket=True)
        headers = {"X-SynthTunnel-Worker-Token": lease.worker_token}
        url = f"{lease.public_url.replace('http', 'ws', 1)}/socket"
        async with websockets.connect(url, additional_headers=headers, proxy=None) as caller:
            for message in ("hello", b"x" * 1_000_000):
                await caller.send(message)
                assert await caller.recv() == message


def test_all_of_a_lease_goes_through_nginx(nginx: Nginx) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), Tunnels(public_url=nginx.url) as tunnels:
            nginx.start(tunnels.port)
            await until_up(nginx)
            app = App()
            port = await tunnels.listen(app.serve)
            lease = tunnels.lease(port)
            assert lease.public_url.startswith(f"{nginx.url}/s/rt_")
            assert lease.agent_url.startswith(f"wss://localhost:{nginx.port}/")
            # The agent dials, by nginx as well.
            await tunnels.attach(lease, {"": port}, websocket=True)
            await check_http(app, lease)
            await check_websockets(tunnels)
            async with httpx.AsyncClient(base_url=nginx.url, timeout=20) as client:
                key = {"Authorization": f"Bearer {tunnels.backend.api_key}"}
                assert (await client.get("/v1/tunnels/health", headers=key)).status_code == 200
            tunnels.backend.call(requests.close_synth_lease(lease.id))

    assert ssl.create_default_context().get_ca_certs() != []
    asyncio.run(main())
