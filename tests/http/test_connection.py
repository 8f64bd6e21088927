"""ServerConnection, without sockets: bytes in, bytes out, time by hand."""

import json
import socket
from unittest import mock

import pytest

from pytest_synth_tunnels.http.exchange import IGNORE

from ..support.http_server import GET, OneConnection


@pytest.fixture
def world(loop, wire):
    return OneConnection(loop, wire)


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

    world = OneConnection(loop, wire, route)
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

    world = OneConnection(loop, wire, route)
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


def test_a_caller_that_ends_its_side_is_gone_to_a_handler_without_an_answer_for_it(world):
    world.feed(GET % b"")
    world.connection.eof_received()
    assert world.wire.closed
    world.lose()
    assert world.handler.events == ["end", "half closed", "aborted"]


def test_a_caller_that_ends_its_side_behind_its_request_is_answered(world):
    world.feed(GET % b"")
    world.handler.stays = True
    world.connection.eof_received()
    assert not world.wire.closed
    world.loop.advance(1000)
    world.handler.exchange.respond(200, [], b"hello")
    assert world.answer().endswith(b"\r\n\r\nhello")
    assert world.wire.closed
    world.lose()
    assert world.handler.events == ["end", "half closed"]


def test_requests_that_were_sent_before_the_end_are_all_answered(world):
    world.feed(GET % b"1" + GET % b"2" + GET % b"3")
    world.handler.stays = True
    world.connection.eof_received()
    for number in range(3):
        assert not world.wire.closed
        assert len(world.handlers) == number + 1
        world.handler.exchange.respond(200, [], b"hello")
    assert world.answer().count(b"hello") == 3
    assert world.wire.closed


def test_what_was_sent_before_the_end_waits_for_the_answers_to_be_read(world):
    world.feed(GET % b"1" + GET % b"2")
    world.handler.stays = True
    world.connection.eof_received()
    world.connection.pause_writing()
    world.handler.exchange.respond(200, [], b"hello")
    world.answer()
    assert len(world.handlers) == 1
    assert not world.wire.closed
    world.connection.resume_writing()
    assert len(world.handlers) == 2
    world.handler.exchange.respond(200, [], b"hello")
    assert world.wire.closed


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHo",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
    ids=["head", "body", "chunks"],
)
def test_a_caller_that_ends_its_side_within_its_request_is_gone(world, sent):
    world.feed(sent)
    for handler in world.handlers:
        handler.stays = True
    world.connection.eof_received()
    assert world.wire.closed
    assert [handler.events[-1] for handler in world.handlers] == ["aborted"] * len(world.handlers)


class Observer:
    """Counts how often it is told of a connection's end."""

    def __init__(self, connection):
        self.told = 0
        connection.observer = self

    def connection_ended(self):
        self.told += 1


def test_the_observer_hears_once_that_no_further_request_comes(world):
    observer = Observer(world.connection)
    world.feed(GET % b"")
    world.handler.exchange.respond(200, [], b"")
    assert observer.told == 0
    world.lose()
    assert observer.told == 1


def test_the_observer_hears_of_a_connection_that_begins_to_close(world):
    observer = Observer(world.connection)
    world.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    world.handler.exchange.respond(200, [], b"")
    assert observer.told == 1
    world.lose()
    assert observer.told == 1


def test_the_observer_hears_of_a_connection_that_leaves_http(world):
    observer = Observer(world.connection)
    world.feed(GET % b"")
    world.handler.exchange.upgrade()
    assert observer.told == 1


def test_an_idle_connection_can_be_closed_and_a_busy_one_cannot(world):
    world.feed(GET % b"")
    assert not world.connection.close_if_idle()
    world.handler.exchange.respond(200, [], b"hello")
    world.feed(b"GET / HT")
    assert not world.connection.close_if_idle()
    world.feed(b"TP/1.1\r\nHost: a\r\n\r\n")
    world.handler.exchange.respond(200, [], b"hello")
    assert world.connection.close_if_idle()
    assert world.wire.closed
    assert world.wire.take().count(b"hello") == 2
    assert world.connection.close_if_idle()


def test_a_connection_on_which_more_has_come_is_not_idle(world):
    ours, its = socket.socketpair()
    with ours, its:
        world.wire._extra["socket"] = ours
        its.send(b"G")
        assert not world.connection.close_if_idle()
        ours.recv(9)
        assert world.connection.close_if_idle()


def test_a_response_can_be_the_last_one(world):
    world.feed(GET % b"")
    world.handler.exchange.close_afterwards()
    world.handler.exchange.respond(200, [], b"hello")
    assert b"Connection: close" in world.answer()
    assert world.wire.closed


@pytest.mark.parametrize("with_reset", [False, True])
def test_a_connection_can_end_instead_of_a_response(world, with_reset):
    world.feed(GET % b"")
    world.handler.exchange.hang_up(with_reset=with_reset)
    assert world.answer() == b""
    assert world.wire.closed
    assert world.wire.aborted is with_reset
    assert world.handler.exchange.done
    world.handler.exchange.hang_up(with_reset=with_reset)
    world.handler.exchange.respond(200, [], b"")
    assert world.answer() == b""


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

    world = OneConnection(loop, wire, route)
    assert world.feed(GET % b"").handler.events == ["pause", "end"]


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

    answer = OneConnection(loop, wire, route).feed(GET % b"").answer()
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


def test_a_short_idle_time_counts_from_the_answer(loop, wire):
    world = OneConnection(loop, wire, idle_timeout_s=3)
    world.feed(GET % b"")
    world.loop.advance(1)
    world.handler.exchange.respond(200, [], b"")
    world.loop.advance(2.9)
    assert not world.wire.closed
    world.loop.advance(0.2)
    assert world.wire.closed


def test_an_answer_may_take_longer_than_any_other_wait(world):
    world.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
    world.loop.advance(1000)
    assert world.handler.events == ["body", "end"]
    assert not world.wire.closed


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
def resets(world):
    """What was said to a socket of each connection that was reset instead of ended."""
    sock = mock.Mock(fileno=lambda: -1)
    world.wire.extra["socket"] = sock
    return sock.setsockopt.mock_calls


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
