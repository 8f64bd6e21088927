"""Generated garbage at every door: callers' bytes, an agent's WebSocket, a relay's frames."""

import asyncio
import struct
from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.protocol import Protocol, Side, State

from pytest_synth_tunnels.backend.server import AGENT_PATH
from pytest_synth_tunnels.http.request import BadRequest, HeadParser, as_ascii
from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.auth import admit
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Route
from pytest_synth_tunnels.wire.codec import decode, encode
from pytest_synth_tunnels.wire.frames import (
    ReqHeaders,
)

from ..support.garbage import (
    HANDSHAKE,
    REQUESTS,
    Door,
    EchoAgent,
    Spoilt,
    answers,
    case_count,
    spoilt,
    talk,
    wire_frames,
)
from ..support.manual_loop import ManualLoop, Wire


@case_count(120)
@given(spoilt())
def test_what_is_taken_for_a_head_means_the_same_to_others(data: bytes) -> None:
    head, end, _ = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not end or not head:
        return
    try:
        found = HeadParser("192.0.2.1").parse(head + end)
    except BadRequest:
        return
    # h11 takes only ASCII for a target, and others take more.
    line, *lines = head.split(b"\r\n")
    line = as_ascii(line.decode("latin-1")).encode()
    other = h11.Connection(h11.SERVER)
    other.receive_data(b"\r\n".join([line, *lines]) + end)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert event.method.decode() == found.method
    headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
    # h11 says the coding in lower case.
    assert [(name, value.lower()) for name, value in headers] == [
        (name.lower(), value.lower()) for name, value in found.headers
    ]
    target = event.target.decode().removesuffix("?" * (not found.query))
    whole = as_ascii(f"{found.path}?{found.query}" if found.query else found.path)
    assert target.endswith(whole) or "://" in target
    # And whatever reaches an agent is a frame that it takes.
    passed, chains = admit(found, None, require_token=True)
    passed += chains
    path = "/" + found.path.lstrip("/")
    frame = ReqHeaders("l1", "r1", found.method, path, found.query, passed, 1)
    assert decode(encode(frame)) == frame


@case_count(60)
@given(
    st.lists(spoilt() | st.sampled_from(REQUESTS) | st.binary(max_size=30), max_size=5),
    st.lists(st.integers(0, 400), max_size=5),
    st.booleans(),
)
def test_whatever_callers_send_is_answered_and_disturbs_nobody(
    parts: list[bytes], cuts: list[int], vanishes: bool
) -> None:
    loop = ManualLoop()
    relay = Relay(loop=loop, now=lambda: 0.0)  # type: ignore[arg-type]
    route = Route("l1", "rt_1", "at_1", require_token=False)
    relay.add(route)
    agent = EchoAgent(relay)
    server = HttpServer(Ingress(relay), loop=loop)  # type: ignore[arg-type]
    waiting, wire = Wire(), Wire()
    other, connection = server(), server()
    other.connection_made(waiting)
    connection.connection_made(wire)
    other.data_received(b"GET /s/rt_1/slow HTTP/1.1\r\nHost: a\r\n\r\n")
    (slow,) = agent.paths

    data = b"".join(parts)
    ends = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for start, end in pairwise(ends):
        connection.data_received(data[start:end])
        loop.tick()
    if not vanishes:
        loop.advance(100)  # whatever is not complete by now is refused
        assert wire.closed
    for status in answers(wire.take()):
        assert status in (100, 200, 400, 404, 408, 414, 431, 501, 505)
    connection.connection_lost(None)

    assert waiting.take() == b"" or not vanishes
    assert route.inflight <= 1
    if vanishes:
        agent.answer(slow)
        loop.tick()
        assert waiting.take().endswith(b"\r\n\r\n/slow")
    other.connection_lost(None)
    assert route.inflight == 0
    assert len(relay.deadlines) == len(server.deadlines) == len(server.limiter.connections) == 0


@case_count(40)
@given(attach=st.booleans(), frames=st.lists(wire_frames(), max_size=8), cut=st.integers(0, 30))
def test_whatever_an_agent_sends_ends_its_own_connection_at_the_worst(
    door: Door, attach: bool, frames: list[Spoilt], cut: int
) -> None:
    door.run(talk(door, attach, frames, cut))
    door.run(door.check())


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\xc1\x82mask\0\0", 1002),  # compressed, which nobody agreed on
        (b"\xf1\x82mask\0\0", 1002),
        (b"\x83\x80mask", 1002),  # no such opcode
        (b"\x8b\x80mask", 1002),
        (b"\x09\x80mask", 1002),  # a ping in pieces
        (b"\x89\xfe\x00\x7emask" + bytes(126), 1002),  # a ping too long
        (b"\x80\x80mask", 1002),  # continues nothing
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xffmask", 1009),
        (b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"mask", 1009),
        (b"\x88\x81maskx", 1002),  # half a close code
        (b"\x88\x82mask" + bytes(a ^ b for a, b in zip(b"\x03\xed", b"ma", strict=True)), 1002),
    ],
)
def test_a_broken_websocket_is_closed_with_a_code(door: Door, data: bytes, code: int) -> None:
    async def scenario() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.tunnels.port)
        writer.write(HANDSHAKE.format(AGENT_PATH, door.lease.agent_token).encode() + data)
        await reader.readuntil(b"\r\n\r\n")
        peer = Protocol(Side.CLIENT, state=State.OPEN)
        while peer.close_rcvd is None:
            received = await reader.read(65_536)
            assert received, "it was closed without a code"
            peer.receive_data(received)
        assert peer.close_rcvd.code == code
        writer.close()
        await door.check()

    door.run(scenario())
