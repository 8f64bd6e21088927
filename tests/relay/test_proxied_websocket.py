"""The relay's end of a caller's WebSocket: without sockets, time by hand. The caller is the
library's protocol core."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Opcode
from websockets.protocol import Protocol, Side

from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.websocket import tunnelled
from pytest_synth_tunnels.wire.frames import (
    MAX_CHUNK_BYTES,
    WINDOW_BYTES,
    AgentCapabilities,
    Attach,
    AttachAck,
    AttachLease,
    FrameError,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
    WsClose,
    WsFrame,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
)
from pytest_synth_tunnels.wire.link import memory_links

from ..support.manual_loop import ManualLoop, Wire

HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class SlowWire(Wire):
    """A transport whose other end may stop reading."""

    def __init__(self):
        super().__init__()
        self.protocol = None
        self.waiting = 0
        """Bytes that the other end has not read, once it has stopped."""
        self.stopped = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def write(self, data):
        super().write(data)
        if self.stopped:
            if not self.waiting:
                self.protocol.pause_writing()
            self.waiting += len(data)

    def get_write_buffer_size(self):
        return self.waiting

    def go_on(self):
        self.stopped = False
        self.waiting = 0
        self.protocol.resume_writing()


class Agent:
    """The far end of a link: keeps what arrives."""

    def __init__(self, relay, **capabilities):
        inner, self.link = memory_links()
        self.session = inner.handler = relay.session(inner, "at_1")
        self.link.handler = self
        self.frames = []
        self.answer = None
        capabilities = {"websocket": True, "flow_control": True, **capabilities}
        self.link.send(Attach([AttachLease("l1")], capabilities=AgentCapabilities(**capabilities)))
        assert isinstance(self.frames.pop(), AttachAck)

    def frame_received(self, frame):
        self.frames.append(frame)
        if self.answer is not None:
            self.answer(frame)

    def link_lost(self, reason):
        self.frames.append(reason)

    def take(self, kind):
        """Return the next frame, which must be of this kind."""
        frame = self.frames.pop(0)
        assert isinstance(frame, kind), frame
        return frame

    def take_all(self):
        frames, self.frames = self.frames, []
        return frames

    def send(self, *frames):
        for frame in frames:
            self.link.send(frame)


class World:
    """A relay with a lease, an agent, and callers."""

    def __init__(self, loop, *, agent=True, limits=None, **capabilities):
        self.loop = loop
        self.time = 5000.0
        self.relay = Relay(loop=loop, now=lambda: self.time, request_timeout_s=30)
        self.route = Route(
            lease_id="l1",
            route_token="rt_1",
            agent_token="at_1",
            worker_token="wt_1",
            public_base_url="http://127.0.0.1:8787",
            limits=limits or Limits(),
        )
        self.relay.add(self.route)
        self.server = HttpServer(Ingress(self.relay), loop=loop)
        if agent:
            self.agent = Agent(self.relay, **capabilities)

    def attach(self, **capabilities):
        self.agent = Agent(self.relay, **capabilities)
        self.loop.tick()

    def call(self, *lines, method="GET", path="/s/rt_1/chat?x=%20", handshake=HANDSHAKE):
        """Send a caller's handshake."""
        caller = Caller(self)
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: relay.test:80",
            "Authorization: Bearer wt_1",
            *handshake,
            *lines,
        ]
        caller.connection.data_received("\r\n".join([*lines, "", ""]).encode())
        return caller

    def open(self, *lines, headers=()):
        """Return a caller whose WebSocket is open."""
        caller = self.call(*lines)
        caller.rid = self.agent.take(WsOpen).rid
        self.agent.send(WsOpenAck(caller.rid, list(headers), "l1"))
        caller.head = caller.wire.take()
        assert caller.head.startswith(b"HTTP/1.1 101 ")
        return caller

    def assert_nothing_under_way(self):
        assert self.route.websockets == self.route.inflight == 0
        assert not self.agent.session.websockets
        assert not self.relay.held.count("l1")


