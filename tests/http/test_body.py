"""ChunkedBody, whole and cut anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_synth_tunnels.http.body import ChunkedBody
from pytest_synth_tunnels.http.request import BadRequest

TRICKY = b"\r\n\r\n\r\n0\r\n"
CHUNKS = b"3\r\nabc\r\n9;x=y\r\n" + TRICKY + b"\r\n0\r\nTrailer: 1\r\n\r\n"
BODY = b"abc" + TRICKY
NEXT = b"GET / HTTP/1.1\r\n\r\n"


def read(pieces):
    body, rest, found = ChunkedBody(), b"", b""
    for piece in pieces:
        if body.ended:
            rest += piece
            continue
        data, rest = body.feed(piece)
        assert body.ended or not rest
        found += data
    return found, rest, body.ended


def test_whole():
    assert read([CHUNKS]) == (BODY, b"", True)
    assert read([b"0\r\n\r\n"]) == (b"", b"", True)


@pytest.mark.parametrize("at", range(1, len(CHUNKS + NEXT)))
def test_cut_anywhere_the_next_request_stays_whole(at):
    data = CHUNKS + NEXT
    assert read([data[:at], data[at:]]) == (BODY, NEXT, True)


def test_byte_by_byte():
    data = CHUNKS + NEXT
    assert read([data[at : at + 1] for at in range(len(data))]) == (BODY, NEXT, True)


@given(st.lists(st.binary(min_size=1, max_size=20)), st.lists(st.integers(1, 200), max_size=9))
def test_any_body_cut_anywhere(chunks, cuts):
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data += b"0\r\n\r\n" + NEXT
    ends = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [data[a:b] for a, b in pairwise(ends)]
    assert read(pieces) == (b"".join(chunks), NEXT, True)


@pytest.mark.parametrize(
    "data",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"1\nx\n0\n\n",
        b"1\r\nxx\r\n0\r\n\r\n",
        b"1 \r\nx\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nx",
        b"1;a\rb\r\nx\r\n0\r\n\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
    ],
)
def test_malformed(data):
    with pytest.raises(BadRequest) as caught:
        ChunkedBody().feed(data)
    assert caught.value.status == 400


def test_endless_trailers_and_extensions_are_refused():
    for start, more in ((b"0\r\nX: ", b"x" * 1000), (b"1;", b"x" * 1000), (b"0\r\n", b"X: 1\r\n")):
        with pytest.raises(BadRequest) as caught:
            read([start, *[more] * 20_000])
        assert caught.value.status == 431


def test_the_smallest_chunks_are_no_abuse():
    body = ChunkedBody()
    total = sum(len(body.feed(b"1\r\nx\r\n" * 1000)[0]) for _ in range(100))
    assert total == 100_000
