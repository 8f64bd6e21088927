"""Messages on a tunnelled WebSocket, and readers that are slow, at the relay's end of one."""

from collections import Counter

import pytest
from websockets.frames import Opcode

from pytest_synth_tunnels.websocket import tunnelled
from pytest_synth_tunnels.wire.frames import (
    MAX_CHUNK_BYTES,
    WINDOW_BYTES,
    ReqBody,
    ReqHeaders,
    RespEnd,
    RespHeaders,
    Window,
    WsClose,
    WsFrame,
)

from ..support.relay_websockets import WebSocketWorld


@pytest.fixture
def world(loop):
    return WebSocketWorld(loop)


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
    world.assert_nothing_in_flight()


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
    world.assert_nothing_in_flight()
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
    world.assert_nothing_in_flight()
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
    world = WebSocketWorld(loop, flow_control=False)
    callers = [world.open() for _ in range(4)]
    upload = world.handshake("Content-Length: 99999999", method="POST", handshake=())
    loop.tick()
    assert world.agent.take(ReqHeaders).rid
    session = world.agent.session
    sent = Counter()

    def count(frame, send):
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
    world = WebSocketWorld(loop, flow_control=False)
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
    world = WebSocketWorld(loop, flow_control=False)
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
    world = WebSocketWorld(loop, flow_control=False)
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
    world = WebSocketWorld(loop, flow_control=False)
    for caller in [world.open() for _ in range(3)]:
        caller.wire.stopped = True
        world.agent.send(WsFrame(caller.rid, b"x" * WINDOW_BYTES))
    loop.tick()
    assert world.agent.frames == []


def test_nobody_stands_still_for_long_where_there_are_no_windows(loop):
    world = WebSocketWorld(loop, flow_control=False)
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
