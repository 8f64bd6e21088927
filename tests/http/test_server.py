"""ServerConnection and Exchange, without sockets: bytes in, bytes out, time by hand."""

import json
import socket

import pytest

from pytest_synth_tunnels.http import outlet
from pytest_synth_tunnels.http.exchange import IGNORE
from pytest_synth_tunnels.http.server import HttpLimits, HttpServer

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


class Handler:
    """Keeps what it is told."""

    def __init__(self, exchange):
        self.exchange = exchange
        self.head = exchange.head
        self.body = b""
        self.events = []

    def body_received(self, data):
        assert data
        self.body += data
        if self.events[-1:] != ["body"]:
            self.events.append("body")

    def body_ended(self):
        self.events.append("end")

    def aborted(self):
        self.events.append("aborted")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")


class World:
    """A server with one connection."""

    def __init__(self, loop, wire, router=None, **limits):
        self.loop = loop
        self.wire = wire
        self.handlers = []
        self.server = HttpServer(router or self.route, loop=loop, limits=HttpLimits(**limits))
        self.connection = self.server()
        self.connection.connection_made(wire)

    def route(self, exchange):
        self.handlers.append(Handler(exchange))
        return self.handlers[-1]

    @property
    def handler(self):
        return self.handlers[-1]

    def feed(self, data):
        self.connection.data_received(data)
        return self

    def answer(self):
        """Return what was written, at the end of this tick."""
        self.loop.tick()
        return self.wire.take()

    def lose(self):
        self.connection.connection_lost(None)


@pytest.fixture
def world(loop, wire):
    return World(loop, wire)


def test_one_response_is_one_write(world):
    world.feed(GET % b"x")
    assert world.handler.events == ["end"]
    assert world.handler.head.peer_host == "192.0.2.7"
    exchange = world.handler.exchange
    exchange.start_response(200, [("A", "1")], 4)
    exchange.write(b"ab")
    exchange.write(b"cd")
    exchange.end()
    assert exchange.done
    assert world.wire.writes == 0
    assert world.answer() == b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 4\r\n\r\nabcd"
    assert world.wire.writes == 1


def test_a_head_does_not_wait_for_its_body(world):
    world.feed(GET % b"x").handler.exchange.start_response(200, [])
    assert world.answer() == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    world.handler.exchange.write(b"event")
    assert world.answer() == b"5\r\nevent\r\n"
    world.handler.exchange.end()
    assert world.answer() == b"0\r\n\r\n"


def test_large_pieces_go_at_once_and_in_order(world):
    exchange = world.feed(GET % b"x").handler.exchange
    exchange.start_response(200, [])
    exchange.write(b"a")
    exchange.write(b"b" * 100_000)
    exchange.write(b"c")
    exchange.end()
    body = world.answer().partition(b"\r\n\r\n")[2]
    assert body == b"1\r\na\r\n186a0\r\n" + b"b" * 100_000 + b"\r\n1\r\nc\r\n0\r\n\r\n"


