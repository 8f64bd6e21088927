"""What is recorded of real traffic, at the agent and at the relay, and that it delays nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from pytest_synth_tunnels.agent import forwarded_request
from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.traffic.exchange import InboundRequest
from pytest_synth_tunnels.traffic.log import TrafficLog
from pytest_synth_tunnels.traffic.place import NOWHERE, Place
from pytest_synth_tunnels.traffic.recorder import Recorder

from ..support.live_tunnels import Lease, Tunnels, statuses

App = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

both_links = pytest.mark.parametrize("websocket", [False, True])


class Recorded:
    """Tunnels whose traffic is recorded."""

    def __init__(self, tunnels: Tunnels, recorder: Recorder) -> None:
        self.tunnels = tunnels
        self.recorder = recorder
        self.agents: list[Agent] = []

    @property
    def requests(self) -> list[InboundRequest]:
        for record in list(self.recorder.sources):
            record()
        found = [msgspec.json.decode(msgspec.json.encode(r.data())) for r in self.recorder.log]
        return [InboundRequest.from_data(data) for data in found]

    async def until(self, is_right: Callable[[InboundRequest], bool]) -> InboundRequest:
        """Wait until the latest request is in a state."""
        changed = asyncio.Event()
        places = dict.fromkeys((Place(self.lease_id, ""), NOWHERE), 0.0)
        watch, _ = self.recorder.watch(places, lambda _: changed.set())
        try:
            while not (self.requests and is_right(self.requests[-1])):
                changed.clear()
                await changed.wait()
        finally:
            watch.close()
        return self.requests[-1]

    async def serve(self, app: App, *, websocket: bool) -> Lease:
        """Run an app of the test's own behind a lease."""

        async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await app(reader, writer)
            finally:
                writer.close()

        port = await self.tunnels.listen(closing)
        lease = self.tunnels.lease(port)
        await self.attach(lease, port, websocket=websocket)
        return lease

    async def attach(self, lease: Lease, port: int, *, websocket: bool) -> None:
        self.lease_id = lease.id
        self.recorder.log.know(Place(lease.id, ""))
        self.agents.append(await self.tunnels.attach(lease, {"": port}, websocket=websocket))


def run(scenario: Callable[[Recorded], Awaitable[None]], *, body_bytes: int = 65_536) -> None:
    async def main() -> None:
        recorder = Recorder(TrafficLog(), body_bytes=body_bytes)
        async with asyncio.timeout(30), Tunnels(recorder=recorder) as tunnels:
            await scenario(Recorded(tunnels, recorder))
        assert not recorder.sources

    asyncio.run(main())


async def lease_of_app(recorded: Recorded, *, websocket: bool) -> Lease:
    app = await recorded.tunnels.app("app")
    lease = recorded.tunnels.lease(app.port)
    await recorded.attach(lease, app.port, websocket=websocket)
    return lease


