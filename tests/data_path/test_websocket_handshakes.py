"""How a WebSocket is opened, and what comes instead of one, over both kinds of link."""

import asyncio
import json
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from ..support.live_websockets import (
    HANDSHAKE,
    echo,
    run,
    serving,
    tunnel_to,
    upgrade,
)


def test_subprotocols_are_the_apps_choice(kind: str) -> None:
    async def test() -> None:
        async with serving(kind, subprotocols=[Subprotocol("v2"), Subprotocol("v1")]) as tunnel:
            offer = [Subprotocol("v1"), Subprotocol("v2")]
            async with tunnel.open(subprotocols=offer) as caller:
                assert caller.subprotocol == "v2"
            with pytest.raises(InvalidStatus) as caught:
                await tunnel.open(subprotocols=[Subprotocol("other")])
            assert caught.value.response.status_code == 400
        async with serving(kind) as tunnel, tunnel.open(subprotocols=offer) as caller:
            assert caller.subprotocol is None

    run(test())


def test_the_app_sees_the_caller_and_not_the_tunnel(kind: str) -> None:
    async def tell(app: ServerConnection) -> None:
        assert app.request is not None
        headers = [(name.lower(), value) for name, value in app.request.headers.raw_items()]
        await app.send(json.dumps([app.request.path, headers]))

    def answer(app: ServerConnection, request: Request, response: Response) -> None:
        response.headers["Set-Cookie"] = "a=1"

    async def test() -> None:
        async with serving(kind, tell, process_response=answer) as tunnel:
            token = tunnel.lease["worker_token"]
            headers = {
                "X-SynthTunnel-Worker-Token": token,
                "Authorization": "Bearer the app's own",
                "Cookie": "c=1",
                "X-Forwarded-For": "6.6.6.6",
            }
            async with tunnel.open(
                "/a%2Fb//c?x=%20&y=?", additional_headers=headers, origin="https://app.test"
            ) as caller:
                assert caller.response is not None
                assert caller.response.headers["Set-Cookie"] == "a=1"
                assert "Sec-WebSocket-Extensions" not in caller.response.headers
                path, told = json.loads(await caller.recv())
            assert path == "/a%2Fb//c?x=%20&y=?"
            seen = dict(told)
            assert len(seen) == len(told)
            assert seen["host"].startswith("127.0.0.1:")
            assert seen["origin"] == "https://app.test"
            assert seen["authorization"] == "Bearer the app's own"
            assert seen["cookie"] == "c=1"
            public = urlsplit(tunnel.lease["public_url"])
            assert seen["x-forwarded-host"] == public.netloc
            assert seen["x-forwarded-prefix"] == public.path
            assert seen["x-forwarded-proto"] == "http"
            assert seen["x-forwarded-for"] == "6.6.6.6, 127.0.0.1"
            assert seen["x-synthtunnel-lease-id"] == tunnel.lease["lease_id"]
            assert seen["x-synthtunnel-request-id"]
            assert "sec-websocket-extensions" not in seen
            assert token not in json.dumps(told)
            async with tunnel.open() as caller:
                _, told = json.loads(await caller.recv())
            assert "authorization" not in dict(told)

    run(test())


def test_at_the_root_of_an_origin_the_app_sees_host_and_origin_as_they_were_sent(kind: str) -> None:
    async def tell(app: ServerConnection) -> None:
        assert app.request is not None
        headers = {name.lower(): value for name, value in app.request.headers.raw_items()}
        await app.send(json.dumps([app.request.path, headers]))

    async def test() -> None:
        async with serving(kind, tell) as tunnel:
            lease_id = tunnel.lease["lease_id"]
            origin = (await tunnel.backend.open_origin(lease_id)).public_url
            served = tunnel.agent.leases.get(lease_id)
            assert served is not None
            target = served.destinations[""].rewriter.target
            tunnel.agent.leases.set_target(lease_id, "", target, origin=origin)
            token = {"X-SynthTunnel-Worker-Token": tunnel.lease["worker_token"]}
            url = origin.replace("http://", "ws://") + "/socket.io/?EIO=4"
            async with connect(url, additional_headers=token, origin=Origin(origin)) as caller:
                path, seen = json.loads(await caller.recv())
            assert path == "/socket.io/?EIO=4"
            assert f"http://{seen['host']}" == seen["origin"] == origin
            assert "x-forwarded-prefix" not in seen
            with pytest.raises(InvalidStatus) as caught:
                await connect(url)
            assert caught.value.response.status_code == 401

    run(test())


def test_the_token_is_asked_for(kind: str) -> None:
    async def test() -> None:
        async with serving(kind) as tunnel:
            for headers in ({}, {"Authorization": "Bearer wt_wrong"}):
                with pytest.raises(InvalidStatus) as caught:
                    await tunnel.open(additional_headers=headers)
                assert caught.value.response.status_code == 401

    run(test())


