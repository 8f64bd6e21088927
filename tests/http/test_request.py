"""HeadParser and ChunkedBody: what is taken, and above all what is refused."""

import gc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.http.request import BadRequest, ChunkedBody, HeadParser, as_ascii


def parse(text, **options):
    block = text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode("latin-1")
    return HeadParser("192.0.2.1", **options).parse(block)


def test_a_plain_request():
    head = parse("GET /a%2Fb?x=%20&y HTTP/1.1\nHost: example.test:80\nX-A: 1\nx-a: 2\n\n")
    assert (head.method, head.path, head.query) == ("GET", "/a%2Fb", "x=%20&y")
    assert head.headers == [("Host", "example.test:80"), ("X-A", "1"), ("x-a", "2")]
    assert (head.host, head.peer_host, head.http_version) == ("example.test:80", "192.0.2.1", "1.1")
    assert head.keep_alive
    assert not head.has_body
    assert head.get("x-a") == "1"
    assert head.get("x-b") is None


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("//a//b/../c/./", "//a//b/../c/./", ""),
        ("/%2e%2e/%00%zz", "/%2e%2e/%00%zz", ""),
        ("/a?b?c=/?", "/a", "b?c=/?"),
        ("/?", "/", ""),
        ("/\xfc\x85?\xff=\xa0", "/\xfc\x85", "\xff=\xa0"),
        ("http://other.test/\xe4", "/\xe4", ""),
        ("/:@!$&'()*+,;=~-._\\|", "/:@!$&'()*+,;=~-._\\|", ""),
        ("*", "*", ""),
        ("http://other.test/p?q", "/p", "q"),
        ("HTTP://other.test?q", "/", "q"),
        ("http://other.test", "/", ""),
    ],
)
def test_targets_stay_raw(target, path, query):
    head = parse(f"OPTIONS {target} HTTP/1.1\nHost: a\n\n")
    assert (head.path, head.query) == (path, query)
    assert head.host == ("other.test" if "other" in target else "a")


@pytest.mark.parametrize(
    "method", ["GET", "PROPFIND", "BREW", "M-SEARCH", "get", "DESCRIBE", "X'y"]
)
def test_any_method(method):
    assert parse(f"{method} / HTTP/1.1\nHost: a\n\n").method == method