class Caller:
    """A caller, with the library's protocol core behind the handshake."""

    def __init__(self, world):
        self.world = world
        self.wire = SlowWire()
        self.connection = self.wire.protocol = world.server()
        self.connection.connection_made(self.wire)
        self.protocol = Protocol(Side.CLIENT, max_size=None)
        self.rid = ""

    def say(self, raw=b""):
        """Bring what the protocol has said, or these bytes, to the relay."""
        data = b"".join(self.protocol.data_to_send()) + raw
        self.wire.protocol.data_received(data)

    def send(self, data, *, fin=True):
        if self.protocol.expect_continuation_frame:
            self.protocol.send_continuation(data, fin)
        else:
            self.protocol.send_binary(data, fin)
        self.say()

    def hear(self):
        """Return what the relay has said, at the end of the tick."""
        self.world.loop.tick()
        self.protocol.receive_data(self.wire.take())
        return self.protocol.events_received()

    def messages(self):
        return [bytes(event.data) for event in self.hear()]

    def close(self):
        """Return the close frame that has come."""
        self.hear()
        assert self.protocol.close_rcvd is not None
        return self.protocol.close_rcvd

    def error(self, status):
        """Return the refusal that has come instead of a WebSocket."""
        self.world.loop.tick()
        head, _, body = self.wire.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert b"Connection: close" in head
        assert b"wt_1" not in body
        return json.loads(body)["code"]


@pytest.fixture
def world(loop):
    return World(loop)


# Opening.


def test_a_handshake_becomes_a_frame(world):
    world.call(
        "Origin: https://app.test",
        "Sec-WebSocket-Protocol: v1, v2",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Cookie: c=1",
        "X-Forwarded-For: 6.6.6.6",
    )
    frame = world.agent.take(WsOpen)
    assert (frame.path, frame.query, frame.lease_id) == ("/chat", "x=%20", "l1")
    assert frame.deadline_ms == 30_000
    assert frame.headers == [
        ("Origin", "https://app.test"),
        ("Sec-WebSocket-Protocol", "v1, v2"),
        ("Cookie", "c=1"),
        ("x-forwarded-prefix", "/s/rt_1"),
        ("x-synthtunnel-lease-id", "l1"),
        ("x-synthtunnel-request-id", frame.rid),
        ("x-forwarded-host", "relay.test:80"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "192.0.2.7"),
    ]
    assert world.agent.frames == []
    assert (world.route.websockets, world.route.inflight) == (1, 0)


def test_an_ack_completes_the_callers_handshake(world):
    caller = world.open(
        headers=[
            ("Sec-WebSocket-Protocol", "v2"),
            ("Set-Cookie", "a=1"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade, X-Hop"),
            ("X-Hop", "1"),
            ("Sec-WebSocket-Accept", "another"),
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ]
    )
    assert caller.head == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"%b\r\nSec-WebSocket-Protocol: v2\r\nSet-Cookie: a=1\r\n\r\n" % ACCEPT
    )
    assert len(world.relay.deadlines) == 0
    world.agent.send(WsOpenAck(caller.rid, [], "l1"), WsOpenReject(caller.rid, 400))
    assert caller.messages() == []


def test_an_agent_that_answers_inside_send(world):
    def answer(frame):
        if isinstance(frame, WsOpen):
            world.agent.send(WsOpenAck(frame.rid), WsFrame(frame.rid, b"hi", "text"))

    world.agent.answer = answer
    caller = world.call()
    world.loop.tick()
    head, _, frame = caller.wire.take().partition(b"\r\n\r\n")
    assert ACCEPT in head
    assert frame == b"\x81\x02hi"


def test_what_a_caller_sends_early_is_kept(world):
    caller = world.call()
    rid = world.agent.take(WsOpen).rid
    caller.send(b"early")
    assert world.agent.frames == []
    world.agent.send(WsFrame(rid, b"out of turn"), WsOpenAck(rid))
    assert world.agent.take(WsFrame).data == b"early"


def test_a_refusal_is_passed_on_as_it_is(world):
    caller = world.call()
    headers = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Connection", "keep-alive, Upgrade, X-Hop"),
        ("Keep-Alive", "timeout=5"),
        ("X-Hop", "1"),
        ("Content-Length", "99"),
        ("Transfer-Encoding", "chunked"),
    ]
    rid = world.agent.take(WsOpen).rid
    world.agent.send(WsOpenReject(rid, 426, headers, b"no"), WsOpenReject(rid, 400))
    world.loop.tick()
    assert caller.wire.take() == (
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Content-Length: 2\r\nConnection: close\r\n\r\nno"
    )
    world.assert_nothing_under_way()
    assert len(world.relay.deadlines) == 0


@pytest.mark.parametrize(
    "answer",
    [
        lambda rid: WsOpenReject(rid, 403, [("X", "a\r\nInjected: 1")], b"no"),
        lambda rid: WsOpenAck(rid, [("X", "a\r\nInjected: 1")]),
        lambda rid: WsClose(rid, 1000),
        lambda rid: RespError(rid, "BAD_REQUEST_FRAME", "what is this"),
    ],
)
def test_an_agents_odd_answer_is_502(world, answer):
    caller = world.call()
    world.agent.send(answer(world.agent.take(WsOpen).rid))
    assert caller.error(502) == "TUNNEL_ENDPOINT_UNREACHABLE"
    world.assert_nothing_under_way()


