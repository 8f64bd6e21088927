"""A request and an agent that comes and goes: without sockets, time by hand."""

import json

import pytest

from pytest_synth_tunnels.relay import proxied_request as module
from pytest_synth_tunnels.relay.route import Limits
from pytest_synth_tunnels.wire.frames import (
    WINDOW_BYTES,
    Cancel,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespHeaders,
    Window,
)

from ..support.relay_world import TOKEN, FakeAgent, RelayCaller, RelayWorld


@pytest.fixture
def world(loop):
    return RelayWorld(loop, agent=False)


# Requests that come while there is no agent.


def test_a_request_waits_for_the_agent(world):
    caller = world.call()
    world.loop.advance(4.9)
    assert caller.read() == b""
    assert world.route.inflight == 1
    agent = world.attach()
    rid = agent.take(ReqHeaders).rid
    agent.take(ReqEnd)
    agent.respond(rid, b"hello")
    assert caller.read().endswith(b"\r\n\r\nhello")
    world.assert_nothing_in_flight()


def test_the_acknowledgement_comes_first(world):
    world.call()
    agent = FakeAgent(world.relay)  # asserts it
    assert agent.frames == []
    world.loop.tick()
    agent.take(ReqHeaders)


def test_a_rotated_worker_token_refuses_who_waits_for_the_agent(world):
    caller = world.call()
    world.relay.rotate_worker("l1", "wt_2")
    assert caller.failure() == (401, "TUNNEL_AUTH_INVALID")
    assert world.attach().frames == []
    world.assert_nothing_in_flight()


def test_a_rotated_worker_token_leaves_alone_what_the_agent_has(world):
    agent = world.attach()
    caller = world.call()
    rid = agent.take(ReqHeaders).rid
    world.relay.rotate_worker("l1", "wt_2")
    agent.take(ReqEnd)
    assert agent.frames == []
    agent.respond(rid, b"hello")
    assert caller.read().endswith(b"hello")
    assert world.call().failure() == (401, "TUNNEL_AUTH_INVALID")


def test_it_waits_so_long_and_no_longer(world):
    caller = world.call()
    world.loop.advance(5.1)
    assert caller.failure() == (503, "AGENT_OFFLINE")
    world.assert_nothing_in_flight()
    assert not caller.wire.closed


def test_its_deadline_begins_with_the_agent(world):
    caller = world.call()
    world.loop.advance(4)
    agent = world.attach()
    assert agent.take(ReqHeaders).deadline_ms == 30_000
    world.loop.advance(29)
    assert caller.read() == b""
    world.loop.advance(2)
    assert caller.failure() == (504, "TUNNEL_TIMEOUT")


def test_many_wait_in_order_and_a_bounded_number(loop):
    world = RelayWorld(loop, agent=False, limits=Limits(max_held=3))
    callers = [world.call("GET", f"/{n}") for n in range(4)]
    assert callers[3].failure() == (503, "AGENT_OFFLINE")
    agent = world.attach()
    heads = [frame for frame in agent.frames if isinstance(frame, ReqHeaders)]
    assert [head.path for head in heads] == ["/0", "/1", "/2"]
    for head in heads:
        agent.respond(head.rid, head.path.encode())
    assert [caller.read()[-2:] for caller in callers[:3]] == [b"/0", b"/1", b"/2"]
    world.assert_nothing_in_flight()


def test_those_that_wait_count_as_in_flight(loop):
    world = RelayWorld(loop, agent=False, limits=Limits(max_inflight=1))
    world.call()
    assert world.call().failure() == (429, "TUNNEL_CAPACITY_EXCEEDED")


def test_where_nothing_is_held(loop):
    world = RelayWorld(loop, agent=False, limits=Limits(hold_s=0))
    assert world.call().failure() == (503, "AGENT_OFFLINE")
    world.assert_nothing_in_flight()


def test_a_question_whether_the_tunnel_is_up_is_answered_at_once(world):
    assert world.call("GET", "/~gw1/__synth/nonce/0123").failure() == (503, "AGENT_OFFLINE")


def test_the_body_of_a_waiting_request_is_not_read(world):
    caller = world.call("POST", "/", "Content-Length: 9", body=b"ab")
    assert not caller.wire.reading
    assert world.relay.held.body_bytes == 2
    agent = world.attach()
    assert caller.wire.reading
    assert world.relay.held.body_bytes == 0
    agent.take(ReqHeaders)
    assert agent.take(ReqBody).chunk == b"ab"
    caller.send(b"cdefghi")
    assert agent.take(ReqBody).chunk == b"cdefghi"
    agent.take(ReqEnd)


