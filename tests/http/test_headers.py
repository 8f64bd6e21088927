"""What goes on the wire as a response's head, and what of an app's headers does."""

import pytest

from pytest_synth_tunnels.http.headers import HeaderTable, end_to_end, response_head


def test_response_head():
    head = response_head(200, [("A", "1"), ("A", "é")], "Content-Length: 0\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nA: 1\r\nA: \xe9\r\nContent-Length: 0\r\n\r\n"
    assert response_head(799, [], "") == b"HTTP/1.1 799 \r\n\r\n"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [("A", "1\r\nB: 2")]),
        (200, [("A", "1\nB: 2")]),
        (200, [("A\r\nB", "1")]),
        (200, [("A", "1\0")]),
        (200, [("A", "\u20ac")]),
        (100, []),
        (199, []),
        (1000, []),
        (-1, []),
    ],
)
def test_what_would_change_the_message_is_refused(status, headers):
    with pytest.raises(ValueError, match=r".+"):
        response_head(status, headers, "")


def test_end_to_end():
    headers, length = end_to_end(
        [
            ("Content-Type", "a"),
            ("CONTENT-LENGTH", " 12 "),
            ("Connection", "close, X-Private"),
            ("x-private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Transfer-Encoding", "chunked"),
            ("Trailer", "x"),
            ("Upgrade", "h2c"),
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
        ]
    )
    assert headers == [("Content-Type", "a"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
    assert length == 12
    assert end_to_end([("A", "1")]) == ([("A", "1")], None)
    assert end_to_end([("Content-Length", "1"), ("content-length", "1")]) == ([], 1)


@pytest.mark.parametrize("values", [["1", "2"], ["x"], ["-1"], ["+1"], [""], ["1, 1"], ["\xb2"]])
def test_lengths_that_are_none(values):
    with pytest.raises(ValueError, match="content-length"):
        end_to_end([("Content-Length", value) for value in values])


def test_a_table_asks_once_for_a_name():
    asked = []
    table = HeaderTable(lambda name: asked.append(name) or name.lower())
    assert [table[name] for name in ("Host", "HOST", "Host", "Host")] == ["host"] * 4
    assert asked == ["Host", "HOST"]


def test_a_table_is_bounded():
    table = HeaderTable(bytes.lower)
    for number in range(5_000):
        assert table[b"X-%d" % number] == b"x-%d" % number
    assert len(table) == 1024
    assert table[b"X" * 65] == b"x" * 65


def test_the_bounds_of_a_table_may_be_others():
    table = HeaderTable(str.lower, max_entries=2, max_characters=3)
    assert [table[name] for name in ("A", "LONG", "B", "C")] == ["a", "long", "b", "c"]
    assert table == {"A": "a", "B": "b"}


def test_a_table_keeps_no_long_name():
    table = HeaderTable(str.lower)
    assert table["X" * 65] == "x" * 65
    assert not table