def test_an_agent_without_the_capability(loop):
    world = World(loop, websocket=False)
    caller = world.call()
    assert world.agent.frames == []
    assert caller.error(501) == "WEBSOCKET_UNSUPPORTED"
    world.assert_nothing_under_way()


@pytest.mark.parametrize(
    ("handshake", "method", "status", "header"),
    [
        (HANDSHAKE[:2], "GET", 400, b""),
        ((*HANDSHAKE[:2], "Sec-WebSocket-Key: short", HANDSHAKE[3]), "GET", 400, b""),
        ((*HANDSHAKE, HANDSHAKE[2]), "GET", 400, b""),
        ((*HANDSHAKE, HANDSHAKE[3]), "GET", 426, b"Sec-WebSocket-Version: 13"),
        ((*HANDSHAKE[:3], "Sec-WebSocket-Version: 8"), "GET", 426, b"Sec-WebSocket-Version: 13"),
        ((*HANDSHAKE, "Sec-WebSocket-Protocol: a b"), "GET", 400, b""),
        (HANDSHAKE, "PUT", 405, b"Allow: GET"),
    ],
)
def test_a_bad_handshake_is_refused(world, handshake, method, status, header):
    caller = world.call(handshake=handshake, method=method)
    world.loop.tick()
    assert header in caller.wire.written
    assert caller.error(status) == "BAD_REQUEST"
    assert world.agent.frames == []
    world.assert_nothing_under_way()


def test_the_limit_counts_websockets_alone(loop):
    world = World(loop, limits=Limits(max_websocket_streams=2, max_inflight=1))
    first = world.open()
    world.call()
    world.agent.take(WsOpen)
    assert world.call().error(503) == "TUNNEL_CAPACITY_EXCEEDED"
    assert world.agent.frames == []
    request = Caller(world)
    request.connection.data_received(
        b"GET /s/rt_1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wt_1\r\n\r\n"
    )
    world.agent.take(ReqHeaders)
    world.agent.take(ReqEnd)
    world.agent.send(WsClose(first.rid, 1000))
    world.open()


def test_opening_takes_no_longer_than_a_request(world, loop):
    caller = world.call()
    rid = world.agent.take(WsOpen).rid
    loop.advance(30.1)
    assert caller.error(504) == "TUNNEL_TIMEOUT"
    assert world.agent.take(WsClose).rid == rid
    world.agent.send(WsOpenAck(rid))
    world.assert_nothing_under_way()


def test_a_caller_that_leaves_while_it_opens(world):
    caller = world.call()
    rid = world.agent.take(WsOpen).rid
    caller.connection.connection_lost(None)
    close = world.agent.take(WsClose)
    assert (close.rid, close.code, close.lease_id) == (rid, 1011, "l1")
    world.agent.send(WsOpenAck(rid))
    world.assert_nothing_under_way()
    assert len(world.relay.deadlines) == 0


# Without an agent.


def test_opening_waits_for_an_agent(loop):
    world = World(loop, agent=False)
    caller = world.call()
    loop.advance(4.9)
    assert caller.wire.take() == b""
    world.attach()
    world.agent.send(WsOpenAck(world.agent.take(WsOpen).rid))
    assert ACCEPT in caller.wire.take()
    world.agent.take_all()
    assert not world.relay.held.count("l1")


def test_opening_waits_so_long_and_no_longer(loop):
    world = World(loop, agent=False)
    caller = world.call()
    loop.advance(5.1)
    assert caller.error(503) == "AGENT_OFFLINE"
    assert world.route.websockets == 0
    assert not world.relay.held.count("l1")


def test_opening_does_not_wait_where_that_is_off(loop):
    world = World(loop, agent=False, limits=Limits(hold_s=0))
    assert world.call().error(503) == "AGENT_OFFLINE"
    assert world.route.websockets == 0


def test_a_caller_that_leaves_while_it_waits(loop):
    world = World(loop, agent=False)
    world.call().connection.connection_lost(None)
    world.attach()
    assert world.agent.frames == []
    world.assert_nothing_under_way()


def test_a_lease_that_ends_while_a_caller_waits(loop):
    world = World(loop, agent=False)
    caller = world.call()
    world.relay.close("l1", "it was closed")
    assert caller.error(410) == "TUNNEL_LEASE_EXPIRED"


# Messages.


