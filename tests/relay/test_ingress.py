"""From a caller's bytes to frames and back: without sockets and with real ones."""

import asyncio
import http.client
import json
import socket
import threading

import msgspec
import pytest

from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.wire.frames import (
    MAX_WHOLE_BYTES,
    WINDOW_BYTES,
    AgentCapabilities,
    Attach,
    AttachAck,
    AttachLease,
    Cancel,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
)
from pytest_synth_tunnels.wire.link import memory_links

TOKEN = "Authorization: Bearer wt_1"


class Agent:
    """The far end of a link. It answers inside ``send`` if it has an ``answer``."""

    def __init__(self, relay, answer=None, **capabilities):
        inner, self.link = memory_links()
        self.session = inner.handler = relay.session(inner, "at_1")
        self.link.handler = self
        self.frames = []
        self.answer = answer
        capabilities.setdefault("flow_control", True)
        self.link.send(Attach([AttachLease("l1")], capabilities=AgentCapabilities(**capabilities)))
        assert isinstance(self.frames.pop(), AttachAck)

    def frame_received(self, frame):
        self.frames.append(frame)
        if self.answer is not None:
            self.answer(frame, self.link.send)

    def link_lost(self, reason):
        self.frames.append(reason)

    def take(self, kind):
        """Return the next frame, which must be of this kind."""
        frame = self.frames.pop(0)
        assert isinstance(frame, kind), frame
        return frame

    def send(self, *frames):
        for frame in frames:
            self.link.send(frame)


class World:
    """A relay with a lease, an agent and one caller's connection."""

    def __init__(self, loop, wire, *, agent=True, flow_control=True, **options):
        self.loop = loop
        self.wire = wire
        self.time = 5000.0
        self.relay = Relay(loop=loop, now=lambda: self.time, request_timeout_s=30)
        self.route = Route(
            lease_id="l1",
            route_token="rt_1",
            agent_token="at_1",
            worker_token="wt_1",
            public_base_url="http://127.0.0.1:8787",
            **options,
        )
        self.relay.add(self.route)
        self.server = HttpServer(Ingress(self.relay), loop=loop)
        self.connection = self.connect(wire)
        if agent:
            self.agent = Agent(self.relay, flow_control=flow_control)

    def connect(self, wire):
        connection = self.server()
        connection.connection_made(wire)
        return connection

    def ask(self, method="GET", path="/s/rt_1/x", *lines, body=b"", token=TOKEN):
        """Send a request and return its first frame, if it got that far."""
        lines = [f"{method} {path} HTTP/1.1", "Host: relay.test:80", token, *lines]
        text = "".join(f"{line}\r\n" for line in lines if line)
        self.connection.data_received(text.encode("latin-1") + b"\r\n" + body)
        frames = self.agent.frames if hasattr(self, "agent") else []
        return frames.pop(0) if frames else None

    def answer(self):
        """Return what the caller gets at the end of this tick."""
        self.loop.tick()
        return self.wire.take()

    def error(self, status):
        """Return the error the caller gets."""
        head, _, body = self.answer().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert b"application/json" in head
        error = json.loads(body)
        assert error.keys() == {"code", "detail", "message", "request_id"}
        assert error["request_id"]
        assert b"wt_1" not in body
        return error

    def assert_nothing_under_way(self):
        assert self.route.inflight == 0
        assert not self.agent.session.requests
        assert len(self.relay.deadlines) == 0


@pytest.fixture
def world(loop, wire):
    return World(loop, wire)


# What reaches the agent.


