"""A request and an agent that comes and goes: without sockets, time by hand."""

import json

import pytest

from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay import proxied_request as module
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.wire.frames import (
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
    RespHeaders,
    Window,
)
from pytest_synth_tunnels.wire.link import memory_links


class Agent:
    """The far end of a link: keeps what arrives, first of all the acknowledgement."""

    def __init__(self, relay):
        inner, self.link = memory_links()
        self.session = inner.handler = relay.session(inner, "at_1")
        self.link.handler = self
        self.frames = []
        self.on_frame = None
        capabilities = AgentCapabilities(flow_control=True)
        self.link.send(Attach([AttachLease("l1")], capabilities=capabilities))
        assert isinstance(self.frames.pop(), AttachAck)

    def frame_received(self, frame):
        self.frames.append(frame)
        if self.on_frame is not None:
            self.on_frame(frame)

    def link_lost(self, reason):
        self.frames.append(reason)

    def take(self, kind):
        """Return the next frame, which must be of this kind."""
        frame = self.frames.pop(0)
        assert isinstance(frame, kind), frame
        return frame

    def answer(self, rid, body=b""):
        length = [("Content-Length", str(len(body)))]
        for frame in (RespHeaders(rid, 200, length), RespBody(rid, body), RespEnd(rid)):
            self.link.send(frame)


class Caller:
    """A connection that sends one request."""

    def __init__(self, world, method="GET", path="/x", *lines, body=b""):
        self.wire = type(world.wire)()
        self._world = world
        self.connection = world.server()
        self.connection.connection_made(self.wire)
        head = [f"{method} /s/rt_1{path} HTTP/1.1", "Host: a", "Authorization: Bearer wt_1", *lines]
        self.send("".join(f"{line}\r\n" for line in head).encode() + b"\r\n" + body)

    def send(self, data):
        self.connection.data_received(data)

    def read(self):
        self._world.loop.tick()
        return self.wire.take()

    def error(self):
        """Return status and code of the answer."""
        head, _, body = self.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["code"]


class World:
    """A relay with a lease, and no agent yet."""

    def __init__(self, loop, wire, **limits):
        self.loop = loop
        self.wire = wire
        self.relay = Relay(loop=loop, now=lambda: 5000.0, request_timeout_s=30)
        self.route = Route(
            lease_id="l1",
            route_token="rt_1",
            agent_token="at_1",
            worker_token="wt_1",
            limits=Limits(**limits),
        )
        self.relay.add(self.route)
        self.server = HttpServer(Ingress(self.relay), loop=loop)

    def agent(self):
        """Attach another agent, and let it begin."""
        agent = Agent(self.relay)
        self.loop.tick()
        return agent

    def ask(self, *args, **kwargs):
        return Caller(self, *args, **kwargs)

    def assert_nothing_under_way(self):
        assert self.route.inflight == 0
        assert not self.relay.held.count("l1")
        assert self.relay.held.body_bytes == 0
        assert len(self.relay.deadlines) == 0


@pytest.fixture
def world(loop, wire):
    return World(loop, wire)


# Requests that come while there is no agent.


def test_a_request_waits_for_the_agent(world):
    caller = world.ask()
    world.loop.advance(4.9)
    assert caller.read() == b""
    assert world.route.inflight == 1
    agent = world.agent()
    rid = agent.take(ReqHeaders).rid
    agent.take(ReqEnd)
    agent.answer(rid, b"hello")
    assert caller.read().endswith(b"\r\n\r\nhello")
    world.assert_nothing_under_way()


def test_the_acknowledgement_comes_first(world):
    world.ask()
    agent = Agent(world.relay)  # asserts it
    assert agent.frames == []
    world.loop.tick()
    agent.take(ReqHeaders)


def test_a_rotated_worker_token_refuses_who_waits_for_the_agent(world):
    caller = world.ask()
    world.relay.rotate_worker("l1", "wt_2")
    assert caller.error() == (401, "TUNNEL_AUTH_INVALID")
    assert world.agent().frames == []
    world.assert_nothing_under_way()


