"""From a caller's bytes to frames and back: without sockets and with real ones."""

import asyncio
import http.client
import json
import socket
import threading

import pytest

from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay import ingress as ingress_module
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.wire.frames import (
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

from ..support.relay_world import TOKEN, FakeAgent, RelayWorld


@pytest.fixture
def world(loop):
    return RelayWorld(loop)


# What reaches the agent.


def test_a_request_becomes_frames(world):
    frame = world.ask("GET", "/a%2Fb//c?x=%20&y=?", "Cookie: a", "Cookie: b", "X-A: é")
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
    ("lines", "chains"),
    [
        (["X-Forwarded-For: 10.0.0.1"], [("X-Forwarded-For", "10.0.0.1, 192.0.2.7")]),
        (
            ["x-forwarded-for: 10.0.0.1", "X-Forwarded-For: 10.0.0.2"],
            [("x-forwarded-for", "10.0.0.1, 10.0.0.2, 192.0.2.7")],
        ),
        (["X-Forwarded-For:"], [("X-Forwarded-For", "192.0.2.7")]),
        (
            ["Forwarded: for=10.0.0.1;proto=https"],
            [
                (
                    "Forwarded",
                    'for=10.0.0.1;proto=https, for=192.0.2.7;host="relay.test:80";proto=http',
                ),
                ("x-forwarded-for", "192.0.2.7"),
            ],
        ),
    ],
)
def test_what_a_caller_says_of_the_way_is_kept_and_extended(world, lines, chains):
    frame = world.ask("GET", "/", *lines)
    names = ("forwarded", "x-forwarded-for")
    assert [pair for pair in frame.headers if pair[0].lower() in names] == chains


def test_the_element_of_a_peer_is_quoted_where_it_must_be():
    element = ingress_module._forwarded_element("::1", 'a"b\\c', "https")
    assert element == r'for="[::1]";host="a\"b\\c";proto=https'


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("", ("/", "")),
        ("?q", ("/", "q")),
        ("/", ("/", "")),
        ("//", ("//", "")),
        ("/../../v1/tunnels", ("/../../v1/tunnels", "")),
        ("/~gw1/x", ("/~gw1/x", "")),
        ("/s/rt_1/", ("/s/rt_1/", "")),
    ],
)
def test_paths(world, path, seen):
    frame = world.ask("GET", path)
    assert (frame.path, frame.query) == seen


def test_bodies_of_both_kinds_are_streamed(world):
    frame = world.ask("POST", "/x", "Content-Length: 5", body=b"he")
    assert ("Content-Length", "5") in frame.headers
    assert world.agent.take(ReqBody).chunk == b"he"
    assert world.agent.frames == []
    world.caller.send(b"llo")
    assert world.agent.take(ReqBody).chunk == b"llo"
    world.agent.take(ReqEnd)
    world.agent.send(RespHeaders(frame.rid, 200, []), RespEnd(frame.rid))
    frame = world.ask(
        "POST", "/x", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\nT: 1\r\n\r\n"
    )
    assert not {"content-length", "transfer-encoding"} & {name.lower() for name, _ in frame.headers}
    body = world.agent.take(ReqBody)
    assert (body.chunk, body.rid, body.lease_id) == (b"hi", frame.rid, "l1")
    world.agent.take(ReqEnd)


def test_expect_continue(world):
    frame = world.ask("PUT", "/x", "Content-Length: 2", "Expect: 100-continue")
    assert "expect" not in {name.lower() for name, _ in frame.headers}
    assert world.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
    world.caller.send(b"ok")
    assert world.agent.take(ReqBody).chunk == b"ok"


def test_a_refused_body_is_not_asked_for(world):
    world.ask("PUT", "/x", "Content-Length: 2", "Expect: 100-continue", token="")
    answer = world.read()
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
    assert world.read() == (
        b"HTTP/1.1 207 Multi-Status\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
        b"Content-Length: 4\r\n\r\ndata"
    )
    assert world.caller.wire.writes == 1
    assert not world.caller.wire.closed
    world.assert_nothing_in_flight()


def test_an_answer_of_unknown_length_is_chunked(world):
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, []))
    assert world.read().endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    world.agent.send(RespBody(rid, b"event"))
    assert world.read() == b"5\r\nevent\r\n"
    world.agent.send(RespEnd(rid))
    assert world.read() == b"0\r\n\r\n"
    world.assert_nothing_in_flight()


def test_head_keeps_the_apps_length(world):
    rid = world.ask("HEAD").rid
    world.agent.send(RespHeaders(rid, 200, [("content-length", "99")]), RespEnd(rid))
    assert world.read() == b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    world.assert_nothing_in_flight()