def test_messages_both_ways(world):
    caller = world.open()
    caller.protocol.send_text("héllo".encode())
    caller.protocol.send_binary(b"\x00\xff")
    caller.protocol.send_text(b"")
    caller.say()
    assert world.agent.take_all() == [
        WsFrame(caller.rid, "héllo".encode(), "text", True, "l1"),
        WsFrame(caller.rid, b"\x00\xff", "binary", True, "l1"),
        WsFrame(caller.rid, b"", "text", True, "l1"),
    ]
    world.agent.send(
        WsFrame(caller.rid, b"one", "text"), WsFrame(caller.rid, b"\xff"), WsFrame(caller.rid, b"")
    )
    world.loop.tick()
    assert caller.wire.writes == 2  # the handshake, and all that one tick brought
    assert caller.wire.take() == b"\x81\x03one\x82\x01\xff\x82\x00"


def test_fragments_pass_as_they_come(world):
    caller = world.open()
    caller.protocol.send_text("é".encode()[:1], fin=False)
    caller.protocol.send_continuation(b"", fin=False)
    caller.protocol.send_ping(b"in between")
    caller.protocol.send_continuation("é".encode()[1:], fin=False)
    caller.say()
    assert world.agent.take_all() == [
        WsFrame(caller.rid, b"\xc3", "text", False, "l1"),
        WsFrame(caller.rid, b"\xa9", "text", False, "l1"),
    ]
    caller.protocol.send_continuation(b"", fin=True)
    caller.say()
    assert world.agent.take_all() == [WsFrame(caller.rid, b"", "text", True, "l1")]
    caller.hear()
    world.agent.send(
        WsFrame(caller.rid, b"a", "text", fin=False),
        WsFrame(caller.rid, b"b", "text", fin=False),
        WsFrame(caller.rid, b"", "text", fin=True),
        WsFrame(caller.rid, b"c", "binary"),
    )
    world.loop.tick()
    assert caller.wire.take() == b"\x01\x01a\x00\x01b\x80\x00\x82\x01c"


def test_a_long_message_goes_in_pieces(world):
    caller = world.open()
    caller.send(b"x" * (2 * MAX_CHUNK_BYTES + 1))
    frames = world.agent.take_all()
    assert [(len(frame.data), frame.fin) for frame in frames] == [
        (MAX_CHUNK_BYTES, False),
        (MAX_CHUNK_BYTES, False),
        (1, True),
    ]


def test_a_long_frame_goes_on_while_it_comes(world):
    caller = world.open()
    caller.protocol.send_binary(b"x" * (4 * MAX_CHUNK_BYTES))
    (frame,) = caller.protocol.data_to_send()
    half = 2 * MAX_CHUNK_BYTES + 100
    caller.say(frame[:half])
    frames = world.agent.take_all()
    assert [(len(frame.data), frame.fin) for frame in frames] == [(MAX_CHUNK_BYTES, False)] * 2
    caller.say(frame[half:])
    frames += world.agent.take_all()
    assert b"".join(frame.data for frame in frames) == b"x" * (4 * MAX_CHUNK_BYTES)
    assert [frame.fin for frame in frames] == [False, False, False, True]


def test_pings_are_answered_here(world):
    caller = world.open()
    caller.protocol.send_ping(b"payload")
    caller.say()
    (pong,) = caller.hear()
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"payload")
    caller.protocol.send_pong(b"unasked")
    caller.say()
    assert world.agent.frames == []


def test_frames_for_another_kind_are_dropped(world):
    caller = world.open()
    world.agent.send(RespHeaders(caller.rid, 200, []), RespEnd(caller.rid))
    world.agent.send(WsFrame("unheard-of", b"x"), WsClose("unheard-of"), Window("unheard-of", 1))
    caller.send(b"still here")
    assert world.agent.take(WsFrame).data == b"still here"


# The end.


@pytest.mark.parametrize(
    ("code", "reason", "seen"),
    [
        (1000, "", Close(1000, "")),
        (1001, "moving", Close(1001, "moving")),
        (1013, "", Close(1013, "")),
        (3000, "é" * 80, Close(3000, "é" * 61)),
        (4999, "", Close(4999, "")),
        (None, "", Close(1005, "")),
        (None, "no code, no reason", Close(1005, "")),
        (1005, "", Close(1005, "")),
        (1006, "", Close(1011, "")),
        (1004, "", Close(1011, "")),
        (1015, "", Close(1011, "")),
        (2999, "", Close(1011, "")),
        (0, "", Close(1011, "")),
        (-1, "", Close(1011, "")),
        (70_000, "", Close(1011, "")),
    ],
)
def test_the_agents_close_reaches_the_caller(world, code, reason, seen):
    caller = world.open()
    world.agent.send(WsFrame(caller.rid, b"last"), WsClose(caller.rid, code, reason))
    (message, close) = caller.hear()
    assert message.data == b"last"
    assert caller.protocol.close_rcvd == seen
    assert close.data == b"" if seen.code == 1005 else close.data
    world.assert_nothing_under_way()
    caller.say()
    world.loop.tick()
    assert caller.wire.ended
    world.agent.send(WsClose(caller.rid), WsFrame(caller.rid, b"late"))
    assert world.agent.frames == []


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "moving"), (4999, "own")])
def test_the_callers_close_reaches_the_agent(world, code, reason):
    caller = world.open()
    caller.protocol.send_binary(b"last")
    caller.protocol.send_close(code, reason)
    caller.say()
    assert world.agent.take(WsFrame).data == b"last"
    assert world.agent.take_all() == [WsClose(caller.rid, code, reason, "l1")]
    assert caller.close() == Close(code, reason)
    assert caller.wire.ended
    world.assert_nothing_under_way()
    world.agent.send(WsClose(caller.rid, code), WsFrame(caller.rid, b"late"))


