import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend import server as module
from pytest_synth_tunnels.backend.control import MAX_BODY_BYTES
from pytest_synth_tunnels.backend.server import AGENT_PATH, Backend
from pytest_synth_tunnels.relay.route import Limits
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.sdk.errors import TunnelConflictError, TunnelError, TunnelNotFoundError

Answer = tuple[int, dict[str, str], bytes]


async def fetch(
    method: str, url: str, headers: dict[str, str] | None = None, body: Any = None
) -> Answer:
    """Send one request on a connection of its own."""

    def send() -> Answer:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
        try:
            connection.request(
                method, url.removeprefix(f"http://{parts.netloc}"), body, headers or {}
            )
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, found, response.read()
        finally:
            connection.close()

    return await asyncio.to_thread(send)


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Backend]:
    backend = Backend(**settings)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def app() -> AsyncIterator[int]:
    """Run an app that says hello to every GET, on the port that is given."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b"hello from " + head.split(b" ")[1]
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


def new_lease(backend: Backend, port: int = 8000, **settings: Any) -> dict[str, Any]:
    lease: dict[str, Any] = backend.call(
        requests.create_synth_lease(
            client_instance_id="client-12345678",
            local_host="127.0.0.1",
            local_port=port,
            **settings,
        )
    )
    return lease


def agent_for(lease: dict[str, Any], port: int) -> Agent:
    agent = Agent()
    agent.leases.serve(lease["lease_id"], lease["public_url"])
    agent.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", port))
    return agent


class Watched(Agent):
    """An agent whose loss of the link can be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = asyncio.Event()

    def link_lost(self, reason: str) -> None:
        super().link_lost(reason)
        self.lost.set()


def worker(lease: dict[str, Any]) -> dict[str, str]:
    return {"X-SynthTunnel-Worker-Token": lease["worker_token"]}


def test_the_control_plane_answers_on_http() -> None:
    async def test() -> None:
        async with serving(api_key="sk-1") as backend:
            url = f"{backend.url}/v1/tunnels/"
            key = {"Authorization": "Bearer sk-1"}
            body = json.dumps({"subdomain": "demo", "local_port": 8000})
            status, headers, raw = await fetch("POST", url, key, body)
            assert (status, headers["content-type"]) == (200, "application/json")
            assert headers["cache-control"] == "no-store"
            assert json.loads(raw)["public_url"] == f"{backend.url}/t/demo"
            status, _, raw = await fetch("GET", f"{url}?include_deleted=true", key)
            assert len(json.loads(raw)) == 1
            status, headers, raw = await fetch("GET", url, {"Authorization": "Bearer sk-2"})
            assert (status, json.loads(raw)["code"]) == (401, "unauthorized")
            assert headers["www-authenticate"] == "Bearer"
            assert (await fetch("GET", f"{backend.url}/nowhere"))[0] == 404

    run(test)


def test_what_is_refused_is_logged_under_its_request_id(refused: Callable[[], list[str]]) -> None:
    async def test() -> None:
        async with serving() as backend:
            url = f"{backend.url}/v1/tunnels/"
            key = {"Authorization": f"Bearer {backend.api_key}"}
            expected = []
            for headers, body, told in (
                ({}, None, "401 unauthorized"),
                (key, b"{}", "422 validation_error"),
                (key, iter([b" " * 65_536] * 5), "413 payload_too_large"),
            ):
                _, _, raw = await fetch("POST", url, headers, body)
                request_id = json.loads(raw)["request_id"]
                expected.append(f"{request_id} from 127.0.0.1: {told}")
            with pytest.raises(TunnelNotFoundError) as caught:
                backend.call(requests.delete_tunnel("tun_1"))
            expected.append(f"{caught.value.request_id}: 404 not_found")
            assert refused() == expected

    run(test)


def test_a_body_may_come_in_chunks_and_is_bounded() -> None:
    async def test() -> None:
        async with serving() as backend:
            url = f"{backend.url}/v1/tunnels/"
            key = {"Authorization": f"Bearer {backend.api_key}"}
            chunks = [b'{"subdomain": "demo",', b'"local_port": 8000}']
            assert (await fetch("POST", url, key, iter(chunks)))[0] == 200
            for body in (b" " * (MAX_BODY_BYTES + 1), iter([b" " * 65_536] * 5)):
                status, _, raw = await fetch("POST", url, key, body)
                assert (status, json.loads(raw)["code"]) == (413, "payload_too_large")

    run(test)


