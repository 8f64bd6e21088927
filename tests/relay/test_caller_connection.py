"""A caller's connection, and what agents hold for it: without sockets, time by hand."""

import pytest

from pytest_synth_tunnels.relay.route import Route
from pytest_synth_tunnels.wire.frames import (
    CONNECTION_CLOSED,
    CONNECTION_RESET,
    CallerEof,
    Cancel,
    ConnClosed,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
)

from ..support.relay_world import FakeAgent, RelayWorld


@pytest.fixture
def world(loop):
    return RelayWorld(loop, caller_connections=True)


def answered(world, *lines):
    """Have the first caller's request answered; return the request."""
    frame = world.ask("GET", "/x", *lines)
    world.agent.take(ReqEnd)
    world.agent.respond(frame.rid)
    assert world.read().startswith(b"HTTP/1.1 200 ")
    return frame


def test_requests_on_one_connection_have_one_name(world):
    first, second = answered(world), answered(world)
    assert first.conn
    assert second.conn == first.conn
    other = world.call()
    assert world.agent.take(ReqHeaders).conn not in ("", first.conn)
    assert not other.wire.closed


def test_an_agent_that_ties_nothing_is_told_nothing(loop):
    world = RelayWorld(loop)
    assert answered(world).conn == ""
    world.caller.connection.connection_lost(None)
    assert world.agent.frames == []


def test_callers_that_share_a_connection_are_not_told_apart(loop):
    world = RelayWorld(loop, agent=False)
    world.relay.shared_connections = True
    world.attach(caller_connections=True)
    assert answered(world).conn == ""


def test_the_end_of_a_callers_connection_is_told(world):
    conn = answered(world).conn
    world.caller.connection.connection_lost(None)
    assert world.agent.take(ConnClosed).conn == conn
    assert world.agent.frames == []
    assert not world.agent.session.tied


def test_the_end_of_a_callers_connection_is_told_behind_its_request(world):
    frame = world.ask()
    world.agent.take(ReqEnd)
    world.caller.connection.connection_lost(None)
    assert world.agent.take(Cancel).rid == frame.rid
    assert world.agent.take(ConnClosed).conn == frame.conn
    world.assert_nothing_in_flight()


def test_the_only_request_of_a_connection_has_no_name(world):
    assert answered(world, "Connection: close").conn == ""
    assert world.caller.wire.closed
    assert world.agent.frames == []


def test_the_last_request_of_a_connection_says_so(world):
    conn = answered(world).conn
    last = answered(world, "Connection: close")
    assert (last.conn, last.close) == (conn, True)
    assert world.agent.take(ConnClosed).conn == conn


# The app ends its connection.


def test_an_app_that_closes_closes_the_callers_connection(world):
    conn = answered(world).conn
    world.agent.send(ConnClosed(conn))
    assert world.caller.wire.closed
    assert world.agent.frames == []
    world.agent.send(ConnClosed(conn))  # again, which changes nothing


def test_an_app_that_says_it_will_close_lets_the_caller_know(world):
    frame = world.ask()
    world.agent.take(ReqEnd)
    world.agent.send(
        RespHeaders(frame.rid, 200, [("Content-Length", "2")], close=True),
        RespBody(frame.rid, b"ok"),
        RespEnd(frame.rid),
    )
    assert b"\r\nConnection: close\r\n" in world.read()
    assert world.caller.wire.closed


def test_a_request_on_its_way_keeps_the_connection(world):
    conn = answered(world).conn
    frame = world.ask()
    world.agent.take(ReqEnd)
    world.agent.send(ConnClosed(conn))
    assert not world.caller.wire.closed
    world.agent.respond(frame.rid)
    assert world.read()
    world.agent.send(ConnClosed(conn))
    assert world.caller.wire.closed


def test_a_request_that_has_begun_to_come_keeps_the_connection(world):
    conn = answered(world).conn
    world.caller.send(b"GET /s/rt_1/ HTT")
    world.agent.send(ConnClosed(conn))
    assert not world.caller.wire.closed