def test_one_parser_reads_many_heads():
    parser = HeadParser()
    for number in range(3):
        for extra in (b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
            head = parser.parse(b"PUT /%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (number, extra))
            assert head.path == f"/{number}"
            assert head.has_body is bool(extra)


def test_lines_that_a_connection_repeats_are_read_as_before():
    parser = HeadParser()
    for number in range(100):
        lines = [
            "Host: a",
            "X-Same:  one and the same \t",
            f"X-Number: {number}",
            f"x-same: {'long ' * number}",
            f"Content-Length: {number % 3}",
        ]
        head = parser.parse("\r\n".join(["PUT / HTTP/1.1", *lines, "", ""]).encode())
        assert head.headers == [
            ("Host", "a"),
            ("X-Same", "one and the same"),
            ("X-Number", str(number)),
            ("x-same", ("long " * number).strip()),
            ("Content-Length", str(number % 3)),
        ]
        assert (head.host, head.content_length) == ("a", number % 3)


def test_a_line_that_is_known_counts_each_time():
    parser = HeadParser()
    once = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    for _ in range(3):
        assert parser.parse(once).content_length == 5
    for line in (b"Host: a\r\n", b"Content-Length: 5\r\n"):
        with pytest.raises(BadRequest):
            parser.parse(once.replace(line, line * 2))


def test_what_a_connection_repeats_is_kept_within_bounds():
    parser = HeadParser()
    for number in range(500):
        parser.parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: %d\r\nY: %b\r\n\r\n" % (number, b"y" * 300))
    kept = gc.get_referents(parser._read_field)
    assert [len(each) for each in kept if isinstance(each, dict)] == [32]
    assert max(map(len, kept[0])) <= 256


def test_a_parser_survives_what_it_refuses():
    parser = HeadParser()
    with pytest.raises(BadRequest):
        parser.parse(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    assert parser.parse(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").path == "/x"


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\n", False),
        ("1.1", "Connection: x, Close\n", False),
        ("1.1", "Connection: x\nConnection: close\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\n", True),
        ("1.0", "Connection: keep-alive, close\n", False),
    ],
)
def test_keep_alive(version, connection, kept):
    assert parse(f"GET / HTTP/{version}\nHost: a\n{connection}\n").keep_alive is kept


def test_bodies():
    assert parse("POST / HTTP/1.1\nHost: a\nContent-Length: 12\n\n").content_length == 12
    empty = parse("POST / HTTP/1.1\nHost: a\nContent-Length: 0\nExpect: 100-continue\n\n")
    assert not empty.has_body
    assert not empty.expects_continue
    chunked = parse("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: Chunked\n\n")
    assert chunked.chunked
    assert chunked.has_body
    waiting = parse("BREW / HTTP/1.1\nHost: a\nContent-Length: 1\nExpect: 100-Continue\n\n")
    assert waiting.expects_continue


def test_upgrades():
    handshake = "GET / HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: WebSocket\n\n"
    assert parse(handshake).upgrade == "websocket"
    h2c = "POST / HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: h2c\nContent-Length: 2\n\n"
    head = parse(h2c)
    assert head.upgrade == ""
    assert head.content_length == 2
    assert parse("GET / HTTP/1.1\nHost: a\nUpgrade: websocket\n\n").upgrade == ""
    assert parse(handshake.replace("1.1", "1.0")).upgrade == ""
    other = "GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: TLS/1.0, Foo/2\n\n"
    assert parse(other).upgrade == "foo/2"


@pytest.mark.parametrize(("target", "told"), [("/?", True), ("/", False), ("/?a", False)])
def test_an_empty_query_is_told_from_none(target, told):
    assert parse(f"GET {target} HTTP/1.1\nHost: a\n\n").bare_query is told


def test_what_is_agreed_on_for_one_message():
    head = parse(
        "PUT / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nExpect: 100-continue\n"
        "TE: gzip;q=1, Trailers\nTrailer: X-A\nTrailer: X-B\n\n"
    )
    assert head.takes_trailers
    assert head.negotiated == [
        ("Expect", "100-continue"),
        ("TE", "trailers"),
        ("Trailer", "X-A, X-B"),
    ]
    assert parse("GET / HTTP/1.1\nHost: a\nTE: gzip\nTrailer: X\n\n").negotiated == []
    assert parse("GET / HTTP/1.0\nHost: a\nTE: trailers\nExpect: x\n\n").negotiated == []


def test_a_target_as_ascii():
    assert as_ascii("/a%20\xfc?\xff") == "/a%20%FC?%FF"


def test_latin_1_values_and_secure():
    head = parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\xff\r\nY:\r\n\r\n", secure=True)
    assert head.headers[1:] == [("X", "éÿ"), ("Y", "")]
    assert head.secure


def test_http_1_0_needs_no_host():
    assert parse("GET / HTTP/1.0\n\n").host == ""
    assert parse("POST / HTTP/1.0\nContent-Length: 3\n\n").content_length == 3


@pytest.mark.parametrize(
    "text",
    [
        "GET / HTTP/1.1\n\n",  # no Host
        "GET / HTTP/1.1\nHost: a\nHost: a\n\n",
        "GET / HTTP/1.1\nHost: a\nhost: b\n\n",
        "GET / HTTP/1.1\nHost: a/b\n\n",
        "GET / HTTP/1.1\nHost: a, b\n\n",
        "GET / HTTP/1.1\nHost: u@a\n\n",
        "GET / HTTP/1.1\nHost : a\n\n",
        "GET / HTTP/1.1\n Host: a\n\n",
        "GET / HTTP/1.1\nHost: a\n: x\n\n",
        "GET / HTTP/1.1\nHost: a\nno colon\n\n",
        "GET / HTTP/1.1\nHost: a\nX: 1\n folded\n\n",
        "GET / HTTP/1.1\nHost: a\nX: a\0b\n\n",
        "GET / HTTP/1.1\nHost: a\nX: a\x01b\n\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\nHost: a\n\n",
        "GET /  HTTP/1.1\nHost: a\n\n",
        "GET /a b HTTP/1.1\nHost: a\n\n",
        "GET\t/ HTTP/1.1\nHost: a\n\n",
        b"GET /\nX:y HTTP/1.1\r\nHost: a\r\n\r\n",  # HTTP/0.9, and then a header
        b"GET /\rX:y HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/\nX:y HTTP/1.1\r\nHost: a\r\n\r\n",
        b"BREW /\nX:y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\nHost: a\n\n",
        "GET / XTTP/1.1\nHost: a\n\n",
        "G(T / HTTP/1.1\nHost: a\n\n",
        "GET a HTTP/1.1\nHost: a\n\n",
        "GET ftp://a/ HTTP/1.1\nHost: a\n\n",
        "GET http://u@a/ HTTP/1.1\nHost: a\n\n",
        "GET /a#b HTTP/1.1\nHost: a\n\n",
        "GET /\x7f HTTP/1.1\nHost: a\n\n",
        "GET /\xfc\x7f HTTP/1.1\nHost: a\n\n",
        "GET /\xfc#a HTTP/1.1\nHost: a\n\n",
        b"GET /\xfc\nX:y HTTP/1.1\r\nHost: a\r\n\r\n",
        b"BREW /\xfc\rX:y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\xfc HTTP/1.1\nHost : a\n\n",
        f"{'X' * 65} / HTTP/1.1\nHost: a\n\n",
        # Lengths that two readers could understand differently.
        "POST / HTTP/1.1\nHost: a\nContent-Length: 1\nContent-Length: 1\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 1, 1\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length: +1\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length: -1\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 0x1\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 1 2\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length:\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999999\n\n",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 1\nTransfer-Encoding: chunked\n\n",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 1\n\n",
        "BREW / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 1\n\n",
        "GET / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity\n\n",
        "POST / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n",
        "GET / HTTP/1.1\nHost: a\nContent-Length: 2\nConnection: upgrade\nUpgrade: websocket\n\n",
    ],
)
def test_refused(text):
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert caught.value.status in (400, 501)
    assert caught.value.code == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("GET / HTTP/2.0\nHost: a\n\n", 505),
        ("GET / HTTP/1.2\nHost: a\n\n", 505),
        ("PRI * HTTP/2.0\n\n", 505),
        ("CONNECT a:1 HTTP/1.1\nHost: a\n\n", 501),
        ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n", 501),
        ("GET / HTTP/1.1\nHost: a\n" + "X: 1\n" * 8 + "\n", 431),
    ],
)
def test_refused_with_another_status(text, status):
    with pytest.raises(BadRequest) as caught:
        parse(text, max_headers=8)
    assert caught.value.status == status


