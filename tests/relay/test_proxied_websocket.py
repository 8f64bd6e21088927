"""The relay's end of a caller's WebSocket: how it opens, and how it ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close

from pytest_synth_tunnels.relay.route import Limits
from pytest_synth_tunnels.wire.frames import (
    FrameError,
    ReqEnd,
    ReqHeaders,
    RespError,
    WsClose,
    WsFrame,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
)

from ..support.manual_loop import ManualLoop
from ..support.relay_websockets import ACCEPT, HANDSHAKE, WebSocketCaller, WebSocketWorld


@pytest.fixture
def world(loop):
    return WebSocketWorld(loop)


# Opening.


def test_a_handshake_becomes_a_frame(world):
    world.handshake(
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
        ("X-Forwarded-For", "6.6.6.6, 192.0.2.7"),
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
    def answer(frame, send):
        if isinstance(frame, WsOpen):
            world.agent.send(WsOpenAck(frame.rid), WsFrame(frame.rid, b"hi", "text"))

    world.agent.answer = answer
    caller = world.handshake()
    world.loop.tick()
    head, _, frame = caller.wire.take().partition(b"\r\n\r\n")
    assert ACCEPT in head
    assert frame == b"\x81\x02hi"


def test_what_a_caller_sends_early_is_kept(world):
    caller = world.handshake()
    rid = world.agent.take(WsOpen).rid
    caller.send(b"early")
    assert world.agent.frames == []
    world.agent.send(WsFrame(rid, b"out of turn"), WsOpenAck(rid))
    assert world.agent.take(WsFrame).data == b"early"


def test_a_refusal_is_passed_on_as_it_is(world):
    caller = world.handshake()
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
    world.assert_nothing_in_flight()
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
    caller = world.handshake()
    world.agent.send(answer(world.agent.take(WsOpen).rid))
    assert caller.error(502) == "TUNNEL_ENDPOINT_UNREACHABLE"
    world.assert_nothing_in_flight()


def test_an_agent_without_the_capability(loop):
    world = WebSocketWorld(loop, websocket=False)
    caller = world.handshake()
    assert world.agent.frames == []
    assert caller.error(501) == "WEBSOCKET_UNSUPPORTED"
    world.assert_nothing_in_flight()


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
    caller = world.handshake(handshake=handshake, method=method)
    world.loop.tick()
    assert header in caller.wire.written
    assert caller.error(status) == "BAD_REQUEST"
    assert world.agent.frames == []
    world.assert_nothing_in_flight()


def test_the_limit_counts_websockets_alone(loop):
    world = WebSocketWorld(loop, limits=Limits(max_websocket_streams=2, max_inflight=1))
    first = world.open()
    world.handshake()
    world.agent.take(WsOpen)
    assert world.handshake().error(503) == "TUNNEL_CAPACITY_EXCEEDED"
    assert world.agent.frames == []
    request = WebSocketCaller(world)
    request.connection.data_received(
        b"GET /s/rt_1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wt_1\r\n\r\n"
    )
    world.agent.take(ReqHeaders)
    world.agent.take(ReqEnd)
    world.agent.send(WsClose(first.rid, 1000))
    world.open()


def test_opening_takes_no_longer_than_a_request(world, loop):
    caller = world.handshake()
    rid = world.agent.take(WsOpen).rid
    loop.advance(30.1)
    assert caller.error(504) == "TUNNEL_TIMEOUT"
    assert world.agent.take(WsClose).rid == rid
    world.agent.send(WsOpenAck(rid))
    world.assert_nothing_in_flight()


def test_a_caller_that_leaves_while_it_opens(world):
    caller = world.handshake()
    rid = world.agent.take(WsOpen).rid
    caller.connection.connection_lost(None)
    close = world.agent.take(WsClose)
    assert (close.rid, close.code, close.lease_id) == (rid, 1011, "l1")
    world.agent.send(WsOpenAck(rid))
    world.assert_nothing_in_flight()
    assert len(world.relay.deadlines) == 0


# Without an agent.


def test_opening_waits_for_an_agent(loop):
    world = WebSocketWorld(loop, agent=False)
    caller = world.handshake()
    loop.advance(4.9)
    assert caller.wire.take() == b""
    world.attach()
    world.agent.send(WsOpenAck(world.agent.take(WsOpen).rid))
    assert ACCEPT in caller.wire.take()
    world.agent.take_all()
    assert not world.relay.held.count("l1")


def test_opening_waits_so_long_and_no_longer(loop):
    world = WebSocketWorld(loop, agent=False)
    caller = world.handshake()
    loop.advance(5.1)
    assert caller.error(503) == "AGENT_OFFLINE"
    assert world.route.websockets == 0
    assert not world.relay.held.count("l1")


def test_opening_does_not_wait_where_that_is_off(loop):
    world = WebSocketWorld(loop, agent=False, limits=Limits(hold_s=0))
    assert world.handshake().error(503) == "AGENT_OFFLINE"
    assert world.route.websockets == 0


def test_a_caller_that_leaves_while_it_waits(loop):
    world = WebSocketWorld(loop, agent=False)
    world.handshake().connection.connection_lost(None)
    world.attach()
    assert world.agent.frames == []
    world.assert_nothing_in_flight()


def test_a_lease_that_ends_while_a_caller_waits(loop):
    world = WebSocketWorld(loop, agent=False)
    caller = world.handshake()
    world.relay.close("l1", "it was closed")
    assert caller.error(410) == "TUNNEL_LEASE_EXPIRED"


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
    world.assert_nothing_in_flight()
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
    world.assert_nothing_in_flight()
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
    world.assert_nothing_in_flight()


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
    world.assert_nothing_in_flight()
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
    world = WebSocketWorld(loop, limits=Limits(max_websocket_message_bytes=1000))
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
    world = WebSocketWorld(ManualLoop(), limits=Limits(max_websocket_message_bytes=200))
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
    world = WebSocketWorld(loop, limits=Limits(max_websocket_message_bytes=1000))
    caller = world.open()
    world.agent.send(
        WsFrame(caller.rid, b"x" * 1000),
        WsFrame(caller.rid, b"x" * 999, fin=False),
        WsFrame(caller.rid, b"xx"),
    )
    assert world.agent.take(WsClose).code == 1009
    assert caller.close().code == 1009
    world.assert_nothing_in_flight()


def test_a_bad_frame_of_the_agent_ends_its_websocket(world):
    caller = world.open()
    world.agent.session.frame_failed(FrameError("not base64", caller.rid))
    assert caller.close().code == 1011
    assert world.agent.take(WsClose).code == 1011
    world.agent.session.frame_failed(FrameError("not base64", "unheard-of"))
    world.agent.session.frame_failed(FrameError("not JSON"))
    world.assert_nothing_in_flight()


def test_a_lease_that_ends_is_1001(world):
    caller = world.open()
    opening = world.handshake()
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
    opening = world.handshake()
    rid = world.agent.take(WsOpen).rid
    world.relay.rotate_worker("l1", "wt_2")
    assert caller.close() == Close(1008, "the worker token was rotated: take the new one")
    assert opening.error(401) == "TUNNEL_AUTH_INVALID"
    closes = world.agent.take_all()
    assert {(frame.rid, frame.code) for frame in closes} == {(caller.rid, 1008), (rid, 1008)}
    assert world.handshake().error(401) == "TUNNEL_AUTH_INVALID"
    assert world.route.connected


def test_a_rotated_worker_token_concerns_nobody_who_needed_none(world):
    world.route.require_token = False
    caller = world.open()
    world.relay.rotate_worker("l1", "wt_2")
    caller.protocol.send_text(b"still here")
    caller.say()
    assert world.agent.take(WsFrame).data == b"still here"


def test_a_worker_token_that_is_rotated_while_a_caller_waits(loop):
    world = WebSocketWorld(loop, agent=False)
    caller = world.handshake()
    world.relay.rotate_worker("l1", "wt_2")
    assert caller.error(401) == "TUNNEL_AUTH_INVALID"
    world.attach()
    assert world.agent.frames == []


def test_an_agent_that_is_lost_is_1012(world):
    caller = world.open()
    opening = world.handshake()
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