def test_a_request_becomes_frames(world):
    frame = world.ask("GET", "/s/rt_1/a%2Fb//c?x=%20&y=?", "Cookie: a", "Cookie: b", "X-A: é")
    assert isinstance(frame, ReqHeaders)
    assert (frame.lease_id, frame.method) == ("l1", "GET")
    assert (frame.path, frame.query) == ("/a%2Fb//c", "x=%20&y=?")
    assert frame.deadline_ms == 30_000
    assert frame.headers == [
        ("Cookie", "a"),
        ("Cookie", "b"),
        ("X-A", "é"),
        ("x-forwarded-prefix", "/s/rt_1"),
        ("x-synthtunnel-lease-id", "l1"),
        ("x-synthtunnel-request-id", frame.rid),
        ("x-forwarded-host", "relay.test:80"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "192.0.2.7"),
    ]
    end = world.agent.take(ReqEnd)
    assert (end.rid, end.lease_id) == (frame.rid, "l1")
    assert world.agent.frames == []
    assert world.route.inflight == 1


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/s/rt_1", ("/", "")),
        ("/s/rt_1?q", ("/", "q")),
        ("/s/rt_1/", ("/", "")),
        ("/s/rt_1//", ("//", "")),
        ("/s/rt_1/../../v1/tunnels", ("/../../v1/tunnels", "")),
        ("/s/rt_1/~gw1/x", ("/~gw1/x", "")),
        ("/s/rt_1/s/rt_1/", ("/s/rt_1/", "")),
    ],
)
def test_paths(world, path, seen):
    frame = world.ask("GET", path)
    assert (frame.path, frame.query) == seen


def test_bodies_of_both_kinds_are_streamed(world):
    frame = world.ask("POST", "/s/rt_1/x", "Content-Length: 5", body=b"he")
    assert ("Content-Length", "5") in frame.headers
    assert world.agent.take(ReqBody).chunk == b"he"
    assert world.agent.frames == []
    world.connection.data_received(b"llo")
    assert world.agent.take(ReqBody).chunk == b"llo"
    world.agent.take(ReqEnd)
    world.agent.send(RespHeaders(frame.rid, 200, []), RespEnd(frame.rid))
    frame = world.ask(
        "POST", "/s/rt_1/x", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\nT: 1\r\n\r\n"
    )
    assert not {"content-length", "transfer-encoding"} & {name.lower() for name, _ in frame.headers}
    body = world.agent.take(ReqBody)
    assert (body.chunk, body.rid, body.lease_id) == (b"hi", frame.rid, "l1")
    world.agent.take(ReqEnd)


def test_expect_continue(world):
    frame = world.ask("PUT", "/s/rt_1/x", "Content-Length: 2", "Expect: 100-continue")
    assert "expect" not in {name.lower() for name, _ in frame.headers}
    assert world.answer() == b"HTTP/1.1 100 Continue\r\n\r\n"
    world.connection.data_received(b"ok")
    assert world.agent.take(ReqBody).chunk == b"ok"


def test_a_refused_body_is_not_asked_for(world):
    world.ask("PUT", "/s/rt_1/x", "Content-Length: 2", "Expect: 100-continue", token="")
    answer = world.answer()
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"Connection: close" in answer


# What reaches the caller.


def test_an_answer_becomes_one_write(world):
    rid = world.ask().rid
    world.agent.send(
        RespHeaders(
            rid,
            207,
            [
                ("Content-Length", "4"),
                ("Connection", "close, X-Gone"),
                ("X-Gone", "1"),
                ("Transfer-Encoding", "chunked"),
                ("Set-Cookie", "a"),
                ("set-cookie", "b"),
            ],
        ),
        RespBody(rid, b"da"),
        RespBody(rid, b"ta"),
        RespEnd(rid),
    )
    assert world.answer() == (
        b"HTTP/1.1 207 Multi-Status\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
        b"Content-Length: 4\r\n\r\ndata"
    )
    assert world.wire.writes == 1
    assert not world.wire.closed
    world.assert_nothing_under_way()


def test_an_answer_of_unknown_length_is_chunked(world):
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, []))
    assert world.answer().endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    world.agent.send(RespBody(rid, b"event"))
    assert world.answer() == b"5\r\nevent\r\n"
    world.agent.send(RespEnd(rid))
    assert world.answer() == b"0\r\n\r\n"
    world.assert_nothing_under_way()


def test_head_keeps_the_apps_length(world):
    rid = world.ask("HEAD").rid
    world.agent.send(RespHeaders(rid, 200, [("content-length", "99")]), RespEnd(rid))
    assert world.answer() == b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    world.assert_nothing_under_way()