def test_what_another_agent_holds_keeps_the_connection(world):
    route = Route("l2", "rt_2", "at_2", require_token=False)
    world.relay.add(route)
    other = FakeAgent(world.relay, name="2", caller_connections=True)
    conn = answered(world).conn
    world.caller.send(b"GET /s/rt_2/ HTTP/1.1\r\nHost: a\r\n\r\n")
    frame = other.take(ReqHeaders)
    assert frame.conn == conn
    other.respond(frame.rid)
    assert world.read()
    world.agent.send(ConnClosed(conn))
    assert not world.caller.wire.closed
    other.send(ConnClosed(conn))
    assert world.caller.wire.closed


def test_a_lost_agent_leaves_the_connection_for_the_next_one(world):
    conn = answered(world).conn
    lost = world.agent
    lost.link.close()
    assert not world.caller.wire.closed
    assert not lost.session.tied
    world.attach(caller_connections=True)
    assert answered(world).conn == conn
    world.caller.connection.connection_lost(None)
    assert world.agent.take(ConnClosed).conn == conn


@pytest.mark.parametrize(("code", "reset"), [(CONNECTION_CLOSED, False), (CONNECTION_RESET, True)])
def test_an_app_that_ends_its_connection_instead_of_answering_does_so_to_the_caller(
    world, refused, code, reset
):
    answered(world)
    frame = world.ask()
    world.agent.take(ReqEnd)
    world.agent.send(RespError(frame.rid, code, "it closed", "l1"))
    assert world.read() == b""
    assert world.caller.wire.closed
    assert world.caller.wire.aborted is reset
    world.assert_nothing_in_flight()
    assert refused() == [f"{frame.rid} from 192.0.2.7: 502 TUNNEL_ENDPOINT_UNREACHABLE"]


def test_an_answer_that_has_begun_is_cut_off_however_the_app_ended(world):
    frame = world.ask()
    world.agent.take(ReqEnd)
    world.agent.send(RespHeaders(frame.rid, 200, []), RespBody(frame.rid, b"x"))
    world.agent.send(RespError(frame.rid, CONNECTION_CLOSED, "it closed", "l1"))
    assert not world.read().endswith(b"0\r\n\r\n")
    assert world.caller.wire.closed


# The caller ends its side.


def test_the_end_of_the_callers_side_is_passed_on_and_the_answer_comes(world):
    frame = world.ask("POST", "/x", "Content-Length: 2", body=b"hi")
    world.agent.take(ReqBody)
    world.agent.take(ReqEnd)
    world.caller.connection.eof_received()
    assert world.agent.take(CallerEof).rid == frame.rid
    assert world.agent.frames == []
    world.agent.respond(frame.rid, b"hello")
    assert world.read().endswith(b"\r\n\r\nhello")
    assert world.caller.wire.closed
    assert world.agent.take(ConnClosed).conn == frame.conn
    world.assert_nothing_in_flight()


def test_the_end_of_the_callers_side_before_there_is_an_agent(loop):
    world = RelayWorld(loop, agent=False)
    world.ask()
    world.caller.connection.eof_received()
    assert not world.caller.wire.closed
    agent = world.attach(caller_connections=True)
    frame = agent.take(ReqHeaders)
    agent.take(ReqEnd)
    assert agent.take(CallerEof).rid == frame.rid
    agent.respond(frame.rid, b"hello")
    assert world.read().endswith(b"\r\n\r\nhello")
    world.assert_nothing_in_flight()


def test_an_agent_that_cannot_pass_it_on_drops_the_request(loop):
    world = RelayWorld(loop)
    frame = world.ask()
    world.agent.take(ReqEnd)
    world.caller.connection.eof_received()
    assert world.agent.take(Cancel).rid == frame.rid
    assert world.caller.wire.closed
    world.assert_nothing_in_flight()
