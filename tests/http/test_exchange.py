"""Exchange: how a response is framed, without sockets."""

import pytest

from ..support.http_server import GET, OneConnection


@pytest.fixture
def world(loop, wire):
    return OneConnection(loop, wire)


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
    assert not world.server.limiter.connections
    assert len(world.server.deadlines) == 0


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
    assert not world.server.limiter.connections
    world.loop.advance(1000)
    assert not world.wire.closed


def test_a_declined_upgrade_closes(world):
    world.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    world.handler.exchange.respond(501, [], b"")
    assert b"Connection: close" in world.answer()
    assert world.wire.closed


def upload(world, *, reads_on=True, expects=b""):
    """Begin an upload, and answer it before its end."""
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n" + expects + b"\r\n"
    exchange = world.feed(head).handler.exchange
    exchange.reads_on = reads_on
    exchange.start_response(200, [], 2)
    exchange.write(b"ok")
    exchange.end()
    return exchange


def test_a_request_is_read_on_behind_its_response(world):
    exchange = upload(world)
    answer = world.answer()
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert exchange.answered
    assert not exchange.done
    world.feed(b"bo").feed(b"dy" + GET % b"next")
    assert world.handlers[0].body == b"body"
    assert world.handlers[0].events == ["body", "end"]
    assert exchange.done
    assert world.handler.head.path == "/next"


def test_a_caller_that_leaves_while_it_is_read_on(world):
    upload(world)
    world.lose()
    assert world.handler.events == ["aborted"]


def test_reading_on_ends_with_the_handlers_wish_and_the_connection(world):
    exchange = upload(world)
    exchange.abort()
    world.answer()
    assert exchange.done
    assert world.wire.ended
    assert not world.wire.aborted
    world.feed(b"body" + GET % b"smuggled")
    assert len(world.handlers) == 1


@pytest.mark.parametrize(
    ("reads_on", "expects"), [(False, b""), (True, b"Expect: 100-continue\r\n")]
)
def test_a_request_that_is_not_read_on_ends_the_connection(world, reads_on, expects):
    exchange = upload(world, reads_on=reads_on, expects=expects)
    assert b"Connection: close\r\n" in world.answer()
    assert exchange.done
    assert world.wire.ended
    world.feed(b"body" + GET % b"smuggled")
    assert len(world.handlers) == 1


def test_a_kept_connection_with_a_body_that_nobody_reads_ends(world):
    exchange = world.feed(
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n"
    ).handler.exchange
    exchange.reads_on = True
    exchange.respond(200, [], b"whole")
    world.feed(GET % b"smuggled")
    assert len(world.handlers) == 1
    assert world.wire.ended


def test_interim_responses(world):
    exchange = world.feed(GET % b"").handler.exchange
    exchange.send_interim(103, [("Link", "a")])
    with pytest.raises(ValueError, match="header"):
        exchange.send_interim(103, [("Link", "a\r\nb")])
    for status in (101, 200, 99):
        with pytest.raises(ValueError, match="status"):
            exchange.send_interim(status, [])
    exchange.respond(200, [], b"", "Fine")
    assert world.answer() == (
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n"
    )


def test_trailers(world):
    for te, trailer in ((b"TE: trailers\r\n", b"X-A: 1\r\n"), (b"", b"")):
        exchange = world.feed(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % te).handler.exchange
        exchange.start_response(200, [])
        exchange.end([("X-A", "1")])
        assert world.answer().endswith(b"\r\n\r\n0\r\n" + trailer + b"\r\n")


def test_the_trailers_of_a_request(world):
    world.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    world.feed(b"1\r\nx\r\n0\r\nX-A: 1\r\n\r\n")
    assert world.handler.events == ["body", "end"]
    assert world.handler.exchange.trailers == [("X-A", "1")]


def test_who_waits_to_be_told_is_not_late(world):
    world.feed(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    world.loop.advance(1000)
    assert world.answer() == b""
    world.handler.exchange.continue_()
    assert world.answer() == b"HTTP/1.1 100 Continue\r\n\r\n"
    world.loop.advance(61)
    assert world.answer().startswith(b"HTTP/1.1 408")