def test_calls_in_the_process_need_no_http() -> None:
    async def test() -> None:
        async with serving() as backend:
            assert backend.call(requests.health())["status"] == "ok"
            create = requests.create_tunnel(subdomain="demo", local_port=8000)
            tunnel = backend.call(create)
            assert backend.call(requests.list_tunnels(include_deleted=True)) == [tunnel]
            assert backend.call(requests.list_tunnels(status_filter="deleted")) == []
            with pytest.raises(TunnelConflictError, match="POST /v1/tunnels/") as caught:
                backend.call(create)
            assert (caught.value.status, caught.value.code) == (409, "TUNNEL_CONFLICT")
            assert caught.value.request_id
            with pytest.raises(TunnelNotFoundError):
                backend.call(requests.delete_tunnel("x"))

    run(test)


def test_an_agent_of_this_process_serves_a_lease() -> None:
    async def test() -> None:
        async with serving(limits=Limits(hold_s=0)) as backend, app() as port:
            lease = new_lease(backend, port)
            status = backend.call(requests.get_synth_lease(lease["lease_id"]))
            assert (status["status"], status["connected"]) == ("PENDING", False)
            assert (await fetch("GET", lease["public_url"] + "/a", worker(lease)))[0] == 503

            agent = agent_for(lease, port)
            backend.attach(lease["lease_id"], agent, lease["agent_connect"]["agent_token"])
            answer = await fetch("GET", lease["public_url"] + "/a", worker(lease))
            assert (answer[0], answer[2]) == (200, b"hello from /a")
            status = backend.call(requests.get_synth_lease(lease["lease_id"]))
            assert (status["status"], status["connected"], status["inflight"]) == (
                "ACTIVE",
                True,
                0,
            )

            fresh = backend.call(requests.refresh_synth_worker_token(lease["lease_id"]))
            assert (await fetch("GET", lease["public_url"] + "/a", worker(lease)))[0] == 401
            assert (await fetch("GET", lease["public_url"] + "/a", worker(fresh)))[0] == 200

            backend.call(requests.close_synth_lease(lease["lease_id"]))
            assert (await fetch("GET", lease["public_url"] + "/a", worker(fresh)))[0] == 410
            assert not agent.attached
            await agent.close()

    run(test)


def test_a_lease_without_a_token_answers_who_knows_its_url() -> None:
    async def test() -> None:
        async with serving() as backend, app() as port:
            lease = new_lease(backend, port, metadata={"require_token": False})
            agent = agent_for(lease, port)
            backend.attach(lease["lease_id"], agent, lease["agent_connect"]["agent_token"])
            assert (await fetch("GET", lease["public_url"] + "/a"))[0] == 200
            await agent.close()

    run(test)


def test_an_agent_shows_the_token_of_its_lease() -> None:
    async def test() -> None:
        async with serving() as backend:
            one, other = new_lease(backend), new_lease(backend)
            agent = agent_for(one, 8000)
            with pytest.raises(TunnelError, match=one["lease_id"]):
                backend.attach(one["lease_id"], agent, other["agent_connect"]["agent_token"])
            assert not agent.attached
            await agent.close()

    run(test)


def test_an_expired_lease_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP_S", 0.02)

    async def test() -> None:
        time = 1_700_000_000.0
        async with serving(now=lambda: time) as backend:
            lease = new_lease(backend, requested_ttl_seconds=60)
            agent = Watched()
            agent.leases.serve(lease["lease_id"], lease["public_url"])
            backend.attach(lease["lease_id"], agent, lease["agent_connect"]["agent_token"])
            time += 60
            await agent.lost.wait()
            assert (await fetch("GET", lease["public_url"], worker(lease)))[0] == 410
            status = backend.call(requests.get_synth_lease(lease["lease_id"]))
            assert (status["status"], status["connected"]) == ("EXPIRED", False)
            await agent.close()

    run(test)