def test_keep_alive(world):
    for path in (b"1", b"2", b"3"):
        world.feed(GET % path).handler.exchange.respond(200, [], path)
        assert world.answer().endswith(b"\r\n\r\n" + path)
    assert not world.wire.closed
    assert [handler.head.path for handler in world.handlers] == ["/1", "/2", "/3"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_pieces_of_any_size(world, size):
    data = b"\r\nPOST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    data += b"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    data += GET % b"3"
    for at in range(0, len(data), size):
        world.feed(data[at : at + size])
        if world.handlers and world.handler.events[-1:] == ["end"]:
            world.handler.exchange.respond(200, [], world.handler.body)
            if world.handlers[-1].exchange.done and world.handler.events[-1:] == ["end"]:
                world.loop.tick()
    while not world.handler.exchange.done:
        world.handler.exchange.respond(200, [], world.handler.body)
    assert [handler.body for handler in world.handlers] == [b"hello", b"hi", b""]
    assert world.answer().count(b"HTTP/1.1 200 OK") == 3


def test_pipelined_requests_are_answered_in_order(world):
    world.feed(GET % b"1" + GET % b"2" + GET % b"3")
    assert len(world.handlers) == 1
    for number in (1, 2, 3):
        assert world.handler.head.path == f"/{number}"
        world.handler.exchange.respond(200, [], b"%d" % number)
    assert [part[-1:] for part in world.answer().split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"1",
        b"2",
        b"3",
    ]


def test_pipelined_requests_answered_inside_the_router(loop, wire):
    def route(exchange):
        exchange.respond(200, [], exchange.head.path.encode())
        return IGNORE

    world = World(loop, wire, route)
    world.feed(b"".join(GET % b"%d" % number for number in range(5000)))
    assert world.answer().count(b"HTTP/1.1 200 OK") == 5000


def test_too_much_pipelining_stops_reading(world):
    world.feed(GET % b"1")
    world.feed((GET % b"2") * 3000)
    assert not world.wire.reading
    while not world.wire.reading:
        world.handler.exchange.respond(200, [], b"")
    assert 2 < len(world.handlers) < 3000


def test_no_request_begins_while_the_caller_does_not_read(world):
    world.connection.pause_writing()
    world.feed(GET % b"1" + GET % b"2")
    assert not world.handlers
    assert world.wire.reading
    world.connection.resume_writing()
    assert [handler.events for handler in world.handlers] == [["end"]]
    world.connection.pause_writing()
    world.handler.exchange.respond(200, [], b"one")
    world.feed((GET % b"3") * 3000)
    assert not world.wire.reading
    assert len(world.handlers) == 1
    world.connection.resume_writing()
    assert world.handler.head.path == "/2"
    while not world.handler.exchange.done:
        world.handler.exchange.respond(200, [], b"")
    assert world.wire.reading
    assert len(world.handlers) == 3002


def test_answers_inside_the_router_end_when_the_caller_does_not_read(loop, wire):
    def route(exchange):
        exchange.respond(200, [], bytes(10_000))
        if len(wire.written) > 100_000:
            world.connection.pause_writing()
        return IGNORE

    world = World(loop, wire, route)
    world.feed(b"".join(GET % b"%d" % number for number in range(5000)))
    assert len(world.answer()) < 200_000
    world.connection.resume_writing()
    assert 0 < len(world.answer()) < 200_000


def test_who_asks_ahead_and_does_not_read_is_dropped_in_time(world):
    world.feed(GET % b"1" + GET % b"2")
    world.connection.pause_writing()
    world.handler.exchange.respond(200, [], b"one")
    world.loop.advance(76)
    assert world.answer().endswith(b"one")
    assert world.wire.closed
    world.loop.advance(6)
    assert world.wire.aborted


def test_head_has_no_body_but_its_length(world):
    world.feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    world.handler.exchange.start_response(200, [], 500)
    world.handler.exchange.write(b"dropped")
    world.handler.exchange.end()
    assert world.answer() == b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    assert not world.wire.closed
    world.feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    world.handler.exchange.start_response(200, [])
    world.handler.exchange.end()
    assert world.answer() == b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("length", [None, 0, 7])
def test_statuses_without_a_body(world, status, length):
    world.feed(GET % b"").handler.exchange.start_response(status, [], length)
    world.handler.exchange.write(b"dropped")
    world.handler.exchange.end()
    answer = world.answer()
    assert answer.endswith(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in answer
    assert (b"Content-Length" in answer) is (status == 304 and length is not None)
    assert not world.wire.closed


def test_http_1_0(world):
    world.feed(b"GET / HTTP/1.0\r\n\r\n").handler.exchange.start_response(200, [])
    world.handler.exchange.write(b"until the end")
    world.handler.exchange.end()
    assert world.answer() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"
    assert world.wire.closed
    assert not world.wire.aborted


def test_http_1_0_keep_alive(world):
    world.feed(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
    world.handler.exchange.respond(200, [], b"x")
    assert b"Connection: keep-alive\r\n" in world.answer()
    assert not world.wire.closed


def test_connection_close(world):
    world.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET % b"more")
    world.handler.exchange.respond(200, [], b"x")
    assert b"Connection: close\r\n" in world.answer()
    assert world.wire.closed
    assert len(world.handlers) == 1


def test_expect_continue_comes_before_the_answer_and_after_the_last_one(world):
    world.feed(GET % b"1" + b"PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n")
    world.handler.exchange.respond(200, [], b"one")
    world.feed(b"Expect: 100-continue\r\n\r\n")
    world.handler.exchange.continue_()
    world.handler.exchange.continue_()
    assert world.answer().endswith(b"oneHTTP/1.1 100 Continue\r\n\r\n")
    world.feed(b"ok")
    world.handler.exchange.respond(200, [], b"")
    assert world.answer().startswith(b"HTTP/1.1 200 OK")
    assert not world.wire.closed


def test_an_answer_before_the_body_closes_but_discards_the_rest(world):
    world.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
    world.handler.exchange.respond(413, [], b"")
    assert b"Connection: close\r\n" in world.answer()
    assert world.wire.ended
    assert not world.wire.closed
    world.feed(b"x" * 50).feed(GET % b"smuggled")
    assert world.handler.body == b""
    assert len(world.handlers) == 1
    world.loop.advance(6)
    assert world.wire.aborted


def test_a_caller_that_resets_before_it_reads_the_answer(world, monkeypatch):
    def write_eof():
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(world.wire, "write_eof", write_eof)
    world.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    world.handler.exchange.respond(413, [], b"")
    assert world.wire.aborted
    world.lose()
    assert world.handler.events == []


def test_a_short_response_is_cut_off(world):
    world.feed(GET % b"").handler.exchange.start_response(200, [], 10)
    world.handler.exchange.write(b"short")
    world.handler.exchange.end()
    assert world.answer().endswith(b"short")
    assert world.wire.closed


def test_a_long_response_is_cut_off(world):
    world.feed(GET % b"").handler.exchange.start_response(200, [], 2)
    world.handler.exchange.write(b"long")
    assert world.handler.exchange.done
    assert world.wire.closed
    assert b"long" not in world.answer()


def test_an_aborted_response_has_no_clean_end(world):
    world.feed(GET % b"").handler.exchange.start_response(200, [])
    world.handler.exchange.write(b"part")
    world.handler.exchange.abort()
    assert world.answer().endswith(b"4\r\npart\r\n")
    assert world.wire.closed
    world.lose()
    assert world.handler.events == ["end"]


def test_a_response_without_length_is_reset_when_aborted(world):
    world.feed(b"GET / HTTP/1.0\r\n\r\n").handler.exchange.start_response(200, [])
    world.handler.exchange.write(b"part")
    world.handler.exchange.abort()
    assert world.wire.aborted


def test_header_injection_is_refused_and_nothing_is_sent(world):
    exchange = world.feed(GET % b"").handler.exchange
    with pytest.raises(ValueError, match="header"):
        exchange.start_response(200, [("A", "1\r\nB: 2")])
    assert world.answer() == b""
    exchange.respond(502, [], b"")
    assert world.answer() == b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


def test_a_caller_that_vanishes(world):
    world.feed(GET % b"").lose()
    assert world.handler.events == ["end", "aborted"]
    exchange = world.handler.exchange
    assert exchange.done
    assert not exchange.writable
    exchange.start_response(200, [])
    exchange.write(b"x")
    exchange.end()
    exchange.abort()
    exchange.pause_body()
    exchange.resume_body()
    exchange.continue_()
    with pytest.raises(ConnectionError):
        exchange.upgrade()
    assert world.answer() == b""
    assert not world.server.callers.connections
    assert len(world.server.deadlines) == 0


def test_end_of_file_is_a_caller_that_vanishes(world):
    world.feed(GET % b"")
    assert not world.connection.eof_received()
    world.lose()
    assert world.handler.events == ["end", "aborted"]


@pytest.mark.parametrize("waiting", [False, True])
def test_who_ends_its_side_and_does_not_read_is_dropped_in_time(world, waiting):
    world.feed(GET % b"")
    world.handler.exchange.start_response(200, [], 9)
    world.handler.exchange.write(b"some")
    if not waiting:
        world.handler.exchange.write(b"more.")
        world.handler.exchange.end()
    world.answer()
    world.connection.eof_received()
    assert world.wire.closed
    world.loop.advance(6)
    assert world.wire.aborted


def test_body_flow_control(world):
    world.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab")
    world.handler.exchange.pause_body()
    assert not world.wire.reading
    world.loop.advance(1000)
    assert world.handler.events == ["body"]
    world.handler.exchange.resume_body()
    assert world.wire.reading
    world.handler.exchange.pause_body()
    world.feed(b"cdef")
    assert world.handler.body == b"abcdef"
    assert world.handler.events == ["body", "end"]
    assert world.wire.reading


def test_a_caller_that_leaves_while_its_body_waits(world):
    ours, its = socket.socketpair()
    with ours, its:
        world.wire._extra["socket"] = ours
        world.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab")
        world.handler.exchange.pause_body()
        world.feed(b"c")
        world.loop.advance(1000)
        assert world.handler.events == ["body"]
        its.send(b"def")
        its.close()
        world.loop.advance(1.1)
        assert world.handler.events == ["body", "aborted"]
        assert world.handler.exchange.done
        assert world.wire.aborted


def test_a_body_that_goes_on_has_its_deadline_again(world):
    world.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab")
    world.handler.exchange.pause_body()
    world.loop.advance(100)
    world.handler.exchange.resume_body()
    world.loop.advance(59)
    assert world.answer() == b""
    world.loop.advance(2)
    assert world.answer().startswith(b"HTTP/1.1 408")


def test_write_flow_control(world):
    world.feed(GET % b"")
    assert world.handler.exchange.writable
    world.connection.pause_writing()
    assert not world.handler.exchange.writable
    world.connection.resume_writing()
    assert world.handler.events == ["end", "pause", "resume"]


def test_a_pause_inside_the_router_reaches_the_handler(loop, wire):
    def route(exchange):
        world.connection.pause_writing()
        return world.route(exchange)

    world = World(loop, wire, route)
    assert world.feed(GET % b"").handler.events == ["pause", "end"]


def test_upgrade(world):
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    world.feed(GET % b"")
    world.feed(request + b"\x81\x00")
    world.handler.exchange.respond(200, [], b"first")
    assert world.handler.head.upgrade == "websocket"
    transport, received = world.handler.exchange.upgrade()
    assert transport is world.wire
    assert received == b"\x81\x00"
    assert world.answer().endswith(b"first")
    assert not world.server.callers.connections
    world.loop.advance(1000)
    assert not world.wire.closed


def test_a_declined_upgrade_closes(world):
    world.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    world.handler.exchange.respond(501, [], b"")
    assert b"Connection: close" in world.answer()
    assert world.wire.closed


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_garbage_has_an_answer(world, data, status):
    answer = world.feed(data).answer()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    assert json.loads(body)["code"] in ("BAD_REQUEST", "HEADERS_TOO_LARGE")
    for handler in world.handlers:
        assert handler.events == ["aborted"]
    assert world.feed(GET % b"smuggled").answer() == b""


def test_garbage_in_the_body_of_an_answered_request_cuts_the_answer(world):
    world.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    world.handler.exchange.start_response(200, [])
    world.feed(b"zz\r\n")
    assert b"400" not in world.answer()
    assert world.wire.closed
    assert world.handler.events == ["aborted"]


def test_a_broken_handler_is_an_internal_error(loop, wire, caplog):
    def route(exchange):
        raise RuntimeError("oops")

    answer = World(loop, wire, route).feed(GET % b"").answer()
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"oops" not in answer
    assert "oops" in caplog.text


def test_slow_heads_time_out(world):
    for letter in b"GET / HTTP/1.1\r\n":
        world.feed(bytes([letter]))
        world.loop.advance(1)
    assert world.answer().startswith(b"HTTP/1.1 408")
    assert world.wire.ended
    world.loop.advance(10)
    assert world.wire.aborted


@pytest.mark.parametrize("first", [b"", b"\r\n", b"\r\n\r\n", b"\r\n\r\n\r"])
@pytest.mark.parametrize("reused", [False, True])
def test_empty_lines_buy_no_time(world, first, reused):
    if reused:
        world.feed(GET % b"").handler.exchange.respond(200, [], b"")
        world.answer()
    world.feed(first)
    for _ in range(7):
        world.loop.advance(4)
        world.feed(b"\r\n")
    assert world.wire.closed or world.wire.ended


def test_empty_lines_take_nothing_from_the_next_head(world):
    world.feed(b"\r" * 1000).feed(b"\n\r\n").feed(GET % b"1").handler.exchange.respond(200, [], b"")
    world.loop.advance(50)
    world.feed(b"GET /2")
    world.loop.advance(14)
    world.feed(b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert world.handler.head.path == "/2"


def test_idle_connections_close(world):
    world.feed(GET % b"")
    world.loop.advance(1000)
    world.handler.exchange.respond(200, [], b"")
    world.loop.advance(74)
    assert not world.wire.closed
    world.loop.advance(2)
    assert world.wire.closed
    assert not world.wire.aborted


def test_connections_that_say_nothing_close(world):
    world.loop.advance(16)
    assert world.wire.closed
    assert world.answer() == b""


def test_slow_bodies_time_out(world):
    world.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
    for _ in range(3):
        world.loop.advance(50)
        world.feed(b"x")
    assert world.handler.events == ["body"]
    world.loop.advance(61)
    assert world.answer().startswith(b"HTTP/1.1 408")
    assert world.handler.events == ["body", "aborted"]


def test_what_is_not_read_is_dropped_in_time(world):
    world.feed(b"GET / HTTP/1.0\r\n\r\n").handler.exchange.respond(200, [], b"")
    assert world.wire.closed
    assert not world.wire.aborted
    world.loop.advance(6)
    assert world.wire.aborted


@pytest.fixture
def resets(monkeypatch):
    """One for each connection that was reset instead of ended."""
    found = []
    monkeypatch.setattr(outlet, "reset", lambda transport: (found.append(1), transport.abort()))
    return found


@pytest.mark.parametrize(("version", "look_s"), [("1.0", 5), ("1.1", 75)], ids=["close", "keep"])
def test_who_reads_on_is_waited_for(world, resets, version, look_s):
    world.feed(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version.encode())
    world.handler.exchange.respond(200, [], b"")
    for left in range(5, 0, -1):
        world.wire.unread_bytes = left
        world.loop.advance(look_s + 0.5)
        assert not world.wire.aborted
    world.wire.unread_bytes = 0
    world.loop.advance(2 * look_s)
    assert world.wire.closed
    assert not resets


@pytest.mark.parametrize(("version", "look_s"), [("1.0", 5), ("1.1", 75)], ids=["close", "keep"])
def test_who_reads_no_further_is_not_left_with_a_clean_end(world, resets, version, look_s):
    world.feed(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version.encode())
    world.handler.exchange.respond(200, [], b"")
    world.wire.unread_bytes = 9
    world.loop.advance(look_s + 0.5)
    assert not world.wire.aborted
    world.loop.advance(look_s + 0.5)
    assert world.wire.aborted
    assert resets


def test_each_answer_is_waited_for_anew(world, resets):
    for left in (1, 9):
        world.feed(GET % b"").handler.exchange.respond(200, [], b"")
        world.wire.unread_bytes = left
        world.loop.advance(76)
        assert not world.wire.aborted
    assert not resets


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_answer_without_length_has_no_clean_end_when_the_body_is_late(world, resets, version):
    world.feed(b"POST / HTTP/%b\r\nHost: a\r\nContent-Length: 9\r\n\r\n" % version.encode())
    world.handler.exchange.start_response(200, [])
    world.handler.exchange.write(b"the beginning")
    world.loop.advance(61)
    assert world.answer().endswith(b"the beginning" if version == "1.0" else b"\r\n")
    assert world.wire.closed
    assert bool(resets) is (version == "1.0")


def knock(world):
    """Open another connection and return its two ends."""
    wire, connection = type(world.wire)(), world.server()
    connection.connection_made(wire)
    return connection, wire


def test_callers_that_say_nothing_are_bounded(loop, wire):
    world = World(loop, wire, max_unauthenticated=1)
    wires = [knock(world)[1] for _ in range(100)]
    loop.tick()
    assert wires[0].take().startswith(b"HTTP/1.1 503")
    assert wires[0].ended
    assert wires[-1].aborted
    assert wires[-1].take() == b""
    world.feed(GET % b"")
    assert world.handlers


def test_the_oldest_stranger_makes_room(loop, wire):
    world = World(loop, wire, max_unauthenticated=2)
    slow, slow_wire = knock(world)
    slow.data_received(b"GET / HT")
    loop.advance(1)
    first, second, third = (knock(world) for _ in range(3))
    # Not closed: who does not read would keep the socket and what is written for ever.
    assert wire.aborted
    assert world.answer() == b""
    assert slow_wire.aborted
    assert slow_wire.take().startswith(b"HTTP/1.1 503")
    assert not first[1].closed
    assert not second[1].closed
    assert third[1].take().startswith(b"HTTP/1.1 503")
    for connection in (slow, first[0], second[0], third[0]):
        connection.connection_lost(None)
    world.lose()
    assert not world.server.callers.connections
    assert not world.server.callers.strangers
    assert len(world.server.deadlines) == 0


def test_who_was_let_in_is_no_stranger(loop, wire):
    def route(exchange):
        if exchange.head.path == "/no":
            exchange.respond(401, [], b"")
            return IGNORE
        return world.route(exchange)

    world = World(loop, wire, route, max_unauthenticated=1, max_connections=2)
    world.feed(GET % b"yes").handler.exchange.respond(200, [], b"")
    loop.advance(2)
    refused, refused_wire = knock(world)
    refused.data_received(GET % b"no")
    loop.advance(2)
    other, other_wire = knock(world)
    assert refused_wire.aborted
    assert not wire.closed
    other.data_received(GET % b"yes")
    assert world.handler.head.path == "/yes"
    assert not world.server.callers.strangers
    _, late_wire = knock(world)
    loop.tick()
    assert late_wire.take().startswith(b"HTTP/1.1 503")
    assert not other_wire.closed
    world.feed(GET % b"more")
    assert world.handler.head.path == "/more"


def test_server_close(loop, wire):
    world = World(loop, wire)
    idle = type(wire)()
    world.server().connection_made(idle)
    world.feed(GET % b"").handler.exchange.start_response(200, [])
    loop.tick()
    world.server.close()
    assert idle.closed
    assert not idle.aborted
    assert wire.aborted
    loop.advance(1000)
