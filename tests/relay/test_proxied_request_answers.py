"""The answer to a request at the relay: failures, deadlines, flow control, whole messages."""

import msgspec
import pytest

from pytest_synth_tunnels.relay import slow_readers
from pytest_synth_tunnels.wire.frames import (
    MAX_WHOLE_BYTES,
    WINDOW_BYTES,
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

from ..support.relay_world import TOKEN, RelayCaller, RelayWorld


@pytest.fixture
def world(loop):
    return RelayWorld(loop)


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
    world.assert_nothing_in_flight()


def test_an_error_after_the_head_cuts_the_answer_off(world):
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, []), RespBody(rid, b"part"), RespError(rid, "BROKE"))
    answer = world.read()
    assert answer.endswith(b"4\r\npart\r\n")
    assert world.caller.wire.closed
    world.assert_nothing_in_flight()


def test_a_lost_agent(world):
    world.ask("POST")
    world.agent.link.close()
    error = world.error(502)
    assert error["code"] == "AGENT_LOST"
    assert "agent_offline" in error["detail"]
    world.assert_nothing_in_flight()


def test_a_lost_agent_in_the_middle_of_an_answer(world):
    rid = world.ask().rid
    world.agent.send(RespHeaders(rid, 200, [("Content-Length", "9")]), RespBody(rid, b"part"))
    world.agent.link.close()
    assert world.read().endswith(b"part")
    assert world.caller.wire.closed
    world.assert_nothing_in_flight()


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
    world.assert_nothing_in_flight()