def test_a_rotated_worker_token_leaves_alone_what_the_agent_has(world):
    agent = world.agent()
    caller = world.ask()
    rid = agent.take(ReqHeaders).rid
    world.relay.rotate_worker("l1", "wt_2")
    agent.take(ReqEnd)
    assert agent.frames == []
    agent.answer(rid, b"hello")
    assert caller.read().endswith(b"hello")
    assert world.ask().error() == (401, "TUNNEL_AUTH_INVALID")


def test_it_waits_so_long_and_no_longer(world):
    caller = world.ask()
    world.loop.advance(5.1)
    assert caller.error() == (503, "AGENT_OFFLINE")
    world.assert_nothing_under_way()
    assert not caller.wire.closed


def test_its_deadline_begins_with_the_agent(world):
    caller = world.ask()
    world.loop.advance(4)
    agent = world.agent()
    assert agent.take(ReqHeaders).deadline_ms == 30_000
    world.loop.advance(29)
    assert caller.read() == b""
    world.loop.advance(2)
    assert caller.error() == (504, "TUNNEL_TIMEOUT")


def test_many_wait_in_order_and_a_bounded_number(loop, wire):
    world = World(loop, wire, max_held=3)
    callers = [world.ask("GET", f"/{n}") for n in range(4)]
    assert callers[3].error() == (503, "AGENT_OFFLINE")
    agent = world.agent()
    heads = [frame for frame in agent.frames if isinstance(frame, ReqHeaders)]
    assert [head.path for head in heads] == ["/0", "/1", "/2"]
    for head in heads:
        agent.answer(head.rid, head.path.encode())
    assert [caller.read()[-2:] for caller in callers[:3]] == [b"/0", b"/1", b"/2"]
    world.assert_nothing_under_way()


def test_those_that_wait_count_as_in_flight(loop, wire):
    world = World(loop, wire, max_inflight=1)
    world.ask()
    assert world.ask().error() == (429, "TUNNEL_CAPACITY_EXCEEDED")


def test_where_nothing_is_held(loop, wire):
    world = World(loop, wire, hold_s=0)
    assert world.ask().error() == (503, "AGENT_OFFLINE")
    world.assert_nothing_under_way()


def test_a_question_whether_the_tunnel_is_up_is_answered_at_once(world):
    assert world.ask("GET", "/~gw1/__synth/nonce/0123").error() == (503, "AGENT_OFFLINE")


def test_the_body_of_a_waiting_request_is_not_read(world):
    caller = world.ask("POST", "/", "Content-Length: 9", body=b"ab")
    assert not caller.wire.reading
    assert world.relay.held.body_bytes == 2
    agent = world.agent()
    assert caller.wire.reading
    assert world.relay.held.body_bytes == 0
    agent.take(ReqHeaders)
    assert agent.take(ReqBody).chunk == b"ab"
    caller.send(b"cdefghi")
    assert agent.take(ReqBody).chunk == b"cdefghi"
    agent.take(ReqEnd)