def test_an_agent_that_answers_inside_send(world):
    def answer(frame, send):
        if isinstance(frame, ReqHeaders):
            send(RespHeaders(frame.rid, 200, [("Content-Length", "2")]))
            send(RespBody(frame.rid, b"ok"))
            send(RespEnd(frame.rid))

    world.agent.answer = answer
    request = f"GET /s/rt_1/ HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n\r\n".encode()
    world.connection.data_received(request * 50)
    assert world.answer().count(b"\r\n\r\nok") == 50
    assert not world.wire.closed
    world.assert_nothing_under_way()


def test_an_answer_before_the_body_ends_cancels_the_rest(world):
    rid = world.ask("POST", "/s/rt_1/", "Content-Length: 9", body=b"x").rid
    world.agent.take(ReqBody)
    world.agent.send(RespHeaders(rid, 413, [("Content-Length", "0")]), RespEnd(rid))
    assert world.agent.take(Cancel).rid == rid
    answer = world.answer()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in answer
    world.connection.data_received(b"x" * 8)
    assert world.agent.frames == []
    world.assert_nothing_under_way()


# Refusals.


def test_no_such_route(world):
    for path in ("/s/rt_2/x", "/s/", "/s//x", "/s/rt_1%2f/x", "/s/RT_1/"):
        assert world.ask("GET", path) is None
        assert world.error(404)["code"] == "TUNNEL_NOT_FOUND"


def test_no_token_and_a_wrong_one(world):
    assert world.ask(token="") is None
    assert world.error(401)["code"] == "TUNNEL_AUTH_REQUIRED"
    assert world.ask(token="Authorization: Bearer wt_2") is None
    assert world.error(401)["code"] == "TUNNEL_AUTH_INVALID"


def test_authentication_comes_before_everything_else_of_the_lease(loop, wire):
    world = World(loop, wire, agent=False)
    world.ask(token="")
    world.error(401)


def test_closed_and_expired(world):
    world.time = world.route.expires_at = 6000.0
    world.ask()
    error = world.error(410)
    assert error["code"] == "TUNNEL_LEASE_EXPIRED"
    assert "lease_expired" in error["detail"]
    assert "expired" in error["message"]


def test_agent_offline(loop, wire):
    world = World(loop, wire, agent=False, limits=Limits(hold_s=0))
    world.ask()
    error = world.error(503)
    assert error["code"] == "AGENT_OFFLINE"
    assert "agent_offline" in error["detail"]
    assert world.route.inflight == 0


def test_too_many_in_flight(loop, wire):
    world = World(loop, wire, limits=Limits(max_inflight=1))
    frame = world.ask()
    world.agent.take(ReqEnd)
    other = type(wire)()
    world.connection, world.wire = world.connect(other), other
    assert world.ask() is None
    assert world.error(429)["code"] == "TUNNEL_CAPACITY_EXCEEDED"
    world.agent.send(RespHeaders(frame.rid, 200, []), RespEnd(frame.rid))
    assert isinstance(world.ask(), ReqHeaders)


def test_a_request_body_too_large_by_its_length(loop, wire):
    world = World(loop, wire, limits=Limits(max_request_bytes=10))
    assert world.ask("POST", "/s/rt_1/", "Content-Length: 11") is None
    assert world.error(413)["code"] == "TUNNEL_PAYLOAD_TOO_LARGE"


def test_a_request_body_too_large_as_it_comes(loop, wire):
    world = World(loop, wire, limits=Limits(max_request_bytes=10))
    world.ask("POST", "/s/rt_1/", "Transfer-Encoding: chunked", body=b"a\r\n0123456789\r\n")
    world.agent.take(ReqBody)
    world.connection.data_received(b"1\r\nx\r\n")
    assert world.error(413)["code"] == "TUNNEL_PAYLOAD_TOO_LARGE"
    world.agent.take(Cancel)
    world.assert_nothing_under_way()