def test_an_agent_that_answers_inside_send(world):
    def answer(frame, send):
        if isinstance(frame, ReqHeaders):
            send(RespHeaders(frame.rid, 200, [("Content-Length", "2")]))
            send(RespBody(frame.rid, b"ok"))
            send(RespEnd(frame.rid))

    world.agent.answer = answer
    request = f"GET /s/rt_1/ HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n\r\n".encode()
    world.caller.send(request * 50)
    assert world.read().count(b"\r\n\r\nok") == 50
    assert not world.caller.wire.closed
    world.assert_nothing_in_flight()


def test_an_answer_before_the_body_ends_cancels_the_rest(world):
    rid = world.ask("POST", "/", "Content-Length: 9", body=b"x").rid
    world.agent.take(ReqBody)
    world.agent.send(RespHeaders(rid, 413, [("Content-Length", "0")]), RespEnd(rid))
    assert world.agent.take(Cancel).rid == rid
    answer = world.read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in answer
    world.caller.send(b"x" * 8)
    assert world.agent.frames == []
    world.assert_nothing_in_flight()


# Refusals.


def test_no_such_route(world):
    for path in ("/s/rt_2/x", "/s/", "/s//x", "/s/rt_1%2f/x", "/s/RT_1/"):
        world.caller.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n\r\n".encode())
        assert world.agent.frames == []
        assert world.error(404)["code"] == "TUNNEL_NOT_FOUND"


def test_no_token_and_a_wrong_one(world):
    assert world.ask(token="") is None
    assert world.error(401)["code"] == "TUNNEL_AUTH_REQUIRED"
    assert world.ask(token="Authorization: Bearer wt_2") is None
    assert world.error(401)["code"] == "TUNNEL_AUTH_INVALID"


def test_authentication_comes_before_everything_else_of_the_lease(loop):
    world = RelayWorld(loop, agent=False)
    world.ask(token="")
    world.error(401)


def test_closed_and_expired(world):
    world.time = world.route.expires_at = 6000.0
    world.ask()
    error = world.error(410)
    assert error["code"] == "TUNNEL_LEASE_EXPIRED"
    assert "lease_expired" in error["detail"]
    assert "expired" in error["message"]


def test_agent_offline(loop):
    world = RelayWorld(loop, agent=False, limits=Limits(hold_s=0))
    world.ask()
    error = world.error(503)
    assert error["code"] == "AGENT_OFFLINE"
    assert "agent_offline" in error["detail"]
    assert world.route.inflight == 0


def test_too_many_in_flight(loop):
    world = RelayWorld(loop, limits=Limits(max_inflight=1))
    frame = world.ask()
    world.agent.take(ReqEnd)
    assert world.call().error(429)["code"] == "TUNNEL_CAPACITY_EXCEEDED"
    world.agent.send(RespHeaders(frame.rid, 200, []), RespEnd(frame.rid))
    assert isinstance(world.ask(), ReqHeaders)


def test_a_request_body_too_large_by_its_length(loop):
    world = RelayWorld(loop, limits=Limits(max_request_bytes=10))
    assert world.ask("POST", "/", "Content-Length: 11") is None
    assert world.error(413)["code"] == "TUNNEL_PAYLOAD_TOO_LARGE"


def test_a_request_body_too_large_as_it_comes(loop):
    world = RelayWorld(loop, limits=Limits(max_request_bytes=10))
    world.ask("POST", "/", "Transfer-Encoding: chunked", body=b"a\r\n0123456789\r\n")
    world.agent.take(ReqBody)
    world.caller.send(b"1\r\nx\r\n")
    assert world.error(413)["code"] == "TUNNEL_PAYLOAD_TOO_LARGE"
    world.agent.take(Cancel)
    world.assert_nothing_in_flight()


def test_a_response_body_too_large(loop):
    world = RelayWorld(loop, limits=Limits(max_response_bytes=10))
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, [("Content-Length", "11")]))
    assert world.error(413)["code"] == "TUNNEL_PAYLOAD_TOO_LARGE"
    world.assert_nothing_in_flight()


def test_a_response_body_too_large_as_it_comes(loop):
    world = RelayWorld(loop, limits=Limits(max_response_bytes=10))
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, []), RespBody(rid, b"x" * 11))
    assert not world.read().endswith(b"0\r\n\r\n")
    assert world.caller.wire.closed
    world.assert_nothing_in_flight()


# Over sockets.


def serve(scenario, answer):
    """Run ``scenario(port, agent, route)`` in a thread against a listening relay."""

    async def main():
        loop = asyncio.get_running_loop()
        relay = Relay(loop=loop, request_timeout_s=5)
        route = Route(lease_id="l1", route_token="rt_1", agent_token="at_1", worker_token="wt_1")
        relay.add(route)
        agent = FakeAgent(relay, answer=answer)
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
