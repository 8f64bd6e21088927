"""What the library reads with and without the splitter in front of it."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from pytest_synth_tunnels.websocket.frame_splitter import FrameSplitter
from pytest_synth_tunnels.wire.frames import MAX_CHUNK_BYTES

MAX_BYTES = 10 * MAX_CHUNK_BYTES
TWO = 2 * MAX_CHUNK_BYTES
LENGTHS = st.sampled_from(
    [
        0,
        1,
        125,
        126,
        65_535,
        TWO // 2,
        TWO // 2 + 1,
        TWO,
        TWO + 125,
        TWO + 126,
        MAX_BYTES,
        MAX_BYTES + 1,
    ]
)
"""Of frames, on both sides of each way to write a length, and of the longest one."""


def read(pieces: list[bytes], *, masked: bool) -> Protocol:
    """Let the library read bytes as a peer that takes masked frames or the others."""
    side = Side.SERVER if masked else Side.CLIENT
    protocol = Protocol(side, state=State.OPEN, max_size=MAX_BYTES)
    for piece in pieces:
        protocol.receive_data(piece)
    return protocol


def messages(protocol: Protocol) -> list[tuple[Opcode, bytes]]:
    """Return the messages that have come whole, and the control frames."""
    found = []
    opcode, data = Opcode.CONT, b""
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if event.opcode is not Opcode.CONT:
                opcode, data = event.opcode, b""
            data += event.data
            if event.fin:
                found.append((opcode, data))
        else:
            found.append((event.opcode, bytes(event.data)))
    return found


def frame(first: int, length: int, *, masked: bool) -> bytes:
    """Return a frame with any first byte."""
    data = (bytes(range(251)) * (length // 251 + 1))[:length]
    written = Frame(Opcode.BINARY, data).serialize(mask=masked)
    return bytes([first]) + written[1:]


ROUNDS = st.integers(0, 2 * MAX_BYTES // MAX_CHUNK_BYTES)
OFFSETS = st.integers(-20, 60)
"""Of the places where reads end: near those where fragments do."""
FIRST = st.sampled_from([0x01, 0x02, 0x00, 0x80, 0x81, 0x82, 0x88, 0x89]) | st.integers(0, 255)


@settings(deadline=None)
@given(
    frames=st.lists(st.tuples(FIRST, LENGTHS), max_size=4),
    garbage=st.binary(max_size=20),
    masked=st.booleans(),
    cuts=st.lists(st.builds(lambda n, off: n * MAX_CHUNK_BYTES + off, ROUNDS, OFFSETS), max_size=9),
)
def test_the_same_is_read_with_it_and_without(
    frames: list[tuple[int, int]], garbage: bytes, masked: bool, cuts: list[int]
) -> None:
    data = b"".join(frame(first, length, masked=masked) for first, length in frames) + garbage
    data += bytes(16)  # for the last header, which is judged once it is whole
    ends = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(ends)]
    splitter = FrameSplitter(MAX_BYTES)

    plain = read(pieces, masked=masked)
    split = read([splitter.feed(piece) for piece in pieces], masked=masked)

    assert messages(split) == messages(plain)
    # Of a frame that is wrong in two ways another one may be seen first.
    assert (split.parser_exc is None) is (plain.parser_exc is None)
    assert split.close_rcvd == plain.close_rcvd


def test_no_frame_is_longer_than_a_chunk() -> None:
    splitter = FrameSplitter(MAX_BYTES)
    data = frame(0x81, 2 * MAX_CHUNK_BYTES + 7, masked=True)
    protocol = read([splitter.feed(data)], masked=True)
    frames = [event for event in protocol.events_received() if isinstance(event, Frame)]
    assert [(event.opcode, len(event.data), event.fin) for event in frames] == [
        (Opcode.TEXT, MAX_CHUNK_BYTES, False),
        (Opcode.CONT, MAX_CHUNK_BYTES, False),
        (Opcode.CONT, 7, True),
    ]


@pytest.mark.parametrize("more", [0, 1, -1])
def test_reads_that_end_where_fragments_do(more: int) -> None:
    data = frame(0x82, 3 * MAX_CHUNK_BYTES, masked=True)
    ends = [0, *(14 + part * MAX_CHUNK_BYTES + more for part in range(3)), len(data)]
    splitter = FrameSplitter(MAX_BYTES)
    split = [splitter.feed(data[start:end]) for start, end in pairwise(ends)]
    assert messages(read(split, masked=True)) == messages(read([data], masked=True))


@pytest.mark.parametrize("length", [0, 125, 126, MAX_CHUNK_BYTES, MAX_BYTES + 1])
def test_other_frames_are_not_even_copied(length: int) -> None:
    data = frame(0x82, length, masked=False)
    assert FrameSplitter(MAX_BYTES).feed(data) is data
