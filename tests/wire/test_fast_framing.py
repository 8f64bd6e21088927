"""Framing against the websockets library's own protocol core, without sockets."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.uri import parse_uri

from pytest_synth_tunnels.wire.fast_framing import Framing

LIMIT = 100_000


def end(side: Side) -> tuple[Framing, Protocol]:
    protocol = Protocol(side, state=State.OPEN, max_size=LIMIT)
    return Framing(protocol, LIMIT), protocol


def library(side: Side, *frames: Frame) -> bytes:
    """Return frames as the library writes them."""
    return b"".join(frame.serialize(mask=side is Side.CLIENT) for frame in frames)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, LIMIT])
def test_what_is_written_is_read_by_the_library(side: Side, length: int) -> None:
    framing, protocol = end(side)
    peer = Protocol(Side(1 - side), state=State.OPEN, max_size=LIMIT)
    payload = b"x" * length
    framing.send_text(payload)
    framing.send_text(b"next")
    peer.receive_data(b"".join(protocol.data_to_send()))
    events = peer.events_received()
    assert [(e.opcode, bytes(e.data), e.fin) for e in events if isinstance(e, Frame)] == [
        (Opcode.TEXT, payload, True),
        (Opcode.TEXT, b"next", True),
    ]


def test_masks_differ() -> None:
    framing, protocol = end(Side.CLIENT)
    for _ in range(3000):  # more than one draw of random bytes
        framing.send_text(b"")
    writes = protocol.data_to_send()
    assert {len(data) for data in writes} == {6}
    assert len(set(writes)) > 2990


pieces = st.lists(
    st.one_of(
        st.builds(Frame, st.sampled_from([Opcode.TEXT, Opcode.BINARY]), st.binary(max_size=300)),
        st.builds(Frame, st.just(Opcode.TEXT), st.sampled_from([b"y" * 126, b"z" * 70_000])),
        st.builds(Frame, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125)),
        st.lists(st.binary(max_size=50), min_size=2, max_size=4),  # a message in fragments
    ),
    max_size=8,
)


@settings(deadline=None)
@given(pieces, st.sampled_from(list(Side)), st.data())
def test_any_frames_in_any_reads(
    parts: list[Frame | list[bytes]], side: Side, data: st.DataObject
) -> None:
    frames: list[Frame] = []
    expected: list[bytes] = []
    pings = 0
    for part in parts:
        if isinstance(part, Frame):
            frames.append(part)
            pings += part.opcode is Opcode.PING
            if part.opcode in (Opcode.TEXT, Opcode.BINARY):
                expected.append(bytes(part.data))
        else:
            frames.append(Frame(Opcode.TEXT, part[0], fin=False))
            frames.append(Frame(Opcode.PING, b"in between"))
            pings += 1
            frames += [Frame(Opcode.CONT, piece, fin=False) for piece in part[1:-1]]
            frames.append(Frame(Opcode.CONT, part[-1]))
            expected.append(b"".join(part))
    framing, protocol = end(side)
    wire = library(Side(1 - side), *frames)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=6).map(sorted))
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        received += framing.receive(wire[start:stop])
    assert received == expected
    assert protocol.state is State.OPEN
    assert len(protocol.data_to_send()) == pings  # each has its pong


def test_byte_by_byte() -> None:
    framing, _ = end(Side.SERVER)
    wire = library(
        Side.CLIENT, *(Frame(Opcode.TEXT, b"m" * length) for length in (0, 5, 126, 70_000))
    )
    received = []
    for at in range(len(wire)):
        received += framing.receive(wire[at : at + 1])
    assert [len(message) for message in received] == [0, 5, 126, 70_000]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\xc1\x82\0\0\0\0hi", 1002),  # an extension nobody asked for
        (b"\x83\x80\0\0\0\0", 1002),  # no such opcode
        (b"\x80\x80\0\0\0\0", 1002),  # continues nothing
        (b"\x01\x81\0\0\0\0a\x81\x81\0\0\0\0b", 1002),  # a message within a message
        (b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), 1002),  # a ping too long
        (b"\x81\xff" + struct.pack("!Q", LIMIT + 1), 1009),
        (b"\x81\xff" + struct.pack("!Q", 1 << 63), 1009),
        (b"\x01\xff" + struct.pack("!Q", LIMIT) + bytes(4 + LIMIT) + b"\x80\x81\0\0\0\0a", 1009),
    ],
)
def test_what_is_not_right_ends_the_connection(wire: bytes, code: int) -> None:
    framing, protocol = end(Side.SERVER)
    good = library(Side.CLIENT, Frame(Opcode.TEXT, b"good"))
    assert framing.receive(good + wire + good) == [b"good"]
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == code
    assert protocol.parser_exc is not None
    assert framing.receive(good) == []


def test_a_close_frame_ends_what_is_read() -> None:
    framing, protocol = end(Side.SERVER)
    close = Frame(Opcode.CLOSE, struct.pack("!H", 1001) + b"bye")
    text = Frame(Opcode.TEXT, b"x")
    assert framing.receive(library(Side.CLIENT, text, close, text)) == [b"x"]
    assert protocol.close_rcvd is not None
    assert (protocol.close_rcvd.code, protocol.close_rcvd.reason) == (1001, "bye")


def test_the_answer_to_a_close_is_seen() -> None:
    framing, protocol = end(Side.SERVER)
    text = library(Side.CLIENT, Frame(Opcode.TEXT, b"under way"))
    framing.receive(text[:5])
    protocol.send_close(1000)
    framing.receive(text[5:])
    framing.receive(library(Side.CLIENT, Frame(Opcode.CLOSE, struct.pack("!H", 1000))))
    assert protocol.close_rcvd is not None


# --- a client's handshake


def client() -> tuple[Framing, ClientProtocol, bytes]:
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/"), max_size=LIMIT)
    protocol.send_request(protocol.connect())
    from websockets.utils import accept_key

    answer = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(protocol.key)}\r\n\r\n"
    )
    return Framing(protocol, LIMIT), protocol, answer.encode()


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_frames_may_follow_the_handshake_at_once(size: int) -> None:
    framing, protocol, answer = client()
    wire = answer + library(Side.SERVER, Frame(Opcode.TEXT, b"one"), Frame(Opcode.TEXT, b"two"))
    received = []
    for at in range(0, len(wire), size):
        received += framing.receive(wire[at : at + size])
    assert protocol.state is State.OPEN
    assert received == [b"one", b"two"]


@pytest.mark.parametrize("size", [1, 40, 10_000])
def test_a_refusal_is_read_with_its_body(size: int) -> None:
    framing, protocol, _ = client()
    wire = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno\r\n"
    for at in range(0, len(wire), size):
        assert framing.receive(wire[at : at + size]) == []
    assert "403" in str(protocol.handshake_exc)


def test_an_answer_without_end_is_not_collected() -> None:
    framing, protocol, _ = client()
    for _ in range(100):
        framing.receive(b"x" * 1000)
    assert protocol.handshake_exc is not None