@pytest.mark.parametrize(
    ("answer", "status", "headers", "body"),
    [
        (
            "HTTP/1.1 403 No\nX-Why: no\nContent-Length: 4\nConnection: X-Hop\nX-Hop: 1\n\ndont",
            403,
            {"x-why": "no", "content-length": "4", "connection": "close"},
            b"dont",
        ),
        (
            """HTTP/1.1 426 Upgrade Required
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Version: 13
Content-Length: 0

""",
            426,
            {
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "content-length": "0",
                "connection": "close",
            },
            b"",
        ),
        (
            """HTTP/1.1 103 Early Hints
Link: x

HTTP/1.1 401 No
WWW-Authenticate: Basic
Transfer-Encoding: chunked

2
ab
0

""",
            401,
            {"www-authenticate": "Basic", "content-length": "2", "connection": "close"},
            b"ab",
        ),
        (
            "HTTP/1.0 404 Not Found\nServer: old\n\nnot here",
            404,
            {"server": "old", "content-length": "8", "connection": "close"},
            b"not here",
        ),
        (
            "HTTP/1.1 307 Elsewhere\nLocation: /ws/\nContent-Length: 0\n\n",
            307,
            {"location": "{public_path}/ws/", "content-length": "0", "connection": "close"},
            b"",
        ),
    ],
    ids=["403", "426", "401-chunked", "404-http10", "307"],
)
def test_an_apps_refusal_is_passed_on(
    kind: str, answer: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.replace("\n", "\r\n").encode())
        writer.close()
        await writer.wait_closed()

    async def test() -> None:
        app = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with app, tunnel_to(kind, app.sockets[0].getsockname()[1]) as tunnel:
            got_status, got_headers, got_body = await upgrade(tunnel)
            expected = {
                name: value.format(public_path=urlsplit(tunnel.lease["public_url"]).path)
                for name, value in headers.items()
            }
            assert (got_status, got_headers, got_body) == (status, expected, body)

    run(test())


def test_an_app_that_does_not_listen_is_502(kind: str) -> None:
    async def test() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with tunnel_to(kind, port) as tunnel:
            status, _, body = await upgrade(tunnel)
            error = json.loads(body)
            assert (status, error["code"]) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
            assert f"127.0.0.1:{port}" in error["message"]

    run(test())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "without an answer"),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\nabc", "in the middle"),
        ("nonsense\n\n", "not HTTP/1.1"),
        (
            """HTTP/1.1 101 Yes
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Accept: wrong

""",
            "no WebSocket handshake",
        ),
        ("HTTP/1.1 101 Yes\n\n", "no WebSocket handshake"),
    ],
)
def test_an_app_that_breaks_off_is_502(kind: str, answer: str, words: str) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.replace("\n", "\r\n").encode())
        writer.close()
        await writer.wait_closed()

    async def test() -> None:
        app = await asyncio.start_server(break_off, "127.0.0.1", 0)
        async with app, tunnel_to(kind, app.sockets[0].getsockname()[1]) as tunnel:
            status, _, body = await upgrade(tunnel)
            assert (status, json.loads(body)["code"]) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
            assert words in json.loads(body)["message"]

    run(test())


@pytest.mark.parametrize(
    ("lines", "status", "header"),
    [
        (HANDSHAKE[:2], 400, {}),
        ((*HANDSHAKE[:3], "Sec-WebSocket-Version: 8"), 426, {"sec-websocket-version": "13"}),
    ],
)
def test_a_callers_bad_handshake_is_refused(
    kind: str, lines: list[str], status: int, header: dict[str, str]
) -> None:
    async def test() -> None:
        async with serving(kind) as tunnel:
            got, headers, body = await upgrade(tunnel, *lines)
            assert (got, json.loads(body)["code"]) == (status, "BAD_REQUEST")
            assert header.items() <= headers.items()

    run(test())


def test_an_app_that_does_not_answer_is_504(kind: str) -> None:
    async def stay_mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    async def test() -> None:
        app = await asyncio.start_server(stay_mute, "127.0.0.1", 0)
        port = app.sockets[0].getsockname()[1]
        async with app, tunnel_to(kind, port, request_timeout_s=0.1) as tunnel:
            status, _, body = await upgrade(tunnel)
            assert (status, json.loads(body)["code"]) == (504, "TUNNEL_TIMEOUT")

    run(test())


def test_an_app_that_starts_late_is_waited_for(kind: str) -> None:
    async def test() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with tunnel_to(kind, port, patience_s=5) as tunnel:
            opening = asyncio.ensure_future(tunnel.open())
            await asyncio.sleep(0.02)
            async with serve(echo, "127.0.0.1", port), await opening as caller:
                await caller.send("late")
                assert await caller.recv() == "late"

    run(test())