def test_a_caller_that_resets_behind_its_close(world, monkeypatch):
    def write_eof():
        raise OSError(107, "Transport endpoint is not connected")

    caller = world.open()
    monkeypatch.setattr(caller.wire, "write_eof", write_eof)
    caller.protocol.send_close(1000)
    caller.say()
    world.loop.tick()
    assert caller.wire.aborted
    world.assert_nothing_under_way()


def test_a_close_without_a_code_has_none_on_the_link(world):
    caller = world.open()
    caller.protocol.send_close()
    caller.say()
    assert world.agent.take_all() == [WsClose(caller.rid, None, "", "l1")]


@pytest.mark.parametrize("how", ["end", "loss"])
def test_a_caller_that_vanishes_is_1011(world, how):
    caller = world.open()
    caller.send(b"last words")
    if how == "end":
        caller.wire.protocol.eof_received()
    caller.wire.protocol.connection_lost(None)
    assert world.agent.take(WsFrame).data == b"last words"
    assert world.agent.take_all() == [WsClose(caller.rid, 1011, "the caller is gone", "l1")]
    world.assert_nothing_under_way()
    assert not world.relay.ends


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x82\x02hi", 1002),
        (b"\xc2\x82\0\0\0\0hi", 1002),
        (b"\x82\x82\0\0\0\0hi\x80\x80\0\0\0\0", 1002),
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),
        (b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007),
        (b"\x82\xff\0\0\0\0\0\0\x03\xe9\0\0\0\0", 1009),
        (b"\x02\xfe\x03\xe8\0\0\0\0" + b"x" * 1000 + b"\x80\x81\0\0\0\0x", 1009),
    ],
)
def test_bad_frames_end_the_callers_websocket_alone(loop, raw, code):
    world = World(loop, limits=Limits(max_websocket_message_bytes=1000))
    other = world.open()
    caller = world.open()
    caller.wire.protocol.data_received(raw + b"\0" * 100)
    assert caller.close().code == code
    assert caller.wire.ended
    assert not caller.wire.closed
    caller.wire.protocol.data_received(b"\0" * 1000)
    *messages, close = world.agent.take_all()
    assert close.code == code
    assert all(isinstance(message, WsFrame) for message in messages)
    other.send(b"still here")
    assert world.agent.take(WsFrame).data == b"still here"
    loop.advance(10.1)
    assert caller.wire.aborted


def masked(head):
    """Return a frame with this first byte and some data, of any length that fits or does not."""
    return st.builds(
        lambda length, data: bytes([head, 0x80 | length]) + b"\0\0\0\0" + data,
        st.integers(0, 127),
        st.binary(max_size=130),
    )


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40) | st.integers(0, 255).flatmap(masked), max_size=8))
def test_garbage_harms_nobody_else(pieces):
    world = World(ManualLoop(), limits=Limits(max_websocket_message_bytes=200))
    other = world.open()
    caller = world.open()
    for piece in pieces:
        caller.wire.protocol.data_received(piece)
        world.loop.tick()
    caller.wire.protocol.connection_lost(None)
    *messages, close = world.agent.take_all()
    assert all(isinstance(message, WsFrame) for message in messages)
    assert isinstance(close, WsClose)
    assert {message.rid for message in messages} <= {caller.rid} == {close.rid}
    assert close.code not in (1005, 1006)
    other.send(b"still here")
    assert world.agent.take(WsFrame).data == b"still here"


def test_an_agents_message_too_long_is_1009_for_both(loop):
    world = World(loop, limits=Limits(max_websocket_message_bytes=1000))
    caller = world.open()
    world.agent.send(
        WsFrame(caller.rid, b"x" * 1000),
        WsFrame(caller.rid, b"x" * 999, fin=False),
        WsFrame(caller.rid, b"xx"),
    )
    assert world.agent.take(WsClose).code == 1009
    assert caller.close().code == 1009
    world.assert_nothing_under_way()


