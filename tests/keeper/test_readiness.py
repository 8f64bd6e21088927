import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper import readiness
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.readiness import wait_ready

WT = "wt_1"
Answer = Callable[[bytes], bytes]


def answer(status: int, body: str = "") -> Answer:
    text = f"HTTP/1.0 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    return lambda request: text.encode()


def nonce(request: bytes) -> bytes:
    path = request.split()[1].decode()
    assert path.startswith("/s/rt_1/__synth/nonce/")
    return answer(200, path.rpartition("/")[2])(request)


@pytest.fixture(params=["near", "far"])
def http_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own few lines of HTTP, as for loopback, and with httpx, as for a hosted relay."""
    if request.param == "far":
        monkeypatch.setattr(readiness, "_is_near", lambda url: False)
        monkeypatch.setattr(readiness, "_PAUSE_FAR_S", 0.02)


def outcome(
    relay: Answer, *, app: bool = True, token: str | None = WT, timeout_s: float = 1
) -> list[bytes]:
    """Wait for a tunnel whose relay answers as told; return the requests that it saw."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(relay(seen[-1]))
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            waiting: Awaitable[Any] = wait_ready(
                public_url=f"http://127.0.0.1:{port}/s/rt_1",
                headers={"X-SynthTunnel-Worker-Token": token} if token else {},
                is_secret=False,
                missing_link=lambda: None,
                target=Target("127.0.0.1", port if app else 9),
                timeout_s=timeout_s,
            )
            await asyncio.wait_for(waiting, 20)

    asyncio.run(main())
    return [request for request in seen if request]


@pytest.mark.usefixtures("http_client")
def test_a_nonce_goes_round_with_the_token() -> None:
    (request,) = outcome(nonce, app=True, timeout_s=10)[:1]

    assert b"x-synthtunnel-worker-token: wt_1\r\n" in request.lower()


@pytest.mark.usefixtures("http_client")
def test_without_a_token_where_none_is_needed() -> None:
    (request,) = outcome(nonce, token=None, timeout_s=10)[:1]

    assert b"worker-token" not in request.lower()


@pytest.mark.usefixtures("http_client")
@pytest.mark.parametrize(
    ("relay", "part"),
    [
        (answer(503, '{"code": "AGENT_OFFLINE"}'), "the agent is not attached to the relay"),
        (answer(503), "the public URL answers 503"),
        (answer(401), "does not accept the worker token"),
        (answer(404), "does not know the lease any more (404)"),
        (answer(200, "Welcome"), "something else answers at the public URL"),
        (lambda request: b"SSH-2.0\r\n\r\n", "the public URL cannot be reached"),
        (lambda request: b"", "the public URL cannot be reached"),
    ],
)
def test_the_missing_link_is_named(relay: Answer, part: str) -> None:
    with pytest.raises(KeeperRequestError, match=r"is not ready after 1 s") as caught:
        outcome(relay)

    assert part in caught.value.message
    assert caught.value.code == "TUNNEL_NOT_READY"


def test_an_app_that_does_not_listen() -> None:
    with pytest.raises(KeeperRequestError, match=r"the app does not listen on 127\.0\.0\.1:9"):
        outcome(nonce, app=False)


def test_it_becomes_ready_while_we_wait() -> None:
    answers = iter([answer(503), answer(404), nonce])

    assert len(outcome(lambda request: next(answers)(request), app=True, timeout_s=10)) == 3


def test_nobody_listens_at_the_public_url() -> None:
    waiting = wait_ready(
        public_url="http://127.0.0.1:9/s/rt_1",
        headers={},
        is_secret=True,
        missing_link=lambda: None,
        target=None,
        timeout_s=0.1,
    )
    with pytest.raises(KeeperRequestError, match="cannot be reached"):
        asyncio.run(waiting)


def test_a_machine_without_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(readiness, "get", refuse)

    with pytest.raises(KeeperRequestError, match=r"Network is unreachable\. .* loopback interface"):
        outcome(nonce)


def test_a_link_that_is_known_to_be_missing_is_named_first() -> None:
    waiting = wait_ready(
        public_url="http://127.0.0.1:9/m/r_secret",
        headers={},
        is_secret=True,
        missing_link=lambda: "the connector is not connected",
        target=None,
        timeout_s=0.1,
    )
    with pytest.raises(KeeperRequestError, match="the connector is not connected") as caught:
        asyncio.run(waiting)
    # Where no token is asked for, the URL's path is the secret.
    assert "r_secret" not in str(caught.value)


def test_the_public_host_need_not_resolve_here() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(200, seen[-1].split()[1].decode().rpartition("/")[2])(seen[-1]))
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await wait_ready(
                public_url=f"http://host.invalid:{port}/u_1",
                loopback_url=f"http://127.0.0.1:{port}/u_1",
                headers={},
                is_secret=True,
                missing_link=lambda: None,
                target=None,
                timeout_s=10,
            )

    asyncio.run(main())
    assert seen[0].startswith(b"GET /u_1/__synth/nonce/")
    assert b"\r\nHost: host.invalid:" in seen[0]


def test_a_name_that_does_not_resolve() -> None:
    waiting = wait_ready(
        public_url="https://demo.invalid/m/r_1",
        headers={},
        is_secret=True,
        missing_link=lambda: None,
        target=None,
        timeout_s=0.1,
    )
    with pytest.raises(KeeperRequestError, match=r"demo\.invalid does not resolve yet \(DNS\)"):
        asyncio.run(waiting)