# Chunked bodies.

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


def test_a_body_that_comes_whole():
    assert read([CHUNKS]) == (BODY, b"", True)
    assert read([b"0\r\n\r\n"]) == (b"", b"", True)


@pytest.mark.parametrize("at", range(1, len(CHUNKS + NEXT)))
def test_cut_anywhere_the_next_request_stays_whole(at):
    data = CHUNKS + NEXT
    assert read([data[:at], data[at:]]) == (BODY, NEXT, True)


def test_byte_by_byte():
    data = CHUNKS + NEXT
    assert read([data[at : at + 1] for at in range(len(data))]) == (BODY, NEXT, True)


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=20)), st.lists(st.integers(1, 200), max_size=9))
def test_any_body_cut_anywhere(chunks, cuts):
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data += b"0\r\n\r\n" + NEXT
    ends = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [data[a:b] for a, b in pairwise(ends)]
    assert read(pieces) == (b"".join(chunks), NEXT, True)


def test_trailers_are_kept_but_those_that_may_not_be_there():
    body = ChunkedBody()
    assert body.feed(b"0\r\nX-Sum: \xe4\r\nHost: b\r\nx-b: 2\r\n\r\n") == (b"", b"")
    assert body.trailers == [("X-Sum", "ä"), ("x-b", "2")]


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
def test_malformed_chunks(data):
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