def test_a_bad_frame_of_the_agent_ends_its_websocket(world):
    caller = world.open()
    world.agent.session.frame_failed(FrameError("not base64", caller.rid))
    assert caller.close().code == 1011
    assert world.agent.take(WsClose).code == 1011
    world.agent.session.frame_failed(FrameError("not base64", "unheard-of"))
    world.agent.session.frame_failed(FrameError("not JSON"))
    world.assert_nothing_under_way()


def test_a_lease_that_ends_is_1001(world):
    caller = world.open()
    opening = world.call()
    rid = world.agent.take(WsOpen).rid
    world.relay.close("l1", "the lease expired")
    close = caller.close()
    assert close == Close(1001, "this tunnel is over: the lease expired")
    assert opening.error(410) == "TUNNEL_LEASE_EXPIRED"
    *closes, lost = world.agent.take_all()
    assert {(frame.rid, frame.code) for frame in closes} == {(caller.rid, 1001), (rid, 1001)}
    assert lost == "lease closed"


def test_a_worker_token_that_is_rotated_is_1008(world):
    caller = world.open()
    opening = world.call()
    rid = world.agent.take(WsOpen).rid
    world.relay.rotate_worker("l1", "wt_2")
    assert caller.close() == Close(1008, "the worker token was rotated: take the new one")
    assert opening.error(401) == "TUNNEL_AUTH_INVALID"
    closes = world.agent.take_all()
    assert {(frame.rid, frame.code) for frame in closes} == {(caller.rid, 1008), (rid, 1008)}
    assert world.call().error(401) == "TUNNEL_AUTH_INVALID"
    assert world.route.connected


def test_a_rotated_worker_token_concerns_nobody_who_needed_none(world):
    world.route.require_token = False
    caller = world.open()
    world.relay.rotate_worker("l1", "wt_2")
    caller.protocol.send_text(b"still here")
    caller.say()
    assert world.agent.take(WsFrame).data == b"still here"


def test_a_worker_token_that_is_rotated_while_a_caller_waits(loop):
    world = World(loop, agent=False)
    caller = world.call()
    world.relay.rotate_worker("l1", "wt_2")
    assert caller.error(401) == "TUNNEL_AUTH_INVALID"
    world.attach()
    assert world.agent.frames == []


def test_an_agent_that_is_lost_is_1012(world):
    caller = world.open()
    opening = world.call()
    world.agent.link.close()
    assert caller.close().code == 1012
    assert opening.error(502) == "AGENT_LOST"
    assert world.route.websockets == 0


def test_an_agent_that_is_replaced_is_told(world):
    caller = world.open()
    old = world.agent
    world.attach()
    assert caller.close().code == 1012
    assert old.take(WsClose).code == 1012
    assert isinstance(old.take(str), str)


def test_who_does_not_close_is_cut_off(world, loop):
    caller = world.open()
    world.agent.send(WsClose(caller.rid, 1000))
    caller.hear()
    loop.advance(9.9)
    assert not caller.wire.aborted
    loop.advance(0.2)
    assert caller.wire.aborted
    caller.wire.protocol.connection_lost(None)
    assert world.agent.frames == []
    assert len(world.relay.deadlines) == 0


# Who is slow.


def test_an_agent_without_credit_makes_the_caller_wait(world):
    caller = world.open()
    caller.send(b"x" * (WINDOW_BYTES + 2 * MAX_CHUNK_BYTES))
    caller.protocol.send_close(1000, "and bye")
    caller.say()
    assert sum(len(frame.data) for frame in world.agent.take_all()) == WINDOW_BYTES
    world.agent.send(Window(caller.rid, 1))
    assert len(world.agent.take(WsFrame).data) == MAX_CHUNK_BYTES
    world.agent.send(Window(caller.rid, 0), Window(caller.rid, -5))
    assert world.agent.frames == []
    caller.hear()
    caller.wire.protocol.connection_lost(None)
    world.agent.send(Window(caller.rid, WINDOW_BYTES))
    assert world.agent.take(WsFrame).fin
    assert world.agent.take_all() == [WsClose(caller.rid, 1000, "and bye", "l1")]
    world.assert_nothing_under_way()


