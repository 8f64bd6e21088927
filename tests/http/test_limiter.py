"""ConnectionLimiter, through a server without sockets, time by hand."""

import pytest

from pytest_synth_tunnels.backend.synth_leases import MAX_INFLIGHT
from pytest_synth_tunnels.http.exchange import IGNORE
from pytest_synth_tunnels.relay.route import Limits

from ..support.http_server import GET, OneConnection


@pytest.fixture
def world(loop, wire):
    return OneConnection(loop, wire)


def knock(world):
    """Open another connection and return its two ends."""
    wire, connection = type(world.wire)(), world.server()
    connection.connection_made(wire)
    return connection, wire


def test_callers_that_say_nothing_are_bounded(loop, wire):
    world = OneConnection(loop, wire, max_unauthenticated=1)
    wires = [knock(world)[1] for _ in range(100)]
    loop.tick()
    assert wires[0].take().startswith(b"HTTP/1.1 503")
    assert wires[0].ended
    assert wires[-1].aborted
    assert wires[-1].take() == b""
    world.feed(GET % b"")
    assert world.handlers


def test_all_callers_of_a_lease_may_come_in_one_moment(loop, wire):
    limit = Limits().max_unauthenticated_connections
    world = OneConnection(loop, wire, max_unauthenticated=limit)
    callers = [knock(world) for _ in range(MAX_INFLIGHT + 100)]  # with some that come and go
    for connection, _ in callers:
        connection.data_received(GET % b"")
    loop.tick()
    assert len(world.handlers) == len(callers)
    assert not any(wire.closed for _, wire in callers)


def test_the_oldest_stranger_makes_room(loop, wire):
    world = OneConnection(loop, wire, max_unauthenticated=2)
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
    assert not world.server.limiter.connections
    assert not world.server.limiter.strangers
    assert len(world.server.deadlines) == 0


def test_who_was_let_in_is_no_stranger(loop, wire):
    def route(exchange):
        if exchange.head.path == "/no":
            exchange.respond(401, [], b"")
            return IGNORE
        return world.route(exchange)

    world = OneConnection(loop, wire, route, max_unauthenticated=1, max_connections=2)
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
    assert not world.server.limiter.strangers
    _, late_wire = knock(world)
    loop.tick()
    assert late_wire.take().startswith(b"HTTP/1.1 503")
    assert not other_wire.closed
    world.feed(GET % b"more")
    assert world.handler.head.path == "/more"