def test_a_response_body_too_large(loop, wire):
    world = World(loop, wire, limits=Limits(max_response_bytes=10))
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, [("Content-Length", "11")]))
    assert world.error(413)["code"] == "TUNNEL_PAYLOAD_TOO_LARGE"
    world.assert_nothing_under_way()


def test_a_response_body_too_large_as_it_comes(loop, wire):
    world = World(loop, wire, limits=Limits(max_response_bytes=10))
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, []), RespBody(rid, b"x" * 11))
    assert not world.answer().endswith(b"0\r\n\r\n")
    assert world.wire.closed
    world.assert_nothing_under_way()


# Failures.


@pytest.mark.parametrize(
    ("code", "status", "public"),
    [
        ("LOCAL_CONNECT_FAILED", 502, "TUNNEL_ENDPOINT_UNREACHABLE"),
        ("LOCAL_BAD_RESPONSE", 502, "TUNNEL_ENDPOINT_UNREACHABLE"),
        ("ANYTHING", 502, "TUNNEL_ENDPOINT_UNREACHABLE"),
        ("REQUEST_BODY_TOO_LARGE", 413, "TUNNEL_PAYLOAD_TOO_LARGE"),
        ("TOO_MANY_IN_FLIGHT_REQUESTS", 429, "TUNNEL_CAPACITY_EXCEEDED"),
        ("TOO_MANY_ACTIVE_REQUESTS", 429, "TUNNEL_CAPACITY_EXCEEDED"),
    ],
)
def test_the_agents_errors(world, code, status, public):
    rid = world.ask().rid
    world.agent.send(RespError(rid, code, "127.0.0.1:9 refused"))
    error = world.error(status)
    assert error["code"] == public
    assert "127.0.0.1:9" in error["message"]
    assert code in error["detail"]
    world.assert_nothing_under_way()


def test_an_error_after_the_head_cuts_the_answer_off(world):
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, []), RespBody(rid, b"part"), RespError(rid, "BROKE"))
    answer = world.answer()
    assert answer.endswith(b"4\r\npart\r\n")
    assert world.wire.closed
    world.assert_nothing_under_way()


def test_a_lost_agent(world):
    world.ask("POST")
    world.agent.link.close()
    error = world.error(502)
    assert error["code"] == "AGENT_LOST"
    assert "agent_offline" in error["detail"]
    world.assert_nothing_under_way()


def test_a_lost_agent_in_the_middle_of_an_answer(world):
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, [("Content-Length", "9")]), RespBody(rid, b"part"))
    world.agent.link.close()
    assert world.answer().endswith(b"part")
    assert world.wire.closed
    world.assert_nothing_under_way()