def test_the_rest_of_a_caller_that_is_gone_waits_for_credit_only_so_long(world, loop):
    caller = world.open()
    caller.send(b"x" * (WINDOW_BYTES + 2 * MAX_CHUNK_BYTES))
    caller.wire.protocol.connection_lost(None)
    loop.advance(9.9)
    world.agent.take_all()
    world.agent.send(Window(caller.rid, 1))
    assert len(world.agent.take(WsFrame).data) == MAX_CHUNK_BYTES
    loop.advance(9.9)
    assert world.agent.frames == []
    loop.advance(0.3)
    assert world.agent.take_all() == [WsClose(caller.rid, 1011, "the caller is gone", "l1")]
    world.assert_nothing_under_way()
    assert len(world.relay.deadlines) == 0
    world.agent.send(Window(caller.rid, WINDOW_BYTES))
    assert world.agent.frames == []


def test_the_rest_of_a_caller_that_is_gone_and_taken_in_time(world, loop):
    caller = world.open()
    caller.send(b"x" * (WINDOW_BYTES + MAX_CHUNK_BYTES))
    caller.wire.protocol.connection_lost(None)
    world.agent.take_all()
    world.agent.send(Window(caller.rid, WINDOW_BYTES))
    assert world.agent.take(WsFrame).fin
    assert world.agent.take(WsClose).code == 1011
    world.assert_nothing_under_way()
    assert len(world.relay.deadlines) == 0