def test_a_body_that_is_there_already_comes_whole(world):
    world.call("POST", "/", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    agent = world.attach()
    agent.take(ReqHeaders)
    assert agent.take(ReqBody).chunk == b"abc"
    agent.take(ReqEnd)
    assert agent.frames == []


def test_a_body_that_fills_the_window_goes_on_with_it(world):
    caller = world.call("POST", "/", "Content-Length: 999999", body=b"x" * WINDOW_BYTES)
    world.attach()
    assert not caller.wire.reading


def test_a_body_is_asked_for_only_when_there_is_an_agent(world):
    caller = world.call("PUT", "/", "Content-Length: 2", "Expect: 100-continue")
    assert caller.read() == b""
    world.attach()
    assert caller.read() == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_what_waits_of_bodies_is_bounded(world, monkeypatch):
    monkeypatch.setattr(module, "_MAX_HELD_BYTES", 10)
    first = world.call("POST", "/", "Content-Length: 90", body=b"x" * 8)
    second = world.call("POST", "/", "Content-Length: 90", body=b"x" * 8)
    assert second.failure() == (503, "AGENT_OFFLINE")
    assert world.relay.held.body_bytes == 8
    assert first.read() == b""


def test_a_body_too_large_is_refused_while_it_waits(loop):
    world = RelayWorld(loop, agent=False, limits=Limits(max_request_bytes=4))
    caller = world.call("POST", "/", "Transfer-Encoding: chunked", body=b"5\r\nabcde\r\n")
    assert caller.failure() == (413, "TUNNEL_PAYLOAD_TOO_LARGE")
    world.assert_nothing_in_flight()


def test_a_caller_that_gives_up_waiting(world):
    caller = world.call()
    caller.connection.connection_lost(None)
    world.assert_nothing_in_flight()
    assert world.attach().frames == []


def test_what_fails_is_in_the_log(world, refused):
    """Under the id that the caller got, if it still got an answer."""
    caller = world.call()
    world.loop.advance(5.1)
    request_id = json.loads(caller.read().partition(b"\r\n\r\n")[2])["request_id"]
    assert refused() == [f"{request_id} from 192.0.2.7: 503 AGENT_OFFLINE"]
    agent = world.attach()
    world.call()
    rid = agent.take(ReqHeaders).rid
    agent.link.send(RespHeaders(rid, 200, []))
    agent.link.close()
    assert refused()[1:] == [f"{rid} from 192.0.2.7: 502 AGENT_LOST"]
    world.call("GET", "/", "Content-Length: x")
    assert refused()[2:] == ["a request from 192.0.2.7: 400 BAD_REQUEST"]


def test_what_succeeds_is_not_in_the_log(world, refused):
    agent = world.attach()
    caller = world.call()
    agent.respond(agent.take(ReqHeaders).rid)
    assert caller.read().startswith(b"HTTP/1.1 200")
    world.call().connection.connection_lost(None)
    assert refused() == []


def test_closing_the_lease_ends_the_waiting(world):
    callers = [world.call() for _ in range(2)]
    world.relay.close("l1", "it was closed")
    assert [caller.failure() for caller in callers] == [(410, "TUNNEL_LEASE_EXPIRED")] * 2
    world.assert_nothing_in_flight()


def test_an_agent_that_answers_at_once(world):
    callers = [world.call("POST", "/", "Content-Length: 1", body=b"x") for _ in range(3)]
    agent = FakeAgent(world.relay)
    agent.answer = lambda frame, send: (
        agent.respond(frame.rid, b"ok") if isinstance(frame, ReqHeaders) else None
    )
    world.loop.tick()
    assert [caller.read()[-2:] for caller in callers] == [b"ok"] * 3
    world.assert_nothing_in_flight()


def test_an_agent_that_goes_before_it_has_taken_all(world):
    callers = [world.call("GET", f"/{n}") for n in range(3)]
    agent = FakeAgent(world.relay)
    agent.answer = lambda frame, send: agent.link.close()
    world.loop.tick()
    assert [frame.path for frame in agent.frames if isinstance(frame, ReqHeaders)] == ["/0"]
    assert world.relay.held.count("l1") == 3
    agent = world.attach()
    paths = [frame.path for frame in agent.frames if isinstance(frame, ReqHeaders)]
    assert paths == ["/1", "/2", "/0"]
    for caller in callers:
        assert caller.read() == b""


def test_an_agent_for_which_every_path_begins_with_a_slash_gets_no_asterisk(world):
    lines = f"OPTIONS * HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n\r\n".encode()
    caller = RelayCaller(world, server=world.origin)
    caller.send(lines)
    world.attach()
    assert caller.failure() == (501, "ASTERISK_UNSUPPORTED")
    world.attach(exact_http=True)
    caller.send(lines)
    assert world.agent.take(ReqHeaders).path == "*"


# Requests that had reached an agent.


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_harmless_request_is_sent_again(world, method):
    first = world.attach()
    caller = world.call(method, "/x?y", "A: b")
    sent = first.take(ReqHeaders)
    first.take(ReqEnd)
    world.loop.advance(3)
    first.link.close()
    world.loop.advance(2)
    assert caller.read() == b""
    second = world.attach()
    again = second.take(ReqHeaders)
    assert again.rid != sent.rid
    assert (again.method, again.path, again.query, again.headers) == (
        sent.method,
        sent.path,
        sent.query,
        sent.headers,
    )
    assert second.take(ReqEnd).rid == again.rid
    second.link.send(RespHeaders(sent.rid, 500, []))  # late, from before the loss
    second.respond(again.rid)
    assert caller.read().startswith(b"HTTP/1.1 200")
    world.assert_nothing_in_flight()


def test_it_is_sent_again_within_its_first_deadline(world):
    first = world.attach()
    caller = world.call()
    world.loop.advance(20)
    first.link.close()
    second = world.attach()
    assert second.take(ReqHeaders).deadline_ms == 10_000
    world.loop.advance(9.9)
    assert caller.read() == b""
    world.loop.advance(0.2)
    assert caller.failure() == (504, "TUNNEL_TIMEOUT")


def test_what_it_waits_counts_to_its_first_deadline(world):
    first = world.attach()
    caller = world.call()
    world.loop.advance(20)
    first.link.close()
    world.loop.advance(4)
    assert world.attach().take(ReqHeaders).deadline_ms == 6_000
    world.loop.advance(5.9)
    assert caller.read() == b""
    world.loop.advance(0.2)
    assert caller.failure() == (504, "TUNNEL_TIMEOUT")
    world.assert_nothing_in_flight()


def test_it_waits_no_longer_than_its_deadline(world):
    first = world.attach()
    caller = world.call()
    world.loop.advance(28)
    first.link.close()
    world.loop.advance(2.1)
    assert caller.failure() == (503, "AGENT_OFFLINE")


def test_it_is_sent_again_once(world):
    first = world.attach()
    caller = world.call()
    first.link.close()
    world.attach().link.close()
    assert caller.failure() == (502, "AGENT_LOST")
    world.assert_nothing_in_flight()


def test_no_agent_returns(world):
    agent = world.attach()
    caller = world.call()
    agent.link.close()
    world.loop.advance(5.1)
    assert caller.failure() == (503, "AGENT_OFFLINE")
    world.assert_nothing_in_flight()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW"])
def test_what_may_do_harm_fails_at_once(world, method):
    agent = world.attach()
    caller = world.call(method)
    agent.link.close()
    assert caller.failure() == (502, "AGENT_LOST")
    world.assert_nothing_in_flight()


def test_what_has_a_body_fails_at_once(world):
    agent = world.attach()
    caller = world.call("GET", "/", "Content-Length: 1", body=b"x")
    agent.link.close()
    assert caller.failure() == (502, "AGENT_LOST")


def test_an_answer_that_has_begun_is_cut_off(world):
    agent = world.attach()
    caller = world.call()
    agent.link.send(RespHeaders(agent.take(ReqHeaders).rid, 200, []))
    agent.link.close()
    assert not caller.read().endswith(b"0\r\n\r\n")
    assert caller.wire.closed
    world.assert_nothing_in_flight()


def test_another_agent_takes_over(world):
    first = world.attach()
    caller = world.call()
    rid = first.take(ReqHeaders).rid
    first.take(ReqEnd)
    second = world.attach()
    assert first.take(Cancel).rid == rid
    second.respond(second.take(ReqHeaders).rid)
    assert caller.read().startswith(b"HTTP/1.1 200")


def test_a_request_lost_inside_its_own_sending(world):
    first = world.attach()
    first.answer = lambda frame, send: first.link.close()
    caller = world.call()
    second = world.attach()
    rid = second.take(ReqHeaders).rid
    second.take(ReqEnd)
    second.respond(rid)
    assert caller.read().startswith(b"HTTP/1.1 200")
    world.assert_nothing_in_flight()


def test_a_caller_that_gives_up_between_two_agents(world):
    agent = world.attach()
    caller = world.call()
    agent.link.close()
    caller.connection.connection_lost(None)
    world.assert_nothing_in_flight()


# Bodies and their limits.


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_a_length_without_a_body_is_no_large_answer(loop, method, status):
    world = RelayWorld(loop, agent=False, limits=Limits(max_response_bytes=4))
    agent = world.attach()
    caller = world.call(method)
    rid = agent.take(ReqHeaders).rid
    agent.link.send(RespHeaders(rid, status, [("Content-Length", "5")]))
    agent.link.send(RespEnd(rid))
    answer = caller.read()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nContent-Length: 5\r\n" in answer) is (status != 204)
    assert answer.endswith(b"\r\n\r\n")
    world.assert_nothing_in_flight()


def test_a_length_over_the_limit_is_refused(loop):
    world = RelayWorld(loop, agent=False, limits=Limits(max_response_bytes=4))
    agent = world.attach()
    caller = world.call()
    agent.link.send(RespHeaders(agent.take(ReqHeaders).rid, 200, [("Content-Length", "5")]))
    assert caller.failure() == (413, "TUNNEL_PAYLOAD_TOO_LARGE")
    world.assert_nothing_in_flight()


# Agents that keep to nothing.


def keep_granting(world, agent, rid, times):
    """Let an agent grant a byte every 20 s."""
    for _ in range(times):
        agent.link.send(Window(rid, 1))
        world.loop.advance(20)


def test_credit_for_no_body_is_no_progress(world):
    agent = world.attach()
    caller = world.call()
    keep_granting(world, agent, agent.take(ReqHeaders).rid, 2)
    assert caller.failure() == (504, "TUNNEL_TIMEOUT")
    world.assert_nothing_in_flight()


def test_credit_for_a_body_that_is_over_is_no_progress(world):
    agent = world.attach()
    caller = world.call("POST", "/", "Content-Length: 9", body=b"x" * 9)
    keep_granting(world, agent, agent.take(ReqHeaders).rid, 2)
    assert caller.failure() == (504, "TUNNEL_TIMEOUT")


def test_credit_after_the_answer_began_is_no_progress(world):
    agent = world.attach()
    caller = world.call()
    rid = agent.take(ReqHeaders).rid
    agent.link.send(RespHeaders(rid, 200, []))
    keep_granting(world, agent, rid, 31)
    assert caller.wire.closed
    world.assert_nothing_in_flight()


def test_credit_is_progress_only_for_what_was_sent(world):
    agent = world.attach()
    caller = world.call("POST", "/", "Content-Length: 999999", body=b"x" * 2)
    rid = agent.take(ReqHeaders).rid
    keep_granting(world, agent, rid, 2)
    assert caller.read() == b""
    keep_granting(world, agent, rid, 2)
    assert caller.failure() == (504, "TUNNEL_TIMEOUT")


def test_credit_is_never_more_than_a_window(world):
    agent = world.attach()
    caller = world.call("POST", "/", "Content-Length: 9999999", body=b"x")
    agent.link.send(Window(agent.take(ReqHeaders).rid, 99 * WINDOW_BYTES))
    caller.send(bytes(WINDOW_BYTES - 1))
    assert caller.wire.reading
    caller.send(b"x")
    assert not caller.wire.reading


def test_an_agent_that_ignores_its_window_loses_the_request_alone(world):
    agent = world.attach()
    caller, other = world.call(), world.call()
    heads = [frame for frame in agent.frames if isinstance(frame, ReqHeaders)]
    agent.frames.clear()
    agent.link.send(RespHeaders(heads[0].rid, 200, []))
    caller.connection.pause_writing()
    for _ in range(5):
        agent.link.send(RespBody(heads[0].rid, bytes(WINDOW_BYTES)))
    assert agent.take(Cancel).rid == heads[0].rid
    assert caller.wire.closed
    agent.respond(heads[1].rid)
    assert other.read().startswith(b"HTTP/1.1 200")
    world.assert_nothing_in_flight()


def test_an_agent_that_ignores_cancel_and_keeps_sending(world):
    agent = world.attach()
    caller, other = world.call(), world.call()
    heads = [frame for frame in agent.frames if isinstance(frame, ReqHeaders)]
    agent.frames.clear()
    world.loop.advance(20)
    agent.link.send(RespHeaders(heads[1].rid, 200, []))
    world.loop.advance(10.1)
    assert caller.failure() == (504, "TUNNEL_TIMEOUT")
    assert agent.take(Cancel).rid == heads[0].rid
    other.read()
    for _ in range(20):
        agent.respond(heads[0].rid, bytes(WINDOW_BYTES))
        agent.link.send(RespBody(heads[1].rid, b"x"))
    assert caller.read() == b""
    assert not caller.wire.closed
    assert other.read() == b"1\r\nx\r\n" * 20
    assert agent.frames == []