def test_a_body_that_is_there_already_comes_whole(world):
    world.ask("POST", "/", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    agent = world.agent()
    agent.take(ReqHeaders)
    assert agent.take(ReqBody).chunk == b"abc"
    agent.take(ReqEnd)
    assert agent.frames == []


def test_a_body_that_fills_the_window_goes_on_with_it(world):
    caller = world.ask("POST", "/", "Content-Length: 999999", body=b"x" * WINDOW_BYTES)
    world.agent()
    assert not caller.wire.reading


def test_a_body_is_asked_for_only_when_there_is_an_agent(world):
    caller = world.ask("PUT", "/", "Content-Length: 2", "Expect: 100-continue")
    assert caller.read() == b""
    world.agent()
    assert caller.read() == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_what_waits_of_bodies_is_bounded(world, monkeypatch):
    monkeypatch.setattr(module, "_MAX_HELD_BYTES", 10)
    first = world.ask("POST", "/", "Content-Length: 90", body=b"x" * 8)
    second = world.ask("POST", "/", "Content-Length: 90", body=b"x" * 8)
    assert second.error() == (503, "AGENT_OFFLINE")
    assert world.relay.held.body_bytes == 8
    assert first.read() == b""


def test_a_body_too_large_is_refused_while_it_waits(loop, wire):
    world = World(loop, wire, max_request_bytes=4)
    caller = world.ask("POST", "/", "Transfer-Encoding: chunked", body=b"5\r\nabcde\r\n")
    assert caller.error() == (413, "TUNNEL_PAYLOAD_TOO_LARGE")
    world.assert_nothing_under_way()


def test_a_caller_that_gives_up_waiting(world):
    caller = world.ask()
    caller.connection.connection_lost(None)
    world.assert_nothing_under_way()
    assert world.agent().frames == []


def test_what_fails_is_in_the_log(world, refused):
    """Under the id that the caller got, if it still got an answer."""
    caller = world.ask()
    world.loop.advance(5.1)
    request_id = json.loads(caller.read().partition(b"\r\n\r\n")[2])["request_id"]
    assert refused() == [f"{request_id} from 192.0.2.7: 503 AGENT_OFFLINE"]
    agent = world.agent()
    world.ask()
    rid = agent.take(ReqHeaders).rid
    agent.link.send(RespHeaders(rid, 200, []))
    agent.link.close()
    assert refused()[1:] == [f"{rid} from 192.0.2.7: 502 AGENT_LOST"]
    world.ask("GET", "/", "Content-Length: x")
    assert refused()[2:] == ["a request from 192.0.2.7: 400 BAD_REQUEST"]


def test_what_succeeds_is_not_in_the_log(world, refused):
    agent = world.agent()
    caller = world.ask()
    agent.answer(agent.take(ReqHeaders).rid)
    assert caller.read().startswith(b"HTTP/1.1 200")
    world.ask().connection.connection_lost(None)
    assert refused() == []


def test_closing_the_lease_ends_the_waiting(world):
    callers = [world.ask() for _ in range(2)]
    world.relay.close("l1", "it was closed")
    assert [caller.error() for caller in callers] == [(410, "TUNNEL_LEASE_EXPIRED")] * 2
    world.assert_nothing_under_way()


def test_an_agent_that_answers_at_once(world):
    callers = [world.ask("POST", "/", "Content-Length: 1", body=b"x") for _ in range(3)]
    agent = Agent(world.relay)
    agent.on_frame = lambda frame: (
        agent.answer(frame.rid, b"ok") if isinstance(frame, ReqHeaders) else None
    )
    world.loop.tick()
    assert [caller.read()[-2:] for caller in callers] == [b"ok"] * 3
    world.assert_nothing_under_way()


def test_an_agent_that_goes_before_it_has_taken_all(world):
    callers = [world.ask("GET", f"/{n}") for n in range(3)]
    agent = Agent(world.relay)
    agent.on_frame = lambda frame: agent.link.close()
    world.loop.tick()
    assert [frame.path for frame in agent.frames] == ["/0"]
    assert world.relay.held.count("l1") == 3
    agent = world.agent()
    paths = [frame.path for frame in agent.frames if isinstance(frame, ReqHeaders)]
    assert paths == ["/1", "/2", "/0"]
    for caller in callers:
        assert caller.read() == b""


# Requests that had reached an agent.


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_harmless_request_is_sent_again(world, method):
    first = world.agent()
    caller = world.ask(method, "/x?y", "A: b")
    sent = first.take(ReqHeaders)
    first.take(ReqEnd)
    world.loop.advance(3)
    first.link.close()
    world.loop.advance(2)
    assert caller.read() == b""
    second = world.agent()
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
    second.answer(again.rid)
    assert caller.read().startswith(b"HTTP/1.1 200")
    world.assert_nothing_under_way()


def test_it_is_sent_again_within_its_first_deadline(world):
    first = world.agent()
    caller = world.ask()
    world.loop.advance(20)
    first.link.close()
    second = world.agent()
    assert second.take(ReqHeaders).deadline_ms == 10_000
    world.loop.advance(9.9)
    assert caller.read() == b""
    world.loop.advance(0.2)
    assert caller.error() == (504, "TUNNEL_TIMEOUT")


def test_what_it_waits_counts_to_its_first_deadline(world):
    first = world.agent()
    caller = world.ask()
    world.loop.advance(20)
    first.link.close()
    world.loop.advance(4)
    assert world.agent().take(ReqHeaders).deadline_ms == 6_000
    world.loop.advance(5.9)
    assert caller.read() == b""
    world.loop.advance(0.2)
    assert caller.error() == (504, "TUNNEL_TIMEOUT")
    world.assert_nothing_under_way()


def test_it_waits_no_longer_than_its_deadline(world):
    first = world.agent()
    caller = world.ask()
    world.loop.advance(28)
    first.link.close()
    world.loop.advance(2.1)
    assert caller.error() == (503, "AGENT_OFFLINE")


def test_it_is_sent_again_once(world):
    first = world.agent()
    caller = world.ask()
    first.link.close()
    world.agent().link.close()
    assert caller.error() == (502, "AGENT_LOST")
    world.assert_nothing_under_way()


def test_no_agent_returns(world):
    agent = world.agent()
    caller = world.ask()
    agent.link.close()
    world.loop.advance(5.1)
    assert caller.error() == (503, "AGENT_OFFLINE")
    world.assert_nothing_under_way()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW"])
def test_what_may_do_harm_fails_at_once(world, method):
    agent = world.agent()
    caller = world.ask(method)
    agent.link.close()
    assert caller.error() == (502, "AGENT_LOST")
    world.assert_nothing_under_way()


def test_what_has_a_body_fails_at_once(world):
    agent = world.agent()
    caller = world.ask("GET", "/", "Content-Length: 1", body=b"x")
    agent.link.close()
    assert caller.error() == (502, "AGENT_LOST")


def test_an_answer_that_has_begun_is_cut_off(world):
    agent = world.agent()
    caller = world.ask()
    agent.link.send(RespHeaders(agent.take(ReqHeaders).rid, 200, []))
    agent.link.close()
    assert not caller.read().endswith(b"0\r\n\r\n")
    assert caller.wire.closed
    world.assert_nothing_under_way()


def test_another_agent_takes_over(world):
    first = world.agent()
    caller = world.ask()
    rid = first.take(ReqHeaders).rid
    first.take(ReqEnd)
    second = world.agent()
    assert first.take(Cancel).rid == rid
    second.answer(second.take(ReqHeaders).rid)
    assert caller.read().startswith(b"HTTP/1.1 200")


def test_a_request_lost_inside_its_own_sending(world):
    first = world.agent()
    first.on_frame = lambda frame: first.link.close()
    caller = world.ask()
    second = world.agent()
    rid = second.take(ReqHeaders).rid
    second.take(ReqEnd)
    second.answer(rid)
    assert caller.read().startswith(b"HTTP/1.1 200")
    world.assert_nothing_under_way()


def test_a_caller_that_gives_up_between_two_agents(world):
    agent = world.agent()
    caller = world.ask()
    agent.link.close()
    caller.connection.connection_lost(None)
    world.assert_nothing_under_way()


# Bodies and their limits.


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_a_length_without_a_body_is_no_large_answer(loop, wire, method, status):
    world = World(loop, wire, max_response_bytes=4)
    agent = world.agent()
    caller = world.ask(method)
    rid = agent.take(ReqHeaders).rid
    agent.link.send(RespHeaders(rid, status, [("Content-Length", "5")]))
    agent.link.send(RespEnd(rid))
    answer = caller.read()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nContent-Length: 5\r\n" in answer) is (status != 204)
    assert answer.endswith(b"\r\n\r\n")
    world.assert_nothing_under_way()


def test_a_length_over_the_limit_is_refused(loop, wire):
    world = World(loop, wire, max_response_bytes=4)
    agent = world.agent()
    caller = world.ask()
    agent.link.send(RespHeaders(agent.take(ReqHeaders).rid, 200, [("Content-Length", "5")]))
    assert caller.error() == (413, "TUNNEL_PAYLOAD_TOO_LARGE")
    world.assert_nothing_under_way()


# Agents that keep to nothing.


def keep_granting(world, agent, rid, times):
    """Let an agent grant a byte every 20 s."""
    for _ in range(times):
        agent.link.send(Window(rid, 1))
        world.loop.advance(20)


def test_credit_for_no_body_is_no_progress(world):
    agent = world.agent()
    caller = world.ask()
    keep_granting(world, agent, agent.take(ReqHeaders).rid, 2)
    assert caller.error() == (504, "TUNNEL_TIMEOUT")
    world.assert_nothing_under_way()


def test_credit_for_a_body_that_is_over_is_no_progress(world):
    agent = world.agent()
    caller = world.ask("POST", "/", "Content-Length: 9", body=b"x" * 9)
    keep_granting(world, agent, agent.take(ReqHeaders).rid, 2)
    assert caller.error() == (504, "TUNNEL_TIMEOUT")


def test_credit_after_the_answer_began_is_no_progress(world):
    agent = world.agent()
    caller = world.ask()
    rid = agent.take(ReqHeaders).rid
    agent.link.send(RespHeaders(rid, 200, []))
    keep_granting(world, agent, rid, 31)
    assert caller.wire.closed
    world.assert_nothing_under_way()


def test_credit_is_progress_only_for_what_was_sent(world):
    agent = world.agent()
    caller = world.ask("POST", "/", "Content-Length: 999999", body=b"x" * 2)
    rid = agent.take(ReqHeaders).rid
    keep_granting(world, agent, rid, 2)
    assert caller.read() == b""
    keep_granting(world, agent, rid, 2)
    assert caller.error() == (504, "TUNNEL_TIMEOUT")


def test_credit_is_never_more_than_a_window(world):
    agent = world.agent()
    caller = world.ask("POST", "/", "Content-Length: 9999999", body=b"x")
    agent.link.send(Window(agent.take(ReqHeaders).rid, 99 * WINDOW_BYTES))
    caller.send(bytes(WINDOW_BYTES - 1))
    assert caller.wire.reading
    caller.send(b"x")
    assert not caller.wire.reading


def test_an_agent_that_ignores_its_window_loses_the_request_alone(world):
    agent = world.agent()
    caller, other = world.ask(), world.ask()
    heads = [frame for frame in agent.frames if isinstance(frame, ReqHeaders)]
    agent.frames.clear()
    agent.link.send(RespHeaders(heads[0].rid, 200, []))
    caller.connection.pause_writing()
    for _ in range(5):
        agent.link.send(RespBody(heads[0].rid, bytes(WINDOW_BYTES)))
    assert agent.take(Cancel).rid == heads[0].rid
    assert caller.wire.closed
    agent.answer(heads[1].rid)
    assert other.read().startswith(b"HTTP/1.1 200")
    world.assert_nothing_under_way()


def test_an_agent_that_ignores_cancel_and_keeps_sending(world):
    agent = world.agent()
    caller, other = world.ask(), world.ask()
    heads = [frame for frame in agent.frames if isinstance(frame, ReqHeaders)]
    agent.frames.clear()
    world.loop.advance(20)
    agent.link.send(RespHeaders(heads[1].rid, 200, []))
    world.loop.advance(10.1)
    assert caller.error() == (504, "TUNNEL_TIMEOUT")
    assert agent.take(Cancel).rid == heads[0].rid
    other.read()
    for _ in range(20):
        agent.answer(heads[0].rid, bytes(WINDOW_BYTES))
        agent.link.send(RespBody(heads[1].rid, b"x"))
    assert caller.read() == b""
    assert not caller.wire.closed
    assert other.read() == b"1\r\nx\r\n" * 20
    assert agent.frames == []
