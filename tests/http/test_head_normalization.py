import pytest

from pytest_synth_tunnels.http.head_normalization import normalize_head


@pytest.mark.parametrize(
    ("head", "normalized", "ambiguous"),
    [
        (b"HTTP/1.1 200 OK\nA: b\n\n", b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", False),
        (b"\r\nHTTP/1.1 200 OK\r\nA \t: b\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\tc\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b c\r\n\r\n", False),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
            False,
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            True,
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            False,
        ),
        (b"HTTP/1.1 200 OK\nno colon\n\n", b"HTTP/1.1 200 OK\nno colon\n\n", False),
    ],
)
def test_a_head_is_normalized(head: bytes, normalized: bytes, ambiguous: bool) -> None:
    assert normalize_head(head) == (normalized, ambiguous)