def test_an_answer_of_another_length_than_announced(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.agent.send(RespHeaders(rid, 200, [("Content-Length", "2")]), RespBody(rid, b"long"))
    assert world.agent.take(Cancel).rid == rid
    assert world.caller.wire.closed
    world.assert_nothing_in_flight()


def test_late_and_double_frames_are_dropped(world):
    rid = world.ask().rid
    answer = [RespHeaders(rid, 200, [("Content-Length", "0")]), RespEnd(rid)]
    world.agent.send(answer[0], answer[0], answer[1])
    assert world.read().count(b"HTTP/1.1") == 1
    world.agent.send(*answer, RespBody(rid, b"x"), RespError(rid, "X"), Window(rid, 1))
    assert world.read() == b""
    assert not world.caller.wire.closed


def test_a_caller_that_vanishes(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.caller.connection.connection_lost(None)
    assert world.agent.take(Cancel).rid == rid
    world.assert_nothing_in_flight()
    world.agent.send(RespHeaders(rid, 200, []), RespEnd(rid))
    assert world.agent.frames == []


# Time.


def test_the_deadline(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.loop.advance(29.9)
    assert world.read() == b""
    world.loop.advance(0.2)
    error = world.error(504)
    assert error["code"] == "TUNNEL_TIMEOUT"
    assert "timed out" in error["detail"]
    assert world.agent.take(Cancel).rid == rid
    world.assert_nothing_in_flight()
    assert not world.caller.wire.closed


def test_the_deadline_counts_from_the_last_piece_of_the_request(world):
    rid = world.ask("POST", "/", "Content-Length: 4").rid
    for _ in range(4):
        world.loop.advance(20)
        world.caller.send(b"x")
    world.loop.advance(29)
    world.agent.send(RespHeaders(rid, 200, []))
    assert world.read().startswith(b"HTTP/1.1 200")


def test_an_answer_may_pause_but_not_for_ever(world):
    rid = world.ask().rid
    world.agent.take(ReqEnd)
    world.agent.send(RespHeaders(rid, 200, []))
    for _ in range(3):
        world.loop.advance(299)
        world.agent.send(RespBody(rid, b"x"))
    assert not world.caller.wire.closed
    world.loop.advance(601)
    assert not world.read().endswith(b"0\r\n\r\n")
    assert world.caller.wire.closed
    world.agent.take(Cancel)
    world.assert_nothing_in_flight()


# Flow control.


def test_a_request_body_waits_for_the_agent(world):
    rid = world.ask("POST", "/", f"Content-Length: {4 * WINDOW_BYTES}").rid
    world.caller.send(b"x" * (WINDOW_BYTES - 1))
    assert world.caller.wire.reading
    world.caller.send(b"xy")
    assert not world.caller.wire.reading
    world.agent.send(Window(rid, 1), Window(rid, -5), Window(rid, 0))
    assert not world.caller.wire.reading
    world.agent.send(Window(rid, WINDOW_BYTES))
    assert world.caller.wire.reading


def test_the_links_pause_and_the_window_are_both_respected(world):
    rid = world.ask("POST", "/", f"Content-Length: {4 * WINDOW_BYTES}").rid
    world.agent.session.pause_writing()
    assert not world.caller.wire.reading
    world.agent.send(Window(rid, 1))
    assert not world.caller.wire.reading
    world.caller.send(b"x" * (WINDOW_BYTES + 1))
    world.agent.session.resume_writing()
    assert not world.caller.wire.reading
    world.agent.send(Window(rid, WINDOW_BYTES))
    assert world.caller.wire.reading


def test_a_request_that_comes_while_the_link_is_full_waits(world):
    world.agent.session.pause_writing()
    assert world.ask("POST", "/", "Content-Length: 10")
    assert not world.caller.wire.reading
    world.agent.session.resume_writing()
    assert world.caller.wire.reading


def test_what_comes_with_the_head_waits_for_a_full_link_too(world):
    world.agent.session.pause_writing()
    body = b"a\r\n0123456789\r\n0\r\n\r\n"
    assert world.ask("POST", "/", "Transfer-Encoding: chunked", body=body)
    world.loop.advance(20)
    assert world.agent.frames == []
    world.agent.session.resume_writing()
    assert world.agent.take(ReqBody).chunk == b"0123456789"
    world.agent.take(ReqEnd)


def test_a_short_body_that_came_with_its_head_is_no_body_to_a_full_link(world):
    world.agent.session.pause_writing()
    assert world.ask("POST", "/", "Content-Length: 10", body=b"0123456789")
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
    world.caller.connection.pause_writing()
    world.agent.send(*[RespBody(rid, chunk)] * 4)
    assert world.agent.frames == []
    world.caller.connection.resume_writing()
    assert world.agent.take(Window).credit_bytes == WINDOW_BYTES
    world.agent.send(RespBody(rid, chunk), RespEnd(rid))
    assert world.agent.frames == []


@pytest.fixture
def plain(loop):
    """A world whose agent knows no windows."""
    return RelayWorld(loop, flow_control=False)


def test_without_windows_a_body_is_not_counted(plain):
    plain.ask("POST", "/", f"Content-Length: {4 * WINDOW_BYTES}")
    plain.caller.send(b"x" * 2 * WINDOW_BYTES)
    assert plain.caller.wire.reading


def download(world, caller):
    """Have the answer to a caller's request begin; return what brings it more."""
    world.agent.take_all()
    caller.ask()
    rid = world.agent.take(ReqHeaders).rid
    world.agent.send(RespHeaders(rid, 200, []))

    def more(size):
        world.agent.send(RespBody(rid, b"x" * size))
        if caller.connection.write_paused:
            caller.wire.unread_bytes += size

    return more


def test_without_windows_a_slow_caller_is_waited_for(plain):
    more = download(plain, plain.caller)
    plain.caller.connection.pause_writing()
    for _ in range(20):
        more(WINDOW_BYTES)
    assert len(plain.relay.slow_readers) == 1
    plain.loop.advance(100)
    assert not plain.caller.wire.closed
    plain.caller.wire.unread_bytes = 0
    plain.caller.connection.resume_writing()
    assert len(plain.relay.slow_readers) == 0
    assert not any(isinstance(frame, Window) for frame in plain.agent.frames)


def test_without_windows_a_caller_that_stands_still_is_given_up_in_time(plain):
    more = download(plain, plain.caller)
    plain.caller.connection.pause_writing()
    more(2 * WINDOW_BYTES)
    plain.loop.advance(2 * plain.relay.idle_timeout_s + 1)
    assert plain.caller.wire.closed
    assert len(plain.relay.slow_readers) == 0
    plain.assert_nothing_in_flight()


def test_past_the_bound_the_slowest_caller_alone_is_cut_off(plain, monkeypatch, refused):
    monkeypatch.setattr(slow_readers, "_MAX_UNREAD_BYTES", 10 * WINDOW_BYTES)
    slowest, slow = RelayCaller(plain), RelayCaller(plain)
    to_slowest, to_slow = download(plain, slowest), download(plain, slow)
    to_reader = download(plain, plain.caller)
    for caller in (slowest, slow):
        caller.connection.pause_writing()
    for _ in range(5):
        to_slowest(WINDOW_BYTES)
        to_slowest(WINDOW_BYTES // 2)
        to_slow(WINDOW_BYTES)
        to_reader(WINDOW_BYTES)
    assert slowest.wire.aborted
    assert not slow.wire.closed
    assert not plain.caller.wire.closed
    plain.agent.take(ReqEnd)
    plain.agent.take(Cancel)
    assert plain.agent.frames == []
    assert [line.split(": ")[1] for line in refused()] == ["503 TUNNEL_CAPACITY_EXCEEDED"]
    assert len(plain.relay.slow_readers) == 1


# Whole messages in one frame, with an agent that knows them.


@pytest.fixture
def brief(loop):
    return RelayWorld(loop, whole_messages=True)


def test_a_request_without_a_body_is_one_frame(brief):
    frame = brief.ask()
    assert frame.end
    assert frame.body == b""
    assert brief.agent.frames == []


def test_a_short_request_is_one_frame(brief):
    frame = brief.ask("POST", "/x", "Content-Length: 5", body=b"hello")
    assert frame.end
    assert frame.body == b"hello"
    assert brief.agent.frames == []


def test_two_short_requests_in_one_read(brief):
    brief.route.limits.max_inflight = 1
    head = f"POST /s/rt_1/x HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\nContent-Length: 5\r\n\r\n".encode()
    brief.caller.send(head + b"hello" + head + b"world")
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
    frame = brief.ask("POST", "/x", *lines, body=body)
    assert not frame.end
    assert frame.body == b""
    assert all(isinstance(frame, ReqBody | ReqEnd) for frame in brief.agent.frames)


def test_a_caller_that_leaves_its_short_request(brief):
    frame = brief.ask("POST", "/x", "Content-Length: 5", body=b"hello")
    brief.caller.connection.connection_lost(None)
    assert brief.agent.take(Cancel).rid == frame.rid
    brief.assert_nothing_in_flight()


def test_an_answer_in_one_frame(brief):
    rid = brief.ask().rid
    brief.agent.send(RespHeaders(rid, 200, [("Content-Length", "5")], body=b"hello", end=True))
    assert brief.read().endswith(b"\r\nContent-Length: 5\r\n\r\nhello")
    brief.assert_nothing_in_flight()
    assert brief.agent.frames == []


def test_an_answer_in_one_frame_while_the_request_goes_on(brief):
    rid = brief.ask("POST", "/x", "Content-Length: 9", body=b"hello").rid
    brief.agent.take(ReqBody)
    brief.agent.send(RespHeaders(rid, 200, [("Content-Length", "2")], body=b"no", end=True))
    assert brief.read().endswith(b"\r\n\r\nno")
    brief.agent.take(Cancel)
    brief.assert_nothing_in_flight()


@pytest.mark.parametrize(("length", "body"), [(4, b"hello"), (6, b"hello"), (1, b"")])
def test_an_answer_in_one_frame_of_another_length_is_cut_off(brief, length, body):
    rid = brief.ask().rid
    headers = [("Content-Length", str(length))]
    brief.agent.send(RespHeaders(rid, 200, headers, body=body, end=True))
    brief.read()
    assert brief.caller.wire.closed
    brief.assert_nothing_in_flight()


def test_an_answer_in_one_frame_without_a_length(brief):
    rid = brief.ask().rid
    brief.agent.send(RespHeaders(rid, 200, [], body=b"hello", end=True))
    assert brief.read().endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")


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
    assert brief.caller.wire.take().endswith(b"hello")


def test_answers_are_written_together_while_others_are_under_way(brief):
    first = brief.ask().rid
    brief.call()
    brief.agent.send(RespHeaders(first, 200, [("Content-Length", "5")], body=b"hello", end=True))
    assert brief.caller.wire.take() == b""
    assert brief.read().endswith(b"hello")


def test_a_request_says_whether_others_are_under_way(brief):
    seen = []

    class SeenLink:
        def send(self, frame, *, at_once):
            seen.append(at_once)
            link.send(frame)

    link = brief.agent.session.link
    brief.agent.session.link = SeenLink()
    brief.ask()
    brief.call("POST", "/x", "Content-Length: 5", body=b"hello")
    assert seen == [True, False]