@both_links
def test_a_whole_request(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        lease = await lease_of_app(recorded, websocket=websocket)
        assert statuses(await recorded.tunnels.send(lease.get("/a?b=1", close=True))) == [200]
        (request,) = recorded.requests
        assert (request.method, request.path, request.query_string) == ("GET", "/a", "b=1")
        assert request.answered_by == "app"
        assert request.app_has_answered
        assert request.response.text == "app /a?b=1"
        assert request.client == "127.0.0.1"
        assert lease.worker_token not in str(request.to_data())
        assert 0 < request.response.duration_s < 10

    run(scenario)


@both_links
def test_bodies_in_pieces_and_long_ones(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        lease = await lease_of_app(recorded, websocket=websocket)
        head = lease.get("/", close=True).replace(b"GET", b"POST", 1)[:-2]
        long = b"x" * 200_000
        body = b"5\r\nhello\r\n" + b"%x\r\n%b\r\n" % (len(long), long) + b"0\r\n\r\n"
        answer = await recorded.tunnels.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert statuses(answer) == [200]
        (request,) = recorded.requests
        assert request.size_bytes == 200_005
        assert request.truncated
        assert request.body == (b"hello" + long)[:1000]
        assert request.response.text == "app /"

    run(scenario, body_bytes=1000)


@both_links
def test_a_stream_is_seen_while_it_goes_on(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        go_on = asyncio.Event()

        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await go_on.wait()
            writer.write(b"data: 2\n\n")
            writer.close()

        lease = await recorded.serve(app, websocket=websocket)
        reader, writer = await asyncio.open_connection("127.0.0.1", recorded.tunnels.port)
        writer.write(lease.get("/events", close=True))
        await reader.readuntil(b"data: 1")  # it came through without waiting for the rest
        request = await recorded.until(lambda r: r.answered and bool(r.response.body))
        assert request.received
        assert not request.app_has_answered
        assert not request.response.complete
        go_on.set()
        await reader.read()
        writer.close()
        request = await recorded.until(lambda r: r.over)
        assert request.response.text == "data: 1\n\ndata: 2\n\n"
        assert request.response.complete

    run(scenario)


@both_links
def test_a_request_that_waits_for_its_answer_is_seen(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        go_on = asyncio.Event()

        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await go_on.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        lease = await recorded.serve(app, websocket=websocket)
        asking = asyncio.create_task(recorded.tunnels.send(lease.get("/slow", close=True)))
        request = await recorded.until(lambda r: r.received)
        assert request.answered_by is None
        assert len(recorded.requests) == 1
        go_on.set()
        assert statuses(await asking) == [204]
        assert recorded.requests[0].response.status == 204
        assert len(recorded.requests) == 1

    run(scenario)


@both_links
def test_a_caller_that_goes_away(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        lease = await recorded.serve(app, websocket=websocket)
        _, writer = await asyncio.open_connection("127.0.0.1", recorded.tunnels.port)
        writer.write(lease.get("/"))
        await recorded.until(lambda r: r.received)
        writer.transport.abort()
        request = await recorded.until(lambda r: r.over)
        assert request.error == "the caller went away"
        assert request.answered_by is None

    run(scenario)


@both_links
def test_an_app_that_breaks_its_answer_off(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            await writer.drain()
            writer.close()

        lease = await recorded.serve(app, websocket=websocket)
        await recorded.tunnels.send(lease.get("/"))
        (request,) = recorded.requests
        assert (request.answered_by, request.response.status) == ("app", 200)
        assert not request.response.complete
        assert request.error

    run(scenario)


AT_ONCE = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]
IN_TWO_PIECES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
    b"ok",
]


class LeavingApp:
    """An app that answers from the head of a request, and leaves."""

    def __init__(self, answer: list[bytes]) -> None:
        self._answer = answer
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in self._answer:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        self.left.set()


async def answered_from_the_head(
    recorded: Recorded, app: LeavingApp, *headers: str, websocket: bool, close: bool = True
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return the connection of a caller that has sent the head of a POST alone, to an app that has
    answered it and left."""
    lease = await recorded.serve(app, websocket=websocket)
    reader, writer = await asyncio.open_connection("127.0.0.1", recorded.tunnels.port)
    head = lease.get("/hook", close=close).replace(b"GET", b"POST", 1)[:-2]
    writer.write(head + "".join(f"{header}\r\n" for header in headers).encode() + b"\r\n")
    assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 ")
    await app.left.wait()
    return reader, writer


@both_links
@pytest.mark.parametrize(
    ("answer", "close"),
    [
        pytest.param(AT_ONCE, True, id="at once"),
        pytest.param(IN_TWO_PIECES, True, id="in two pieces"),
        pytest.param(IN_TWO_PIECES, False, id="the app has said that it leaves"),
    ],
)
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 5", [b"he", b"llo"]),
        ("Transfer-Encoding: chunked", [b"5\r\nhello\r\n", b"0\r\n\r\n"]),
    ],
)
def test_a_body_that_comes_when_the_app_has_answered_and_left(
    websocket: bool, answer: list[bytes], close: bool, framing: str, body: list[bytes]
) -> None:
    """Head and body are two writes of most callers, and an app that does not care for the body may
    be faster than the second one."""

    async def scenario(recorded: Recorded) -> None:
        reader, writer = await answered_from_the_head(
            recorded, LeavingApp(answer), framing, websocket=websocket, close=close
        )
        for piece in body:
            writer.write(piece)
            await writer.drain()
        request = await recorded.until(lambda r: r.received)
        assert (request.body, request.error) == (b"hello", "")
        request = await recorded.until(lambda r: r.over)
        assert (request.response.text, request.response.complete) == ("ok", True)
        assert await reader.read() == b""
        writer.close()

    run(scenario)


@both_links
@pytest.mark.parametrize("answer", [AT_ONCE, IN_TWO_PIECES], ids=["at once", "in two pieces"])
@pytest.mark.parametrize(
    ("framing", "hear_out_s"),
    [
        pytest.param(["Content-Length: 5"], 0.01, id="in time"),
        pytest.param(["Content-Length: 1000000"], inf, id="short"),
        pytest.param(["Content-Length: 5", "Expect: 100-continue"], inf, id="asked for"),
    ],
)
def test_a_body_that_does_not_come_keeps_no_caller_waiting(
    monkeypatch: pytest.MonkeyPatch,
    websocket: bool,
    answer: list[bytes],
    framing: list[str],
    hear_out_s: float,
) -> None:
    monkeypatch.setattr(forwarded_request, "HEAR_OUT_S", hear_out_s)

    async def scenario(recorded: Recorded) -> None:
        reader, writer = await answered_from_the_head(
            recorded, LeavingApp(answer), *framing, websocket=websocket
        )
        assert await reader.read() == b""
        writer.close()
        request = await recorded.until(lambda r: r.over)
        assert (request.received, request.error) == (False, "")
        assert (request.response.text, request.response.complete) == ("ok", True)

    run(scenario)


@both_links
def test_an_endless_body_is_not_heard_out(monkeypatch: pytest.MonkeyPatch, websocket: bool) -> None:
    monkeypatch.setattr(forwarded_request, "HEAR_OUT_S", inf)

    async def scenario(recorded: Recorded) -> None:
        reader, writer = await answered_from_the_head(
            recorded,
            LeavingApp(AT_ONCE),
            "Transfer-Encoding: chunked",
            websocket=websocket,
        )
        writer.write(b"20000\r\n" + bytes(0x20000))
        assert await reader.read() == b""
        writer.close()
        request = await recorded.until(lambda r: r.over)
        assert (request.received, request.response.complete) == (False, True)

    run(scenario)


@both_links
def test_a_caller_that_goes_away_behind_its_answer(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        app = LeavingApp(AT_ONCE)
        _, writer = await answered_from_the_head(
            recorded, app, "Content-Length: 5", websocket=websocket
        )
        writer.transport.abort()
        request = await recorded.until(lambda r: r.over)
        assert (request.received, request.error) == (False, "")
        assert (request.response.text, request.response.complete) == ("ok", True)

    run(scenario)


@both_links
@pytest.mark.parametrize(
    ("line", "reason"),
    [("299 Quota Low", "Quota Low"), ("404 Not Found", "Not Found"), ("200 ", "")],
)
def test_the_apps_own_reason(websocket: bool, line: str, reason: str) -> None:
    async def scenario(recorded: Recorded) -> None:
        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()

        lease = await recorded.serve(app, websocket=websocket)
        await recorded.tunnels.send(lease.get("/", close=True))
        (request,) = recorded.requests
        assert request.response.reason == reason

    run(scenario)


@both_links
def test_an_odd_answer_is_the_same_whether_watched_or_not(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                writer.write(
                    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
                    b"HTTP/1.1 200 \r\nA: 1\r\nB: \xfc\r\na: 2\r\nE:\r\nKeep-Alive: 5\r\n"
                    b"Location: http://127.0.0.1:%d/x\r\nTransfer-Encoding: chunked\r\n"
                    b"Trailer: T\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n%b\r\n"
                    % (writer.get_extra_info("sockname")[1], next(trailers))
                )

        trailers = iter([b"", b"T: 1\r\n", b"", b"T: 1\r\n"])
        lease = await recorded.serve(app, websocket=websocket)
        for _ in range(2):
            assert statuses(await recorded.tunnels.send(lease.get("/", close=True)))[-1] == 200
        watch, _ = recorded.recorder.watch({Place(lease.id, ""): 0.0}, lambda _: None)
        for _ in range(2):
            await recorded.tunnels.send(lease.get("/", close=True))
        watch.close()
        requests = recorded.requests
        assert [request.over for request in requests] == [True] * 4
        response = requests[0].response
        assert (response.reason, response.body, response.size_bytes) == ("", b"abc", 3)
        assert response.headers.pairs[:4] == [("A", "1"), ("B", "\xfc"), ("a", "2"), ("E", "")]
        assert response.headers["location"] == f"{lease.public_url}/x"
        for request in requests[1:]:
            assert request.response.headers.pairs == response.headers.pairs
            assert request.response.reason == response.reason
            assert request.response.body == response.body
            assert request.response.complete

    run(scenario)


@both_links
def test_an_app_that_cannot_be_reached(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        lease = await recorded.serve(app, websocket=websocket)
        data = lease.get("/x", close=True).replace(b"GET", b"POST", 1)
        assert statuses(await recorded.tunnels.send(data)) == [502]
        (request,) = recorded.requests
        assert (request.answered_by, request.response.status) == ("tunnel", 502)
        assert request.error.startswith("TUNNEL_ENDPOINT_UNREACHABLE: ")

    run(scenario)


def test_what_the_relay_answers_itself() -> None:
    async def scenario(recorded: Recorded) -> None:
        lease = await lease_of_app(recorded, websocket=False)
        asked = [
            lease.get("/a", close=True, token="wrong"),
            lease.get("/b", close=True).replace(lease.prefix.encode(), b""),
            lease.get("/c", close=True).replace(lease.prefix.encode(), b"/s/rt_unknown"),
        ]
        got = [statuses(await recorded.tunnels.send(data)) for data in asked]
        assert got == [[401], [404], [404]]
        first, second, third = recorded.requests
        assert (first.lease_id, first.path) == (lease.id, "/a")
        assert first.error.startswith("TUNNEL_AUTH_INVALID: ")
        assert second.path == "/b"
        assert "lost the beginning" in second.error
        assert third.path == "/s/rt_unknown/c"
        assert third.error.startswith("TUNNEL_NOT_FOUND: ")
        assert [r.response.status for r in (first, second, third)] == [401, 404, 404]
        assert {r.answered_by for r in (first, second, third)} == {"tunnel"}
        assert second.lease_id == third.lease_id == ""

    run(scenario)


def test_the_control_plane_is_no_traffic() -> None:
    async def scenario(recorded: Recorded) -> None:
        data = b"GET /v1/tunnels HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert statuses(await recorded.tunnels.send(data)) == [401]
        assert recorded.requests == []

    run(scenario)


def test_each_failure_is_recorded_once() -> None:
    async def scenario(recorded: Recorded) -> None:
        lease = await lease_of_app(recorded, websocket=False)
        (served,) = recorded.agents[0].leases
        served.max_inflight = 0
        assert statuses(await recorded.tunnels.send(lease.get("/", close=True))) == [429]
        (request,) = recorded.requests
        assert (request.response.status, request.answered_by) == (429, "tunnel")
        assert request.error.startswith("TOO_MANY_IN_FLIGHT_REQUESTS")

    run(scenario)


@both_links
def test_a_websocket(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        async def echo(connection: ServerConnection) -> None:
            async for message in connection:
                await connection.send(message)

        async with serve(echo, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            lease = recorded.tunnels.lease(port)
            await recorded.attach(lease, port, websocket=websocket)
            url = lease.public_url.replace("http://", "ws://")
            token = {"X-SynthTunnel-Worker-Token": lease.worker_token}
            async with connect(f"{url}/chat?a=1", additional_headers=token) as caller:
                await caller.send("hello")
                assert await caller.recv() == "hello"
                await caller.send(b"\x00")
                assert await caller.recv() == b"\x00"
                request = await recorded.until(lambda r: len(r.messages) == 4)
                assert request.is_websocket
                assert request.app_has_answered
                assert request.response.status == 101
                assert (request.path, request.query_string) == ("/chat", "a=1")
                assert [(m.sender, m.data) for m in request.messages] == [
                    ("caller", "hello"),
                    ("app", "hello"),
                    ("caller", b"\x00"),
                    ("app", b"\x00"),
                ]
                assert not request.over
            assert (await recorded.until(lambda r: r.over)).answered_by == "app"

    run(scenario)


@both_links
def test_a_websocket_that_the_app_refuses(websocket: bool) -> None:
    async def scenario(recorded: Recorded) -> None:
        lease = await lease_of_app(recorded, websocket=websocket)
        handshake = (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        data = lease.get("/chat")[:-2] + handshake
        reader, writer = await asyncio.open_connection("127.0.0.1", recorded.tunnels.port)
        writer.write(data)
        assert b"app /chat" in await reader.readuntil(b"app /chat")
        writer.close()
        request = await recorded.until(lambda r: r.over)
        assert request.is_websocket
        assert request.app_has_answered
        assert request.response.text == "app /chat"

    run(scenario)