def test_a_caller_without_credit_is_not_read(world):
    caller = world.open()
    caller.send(b"x" * WINDOW_BYTES)
    assert caller.wire.reading
    caller.send(b"more")
    assert not caller.wire.reading
    world.agent.take_all()
    world.agent.send(Window(caller.rid, WINDOW_BYTES // 2))
    assert world.agent.take(WsFrame).data == b"more"
    assert caller.wire.reading


def test_a_full_link_is_not_filled(world):
    caller = world.open()
    world.agent.session.pause_writing()
    caller.send(b"one")
    assert world.agent.frames == []
    assert not caller.wire.reading
    world.agent.session.resume_writing()
    assert world.agent.take(WsFrame).data == b"one"
    assert caller.wire.reading


def test_an_upload_beside_websockets_that_fill_the_link(loop):
    world = World(loop, flow_control=False)
    callers = [world.open() for _ in range(4)]
    upload = world.call("Content-Length: 99999999", method="POST", handshake=())
    loop.tick()
    assert world.agent.take(ReqHeaders).rid
    session = world.agent.session
    sent = Counter()

    def count(frame):
        uploaded = isinstance(frame, ReqBody)
        sent[frame.rid] += len(frame.chunk if uploaded else frame.data)
        room[0] -= MAX_CHUNK_BYTES
        if room[0] <= 0 and not session.writing_paused:
            session.pause_writing()

    def read():
        """Read what may be read, as a loop does once in each tick."""
        if upload.wire.reading:
            upload.wire.protocol.data_received(b"x" * MAX_CHUNK_BYTES)
        for caller in callers:
            if caller.wire.reading:
                caller.send(b"x" * WINDOW_BYTES)

    world.agent.answer = count
    room = [0]
    session.pause_writing()
    read()
    for _ in range(40):
        room = [WINDOW_BYTES]
        session.resume_writing()
        loop.call_soon(read)
        loop.tick()
    rids = {caller.rid for caller in callers}
    assert rids < set(sent)
    assert min(sent[rid] for rid in rids) >= 3 * WINDOW_BYTES
    (uploaded,) = (sent[rid] for rid in set(sent) - rids)
    assert uploaded >= 10 * MAX_CHUNK_BYTES


def test_one_tick_does_not_fill_a_link_without_windows(loop):
    world = World(loop, flow_control=False)
    caller = world.open()
    caller.send(b"x" * (2 * WINDOW_BYTES))
    assert sum(len(frame.data) for frame in world.agent.take_all()) == WINDOW_BYTES
    assert not caller.wire.reading
    loop.tick()
    frames = world.agent.take_all()
    assert sum(len(frame.data) for frame in frames) == WINDOW_BYTES
    assert frames[-1].fin
    assert caller.wire.reading


def test_what_the_caller_reads_is_credit(world):
    caller = world.open()
    for _ in range(3):
        world.agent.send(WsFrame(caller.rid, b"x" * MAX_CHUNK_BYTES))
    assert world.agent.frames == []
    world.loop.tick()
    assert world.agent.take_all() == [Window(caller.rid, 3 * MAX_CHUNK_BYTES, "l1")]


def fill(world, caller):
    """Send a window's worth to a caller that has stopped to read."""
    caller.wire.stopped = True
    for _ in range(WINDOW_BYTES // MAX_CHUNK_BYTES):
        world.agent.send(WsFrame(caller.rid, b"x" * MAX_CHUNK_BYTES))
    world.loop.tick()
    assert world.agent.frames == []


def test_a_slow_caller_makes_the_agent_wait(world, loop):
    caller = world.open()
    fill(world, caller)
    loop.advance(9.9)
    caller.wire.go_on()
    assert world.agent.take_all() == [Window(caller.rid, WINDOW_BYTES, "l1")]
    loop.advance(60)
    caller.send(b"still here")
    assert world.agent.take(WsFrame).data == b"still here"


def test_a_caller_that_stands_still_is_cut_off_with_1013(world, loop):
    other = world.open()
    caller = world.open()
    fill(world, caller)
    caller.wire.waiting -= 1000  # it reads after all, if slowly
    loop.advance(10.1)
    assert world.agent.frames == []
    loop.advance(10)
    close = world.agent.take(WsClose)
    assert (close.code, close.reason) == (1013, "nothing was read for 10 s")
    assert caller.close().code == 1013
    loop.advance(10)
    assert caller.wire.aborted
    other.send(b"still here")
    assert world.agent.take(WsFrame).data == b"still here"


def test_a_callers_queue_is_bounded_where_there_are_no_windows(loop, monkeypatch):
    monkeypatch.setattr(tunnelled, "_MAX_QUEUE_BYTES", 1000)
    world = World(loop, flow_control=False)
    other = world.open()
    caller = world.open()
    caller.wire.stopped = True
    world.agent.send(WsFrame(caller.rid, b"x" * 900))
    loop.advance(60)
    assert world.agent.frames == []
    world.agent.send(WsFrame(caller.rid, b"x" * 900))
    loop.tick()
    close = world.agent.take(WsClose)
    assert (close.code, close.reason) == (1013, "the queue of this WebSocket is full")
    other.send(b"still here")
    assert world.agent.take(WsFrame).data == b"still here"
    loop.advance(10.1)
    assert caller.wire.aborted


def test_when_all_queues_are_full_the_longest_ends(loop, monkeypatch):
    monkeypatch.setattr(tunnelled, "_MAX_QUEUES_BYTES", 5 * WINDOW_BYTES)
    world = World(loop, flow_control=False)
    callers = longest, second, third = [world.open() for _ in range(3)]
    for caller in callers:
        caller.wire.stopped = True
        world.agent.send(WsFrame(caller.rid, b"x" * (WINDOW_BYTES + 1)))
    loop.tick()
    world.agent.send(WsFrame(longest.rid, b"x" * (WINDOW_BYTES + 1000)))
    loop.tick()
    assert world.agent.frames == []
    reader = world.open()
    world.agent.send(WsFrame(reader.rid, b"x" * WINDOW_BYTES))
    close = world.agent.take(WsClose)
    assert (close.rid, close.code) == (longest.rid, 1013)
    assert longest.wire.aborted
    assert reader.messages() == [b"x" * WINDOW_BYTES]
    world.agent.send(WsFrame(second.rid, b"x" * WINDOW_BYTES))
    loop.tick()
    assert world.agent.frames == []
    before = third.wire.waiting
    world.agent.send(WsFrame(third.rid, b"x" * (3 * WINDOW_BYTES)))
    loop.tick()
    close = world.agent.take(WsClose)
    assert (close.rid, close.code) == (third.rid, 1013)
    assert third.wire.waiting < before + 100
    assert not second.wire.aborted


def test_a_little_may_wait_for_each_even_if_all_queues_are_full(loop, monkeypatch):
    monkeypatch.setattr(tunnelled, "_MAX_QUEUES_BYTES", WINDOW_BYTES)
    world = World(loop, flow_control=False)
    for caller in [world.open() for _ in range(3)]:
        caller.wire.stopped = True
        world.agent.send(WsFrame(caller.rid, b"x" * WINDOW_BYTES))
    loop.tick()
    assert world.agent.frames == []


def test_nobody_stands_still_for_long_where_there_are_no_windows(loop):
    world = World(loop, flow_control=False)
    caller = world.open()
    fill(world, caller)
    loop.advance(5)
    caller.wire.waiting -= 1000  # it reads, if less than comes
    for _ in range(2):
        world.agent.send(WsFrame(caller.rid, b"x" * 2000))
    loop.advance(5.1)
    assert world.agent.frames == []
    world.agent.send(WsFrame(caller.rid, b"x" * 2000))
    loop.advance(10)
    close = world.agent.take(WsClose)
    assert (close.code, close.reason) == (1013, "nothing was read for 10 s")


def test_the_end_of_the_relay_ends_what_is_open(world):
    caller = world.open()
    world.relay.shut_down()
    assert caller.close().code == 1001
    (end,) = world.relay.ends
    end.abort()
    assert caller.wire.aborted