def test_closing_the_lease_under_a_request(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.relay.close("l1", "it was closed")
    assert world.error(410)["code"] == "TUNNEL_LEASE_EXPIRED"
    assert world.agent.take(Cancel).rid == rid


@pytest.mark.parametrize(
    "frames",
    [
        [RespBody("", b"x")],
        [RespEnd("")],
        [RespHeaders("", 101, [])],
        [RespHeaders("", 200, [("A", "1\r\nB: 2")])],
        [RespHeaders("", 200, [("Content-Length", "x")])],
        [RespHeaders("", 200, [("Content-Length", "1"), ("Content-Length", "2")])],
    ],
)
def test_answers_that_are_none(world, frames):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    for frame in frames:
        world.agent.send(msgspec.structs.replace(frame, rid=rid))
    assert world.error(502)["code"] == "TUNNEL_ENDPOINT_UNREACHABLE"
    world.agent.take(Cancel)
    world.assert_nothing_under_way()


def test_an_answer_of_another_length_than_announced(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.agent.send(RespHeaders(rid, 200, [("Content-Length", "2")]), RespBody(rid, b"long"))
    assert world.agent.take(Cancel).rid == rid
    assert world.wire.closed
    world.assert_nothing_under_way()


def test_late_and_double_frames_are_dropped(world):
    rid = world.ask().rid
    answer = [RespHeaders(rid, 200, [("Content-Length", "0")]), RespEnd(rid)]
    world.agent.send(answer[0], answer[0], answer[1])
    assert world.answer().count(b"HTTP/1.1") == 1
    world.agent.send(*answer, RespBody(rid, b"x"), RespError(rid, "X"), Window(rid, 1))
    assert world.answer() == b""
    assert not world.wire.closed


def test_a_caller_that_vanishes(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.connection.connection_lost(None)
    assert world.agent.take(Cancel).rid == rid
    world.assert_nothing_under_way()
    world.agent.send(RespHeaders(rid, 200, []), RespEnd(rid))
    assert world.agent.frames == []


# Time.


def test_the_deadline(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.loop.advance(29.9)
    assert world.answer() == b""
    world.loop.advance(0.2)
    error = world.error(504)
    assert error["code"] == "TUNNEL_TIMEOUT"
    assert "timed out" in error["detail"]
    assert world.agent.take(Cancel).rid == rid
    world.assert_nothing_under_way()
    assert not world.wire.closed


def test_the_deadline_counts_from_the_last_piece_of_the_request(world):
    rid = world.ask("POST", "/s/rt_1/", "Content-Length: 4").rid
    for _ in range(4):
        world.loop.advance(20)
        world.connection.data_received(b"x")
    world.loop.advance(29)
    world.agent.send(RespHeaders(rid, 200, []))
    assert world.answer().startswith(b"HTTP/1.1 200")


def test_an_answer_may_pause_but_not_for_ever(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.agent.send(RespHeaders(rid, 200, []))
    for _ in range(3):
        world.loop.advance(299)
        world.agent.send(RespBody(rid, b"x"))
    assert not world.wire.closed
    world.loop.advance(601)
    assert not world.answer().endswith(b"0\r\n\r\n")
    assert world.wire.closed
    world.agent.take(Cancel)
    world.assert_nothing_under_way()


# Flow control.


def test_a_request_body_waits_for_the_agent(world):
    rid = world.ask("POST", "/s/rt_1/", f"Content-Length: {4 * WINDOW_BYTES}").rid
    world.connection.data_received(b"x" * (WINDOW_BYTES - 1))
    assert world.wire.reading
    world.connection.data_received(b"xy")
    assert not world.wire.reading
    world.agent.send(Window(rid, 1), Window(rid, -5), Window(rid, 0))
    assert not world.wire.reading
    world.agent.send(Window(rid, WINDOW_BYTES))
    assert world.wire.reading


def test_the_links_pause_and_the_window_are_both_respected(world):
    rid = world.ask("POST", "/s/rt_1/", f"Content-Length: {4 * WINDOW_BYTES}").rid
    world.agent.session.pause_writing()
    assert not world.wire.reading
    world.agent.send(Window(rid, 1))
    assert not world.wire.reading
    world.connection.data_received(b"x" * (WINDOW_BYTES + 1))
    world.agent.session.resume_writing()
    assert not world.wire.reading
    world.agent.send(Window(rid, WINDOW_BYTES))
    assert world.wire.reading


def test_a_request_that_comes_while_the_link_is_full_waits(world):
    world.agent.session.pause_writing()
    assert world.ask("POST", "/s/rt_1/", "Content-Length: 10")
    assert not world.wire.reading
    world.agent.session.resume_writing()
    assert world.wire.reading


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_what_comes_with_the_head_waits_for_a_full_link_too(world, framing):
    body = b"0123456789" if "Length" in framing else b"a\r\n0123456789\r\n0\r\n\r\n"
    world.agent.session.pause_writing()
    assert world.ask("POST", "/s/rt_1/", framing, body=body)
    world.loop.advance(20)
    assert world.agent.frames == []
    world.agent.session.resume_writing()
    assert world.agent.take(ReqBody).chunk == b"0123456789"
    world.agent.take(ReqEnd)


def test_what_the_caller_has_read_is_told_to_the_agent(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    chunk = b"x" * (WINDOW_BYTES // 4)
    world.agent.send(RespHeaders(rid, 200, []), RespBody(rid, chunk))
    assert world.agent.frames == []
    world.agent.send(RespBody(rid, chunk))
    window = world.agent.take(Window)
    assert (window.rid, window.credit_bytes, window.lease_id) == (rid, WINDOW_BYTES // 2, "l1")
    world.connection.pause_writing()
    world.agent.send(*[RespBody(rid, chunk)] * 4)
    assert world.agent.frames == []
    world.connection.resume_writing()
    assert world.agent.take(Window).credit_bytes == WINDOW_BYTES
    world.agent.send(RespBody(rid, chunk), RespEnd(rid))
    assert world.agent.frames == []


class PausingLink:
    """A link to an agent without windows."""

    def __init__(self):
        self.sent = []
        self.reading = True

    def send(self, frame, *, at_once=False):
        self.sent.append(frame)

    def close(self, code=1000, reason=""):
        self.sent.append(code)

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


@pytest.fixture
def plain(loop, wire):
    """A world whose agent knows no windows."""
    world = World(loop, wire, agent=False)
    world.link = PausingLink()
    world.session = world.relay.session(world.link, "at_1")
    world.session.frame_received(Attach([AttachLease("l1")]))
    return world


def test_without_windows_a_body_is_not_counted(plain):
    plain.ask("POST", "/s/rt_1/", f"Content-Length: {4 * WINDOW_BYTES}")
    plain.connection.data_received(b"x" * 2 * WINDOW_BYTES)
    assert plain.wire.reading


def test_without_windows_a_slow_caller_pauses_the_link_then_is_cut(plain):
    plain.ask()
    rid = plain.link.sent[-1].rid
    chunk = RespBody(rid, b"x" * WINDOW_BYTES)
    plain.session.frame_received(RespHeaders(rid, 200, []))
    plain.connection.pause_writing()
    plain.session.frame_received(chunk)
    assert plain.link.reading
    plain.session.frame_received(chunk)
    assert not plain.link.reading
    plain.connection.resume_writing()
    assert plain.link.reading
    plain.connection.pause_writing()
    plain.session.frame_received(chunk)
    plain.session.frame_received(chunk)
    assert not plain.link.reading
    plain.loop.advance(10.1)
    assert plain.link.reading
    assert plain.wire.closed
    assert isinstance(plain.link.sent[-1], Cancel)
    assert plain.route.inflight == 0
    assert not any(isinstance(frame, Window) for frame in plain.link.sent)


# Over sockets.


def serve(scenario, answer):
    """Run ``scenario(port, agent, route)`` in a thread against a listening relay."""

    async def main():
        loop = asyncio.get_running_loop()
        relay = Relay(loop=loop, request_timeout_s=5)
        route = Route(lease_id="l1", route_token="rt_1", agent_token="at_1", worker_token="wt_1")
        relay.add(route)
        agent = Agent(relay, answer=answer)
        http_server = HttpServer(Ingress(relay), loop=loop)
        listening = await loop.create_server(http_server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(20):
                return await asyncio.to_thread(scenario, port, agent, route)
        finally:
            listening.close()
            relay.shut_down()
            http_server.close()
            await asyncio.sleep(0)

    return asyncio.run(main())


class Echo:
    """Sends every request's body back as it comes, giving credit for what it takes."""

    def __call__(self, frame, send):
        if isinstance(frame, ReqHeaders):
            send(RespHeaders(frame.rid, 200, [("X-Path", frame.path)]))
        elif isinstance(frame, ReqBody):
            send(Window(frame.rid, len(frame.chunk)))
            send(RespBody(frame.rid, frame.chunk))
        elif isinstance(frame, ReqEnd):
            send(RespEnd(frame.rid))


HEADERS = {"X-SynthTunnel-Worker-Token": "wt_1"}


def test_an_ordinary_client():
    def scenario(port, agent, route):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for number in range(20):
            body = b"%d" % number * 3000
            connection.request("POST", f"/s/rt_1/{number}", body, HEADERS)
            answer = connection.getresponse()
            assert answer.getheader("X-Path") == f"/{number}"
            assert answer.read() == body
        connection.close()
        return route.inflight

    assert serve(scenario, Echo()) == 0


def test_large_bodies_both_ways():
    size = 8 * 1024 * 1024

    def scenario(port, agent, route):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/s/rt_1/", bytes(size), HEADERS)
        length = len(connection.getresponse().read())
        connection.close()
        return length

    def answer(frame, send):
        if isinstance(frame, ReqHeaders):
            sizes[frame.rid] = 0
        elif isinstance(frame, ReqBody):
            sizes[frame.rid] += len(frame.chunk)
            send(Window(frame.rid, len(frame.chunk)))
        elif isinstance(frame, ReqEnd):
            send(RespHeaders(frame.rid, 200, [("Content-Length", str(size))]))
            send(RespBody(frame.rid, bytes(sizes[frame.rid])))
            send(RespEnd(frame.rid))

    sizes = {}
    assert serve(scenario, answer) == size


def exchange(port, request, *, read_all=True):
    """Send bytes and return all that comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(request)
        answer = b""
        while read_all and (data := sock.recv(65_536)):
            answer += data
        return answer


REQUEST = b"GET /s/rt_1/ HTTP/1.%d\r\nHost: a\r\nAuthorization: Bearer wt_1\r\n\r\n"


def test_an_interrupted_answer_has_no_clean_end():
    def answer(frame, send):
        if isinstance(frame, ReqEnd):
            send(RespHeaders(frame.rid, 200, []))
            send(RespBody(frame.rid, b"part"))
            send(RespError(frame.rid, "LOCAL_BAD_RESPONSE", "broke off"))

    def scenario(port, agent, route):
        chunked = exchange(port, REQUEST % 1)
        assert chunked.endswith(b"4\r\npart\r\n")
        with pytest.raises(ConnectionResetError):
            exchange(port, REQUEST % 0)

    serve(scenario, answer)


def test_a_vanished_caller_cancels():
    def scenario(port, agent, route):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(REQUEST % 1)
            assert arrived.wait(10)
        assert cancelled.wait(10)
        return route.inflight

    arrived, cancelled = threading.Event(), threading.Event()

    def answer(frame, send):
        if isinstance(frame, ReqEnd):
            arrived.set()
        elif isinstance(frame, Cancel):
            cancelled.set()

    assert serve(scenario, answer) == 0


def test_a_refused_upload_still_reads_its_refusal():
    def scenario(port, agent, route):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/s/rt_1/", bytes(3_000_000))
        answer = connection.getresponse()
        code = json.loads(answer.read())["code"]
        connection.close()
        return answer.status, code

    assert serve(scenario, Echo()) == (401, "TUNNEL_AUTH_REQUIRED")


# Whole messages in one frame, with an agent that knows them.


@pytest.fixture
def brief(loop, wire):
    world = World(loop, wire, agent=False)
    world.agent = Agent(world.relay, whole_messages=True)
    return world


def test_a_request_without_a_body_is_one_frame(brief):
    frame = brief.ask()
    assert frame.end
    assert frame.body == b""
    assert brief.agent.frames == []


def test_a_short_request_is_one_frame(brief):
    frame = brief.ask("POST", "/s/rt_1/x", "Content-Length: 5", body=b"hello")
    assert frame.end
    assert frame.body == b"hello"
    assert brief.agent.frames == []


def test_two_short_requests_in_one_read(brief):
    brief.route.limits.max_inflight = 1
    head = f"POST /s/rt_1/x HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\nContent-Length: 5\r\n\r\n".encode()
    brief.connection.data_received(head + b"hello" + head + b"world")
    first = brief.agent.take(ReqHeaders)
    assert (first.body, first.end) == (b"hello", True)
    brief.agent.send(RespHeaders(first.rid, 204, [], end=True))
    second = brief.agent.take(ReqHeaders)
    assert (second.body, second.end) == (b"world", True)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Length: 6"], b"hello"),
        (["Content-Length: 5"], b""),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
        ([f"Content-Length: {MAX_WHOLE_BYTES + 1}"], b"x" * (MAX_WHOLE_BYTES + 1)),
    ],
    ids=["not all there", "nothing there", "of unknown length", "long"],
)
def test_other_requests_come_in_pieces(brief, lines, body):
    frame = brief.ask("POST", "/s/rt_1/x", *lines, body=body)
    assert not frame.end
    assert frame.body == b""
    assert all(isinstance(frame, ReqBody | ReqEnd) for frame in brief.agent.frames)


def test_a_caller_that_leaves_its_short_request(brief):
    frame = brief.ask("POST", "/s/rt_1/x", "Content-Length: 5", body=b"hello")
    brief.connection.connection_lost(None)
    assert brief.agent.take(Cancel).rid == frame.rid
    brief.assert_nothing_under_way()


def test_an_answer_in_one_frame(brief):
    rid = brief.ask().rid
    brief.agent.send(RespHeaders(rid, 200, [("Content-Length", "5")], body=b"hello", end=True))
    assert brief.answer().endswith(b"\r\nContent-Length: 5\r\n\r\nhello")
    brief.assert_nothing_under_way()
    assert brief.agent.frames == []


def test_an_answer_in_one_frame_while_the_request_goes_on(brief):
    rid = brief.ask("POST", "/s/rt_1/x", "Content-Length: 9", body=b"hello").rid
    brief.agent.take(ReqBody)
    brief.agent.send(RespHeaders(rid, 200, [("Content-Length", "2")], body=b"no", end=True))
    assert brief.answer().endswith(b"\r\n\r\nno")
    brief.agent.take(Cancel)
    brief.assert_nothing_under_way()


@pytest.mark.parametrize(("length", "body"), [(4, b"hello"), (6, b"hello"), (1, b"")])
def test_an_answer_in_one_frame_of_another_length_is_cut_off(brief, length, body):
    rid = brief.ask().rid
    headers = [("Content-Length", str(length))]
    brief.agent.send(RespHeaders(rid, 200, headers, body=body, end=True))
    brief.answer()
    assert brief.wire.closed
    brief.assert_nothing_under_way()


def test_an_answer_in_one_frame_without_a_length(brief):
    rid = brief.ask().rid
    brief.agent.send(RespHeaders(rid, 200, [], body=b"hello", end=True))
    assert brief.answer().endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


def test_an_answer_in_one_frame_that_is_too_large(brief):
    brief.route.limits.max_response_bytes = 4
    rid = brief.ask().rid
    brief.agent.send(RespHeaders(rid, 200, [], body=b"hello", end=True))
    assert brief.error(413)["code"] == "TUNNEL_PAYLOAD_TOO_LARGE"


def test_an_answer_in_one_frame_that_cannot_travel(brief):
    rid = brief.ask().rid
    brief.agent.send(RespHeaders(rid, 200, [("a", "b\r\nc: d")], body=b"hello", end=True))
    assert brief.error(502)["code"] == "TUNNEL_ENDPOINT_UNREACHABLE"


def test_a_lone_answer_does_not_wait_for_others(brief):
    rid = brief.ask().rid
    brief.agent.send(RespHeaders(rid, 200, [("Content-Length", "5")], body=b"hello", end=True))
    assert brief.wire.take().endswith(b"hello")


def test_answers_are_written_together_while_others_are_under_way(brief):
    first = brief.ask().rid
    other = type(brief.wire)()
    brief.connection = brief.connect(other)
    brief.ask()
    brief.agent.send(RespHeaders(first, 200, [("Content-Length", "5")], body=b"hello", end=True))
    assert brief.wire.take() == b""
    assert brief.answer().endswith(b"hello")


def test_a_request_says_whether_others_are_under_way(brief):
    seen = []
    send = brief.agent.session.link.send
    brief.agent.session.link.send = lambda frame, at_once: (seen.append(at_once), send(frame))
    brief.ask()
    brief.connection = brief.connect(type(brief.wire)())
    brief.ask("POST", "/s/rt_1/x", "Content-Length: 5", body=b"hello")
    assert seen == [True, False]