def test_an_agent_comes_by_websocket() -> None:
    async def test() -> None:
        async with serving() as backend, app() as port:
            lease = new_lease(backend, port)
            agent = agent_for(lease, port)
            news: asyncio.Queue[tuple[bool, str]] = asyncio.Queue()
            connect = lease["agent_connect"]
            dialer = Dialer(
                agent,
                connect["url"],
                connect["agent_token"],
                on_change=lambda attached, reason: news.put_nowait((attached, reason)),
            )
            await dialer.start()
            assert await news.get() == (True, "")
            answer = await fetch("GET", lease["public_url"] + "/b", worker(lease))
            assert (answer[0], answer[2]) == (200, b"hello from /b")
            backend.call(requests.close_synth_lease(lease["lease_id"]))
            attached, reason = await news.get()
            assert not attached
            assert "1001" in reason
            await dialer.close()
            await agent.close()

    run(test)


def test_an_agent_handshake_is_checked_from_its_head(refused: Callable[[], list[str]]) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }

    async def test() -> None:
        async with serving() as backend:
            url = backend.url + AGENT_PATH
            lease = new_lease(backend)
            token = {"Authorization": f"Bearer {lease['agent_connect']['agent_token']}"}
            for wrong in ({}, {"Authorization": "Bearer x"}, worker(lease)):
                status, _, raw = await fetch("GET", url, handshake | wrong)
                assert (status, json.loads(raw)["code"]) == (401, "unauthorized")
            status, headers, _ = await fetch("GET", url, token)
            assert (status, headers["upgrade"]) == (426, "websocket")
            backend.call(requests.close_synth_lease(lease["lease_id"]))
            assert (await fetch("GET", url, handshake | token))[0] == 401
            codes = ["401 unauthorized"] * 3 + ["426 bad_request", "401 unauthorized"]
            assert refused() == [f"an agent from 127.0.0.1: {code}" for code in codes]

    run(test)


def test_an_agent_that_stays_silent_is_let_go(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(module, "_ATTACH_TIMEOUT_S", 0.02)

    async def test() -> None:
        async with serving() as backend:
            token = new_lease(backend)["agent_connect"]["agent_token"]
            netloc = urlsplit(backend.url).netloc
            reader, writer = await asyncio.open_connection(*netloc.split(":"))
            writer.write(
                f"GET {AGENT_PATH} HTTP/1.1\r\nHost: {netloc}\r\nAuthorization: Bearer {token}\r\n"
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
            )
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            frame = await reader.readexactly(4)
            assert (frame[0], int.from_bytes(frame[2:])) == (0x88, 1002)
            assert refused() == ["an agent: 1002 NO_ATTACH"]
            writer.close()

    run(test)


def test_a_taken_port_is_told() -> None:
    async def test() -> None:
        async with serving() as backend:
            port = int(backend.url.rpartition(":")[2])
            with pytest.raises(OSError, match="in use"):
                await Backend().start(port=port)

    run(test)


def test_closing_frees_the_port_and_ends_what_is_open() -> None:
    async def test() -> None:
        backend = Backend()
        await backend.start()
        netloc = urlsplit(backend.url).netloc
        reader, writer = await asyncio.open_connection(*netloc.split(":"))
        writer.write(b"GET /v1/tunnels/health HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await backend.close()
        await backend.close()
        await reader.read()
        writer.close()
        again = Backend()
        await again.start(port=int(netloc.rpartition(":")[2]))
        await again.close()

    run(test)


def test_closing_lets_agents_go() -> None:
    async def test() -> None:
        backend = Backend()
        await backend.start()
        lease = new_lease(backend)
        agent = agent_for(lease, 8000)
        news: asyncio.Queue[bool] = asyncio.Queue()
        connect = lease["agent_connect"]
        dialer = Dialer(
            agent,
            connect["url"],
            connect["agent_token"],
            on_change=lambda attached, reason: news.put_nowait(attached),
        )
        await dialer.start()
        assert await news.get()
        await backend.close()
        assert not await news.get()
        await dialer.close()
        await agent.close()

    run(test)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("localhost", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("192.168.0.9", "http://192.168.0.9:1"),
    ],
)
def test_the_url_can_be_reached_from_this_machine(host: str, url: str) -> None:
    assert f"http://{module._netloc(host, 1)}" == url


def test_starting_imports_nothing_heavy() -> None:
    code = (
        "import sys, pytest_synth_tunnels.backend.server\n"
        "heavy = {'httpx', 'websockets', 'filelock', 'pytest', 'anyio', 'tenacity'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
