"""The handshakes with caller and app, without sockets."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.websocket import upgrade as module
from pytest_synth_tunnels.websocket.upgrade import (
    Answer,
    AnswerError,
    app_protocol,
    check_answer,
    check_request,
    request_headers,
    switching,
    upgrade_lines,
    without_framing,
)
from pytest_synth_tunnels.wire.handshake import HandshakeError

REQUEST = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "WebSocket"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 4\r\n\r\ndont"


def test_a_request_is_checked() -> None:
    assert check_request("GET", REQUEST) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    with pytest.raises(HandshakeError, match="missing Sec-WebSocket-Key"):
        check_request("GET", [*REQUEST[:2], REQUEST[3]])
    with pytest.raises(HandshakeError) as caught:
        check_request("GET", [*REQUEST[:3], ("Sec-WebSocket-Version", "7")])
    assert (caught.value.status, caught.value.headers) == (426, [("Sec-WebSocket-Version", "13")])


def test_the_callers_own_handshake_is_not_passed_on() -> None:
    extra = [("Origin", "https://a"), ("Sec-WebSocket-Protocol", "v1")]
    extensions = ("SEC-WEBSOCKET-EXTENSIONS", "permessage-deflate")
    assert request_headers([*REQUEST[2:], extensions, *extra]) == extra


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0b"])
def test_nothing_is_smuggled_into_the_answer(value: str) -> None:
    with pytest.raises(ValueError, match="cannot travel"):
        switching("accept", [("X", value)])


def test_framing_is_stripped_but_upgrade_stays() -> None:
    headers = [
        ("Upgrade", "websocket, h2c"),
        ("connection", "Upgrade, X-Hop"),
        ("Connection", "close"),
        ("x-hop", "1"),
        ("Content-Length", "no number"),
        ("Transfer-Encoding", "chunked"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    ]
    assert without_framing(headers) == [
        ("Upgrade", "websocket, h2c"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    ]


def test_the_apps_handshake_has_its_own_key_and_no_extensions() -> None:
    first = app_protocol([("sec-websocket-protocol", "v1, v2")], 1000)
    second = app_protocol([], 1000)
    assert first.key != second.key
    assert upgrade_lines(first) == (
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {first.key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )


def accepted(key: str, *headers: tuple[str, str]) -> list[tuple[str, str]]:
    from websockets.utils import accept_key

    return [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
        *headers,
    ]


def test_an_apps_101_is_checked() -> None:
    offer = [("Sec-WebSocket-Protocol", "v1"), ("sec-websocket-protocol", "v2, v3")]
    protocol = app_protocol(offer, 1000)
    chosen = ("Sec-WebSocket-Protocol", "v3"), ("Set-Cookie", "a=1")
    assert check_answer(protocol, accepted(protocol.key, *chosen)) == list(chosen)
    assert check_answer(protocol, accepted(protocol.key)) == []


@pytest.mark.parametrize(
    "header",
    [
        ("Sec-WebSocket-Protocol", "v9"),
        ("Sec-WebSocket-Protocol", "v1, v2"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Sec-WebSocket-Accept", "twice"),
    ],
)
def test_an_apps_wrong_101_is_refused(header: tuple[str, str]) -> None:
    protocol = app_protocol([("Sec-WebSocket-Protocol", "v1, v2")], 1000)
    with pytest.raises(AnswerError, match="no WebSocket handshake"):
        check_answer(protocol, accepted(protocol.key, header))


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_refusal_is_read_in_any_pieces(step: int) -> None:
    answer = Answer()
    pieces = [REFUSAL[at : at + step] for at in range(0, len(REFUSAL), step)]
    assert [answer.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (answer.status, bytes(answer.body)) == (403, b"dont")
    assert answer.headers == [("X-Why", "no"), ("Content-Length", "4")]


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + REFUSAL, 403, b"dont"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + REFUSAL, 403, b"dont"),
        (REFUSAL + REFUSAL, 403, b"dont"),
        (REFUSAL + b"nonsense", 403, b"dont"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (
            b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: x\r\n\r\n",
            401,
            b"ab",
        ),
    ],
)
def test_answers_of_many_kinds(raw: bytes, status: int, body: bytes) -> None:
    answer = Answer()
    assert answer.feed(raw)
    assert (answer.status, bytes(answer.body)) == (status, body)
    assert ("T", "x") not in answer.headers


def test_what_follows_a_101_is_kept() -> None:
    answer = Answer()
    head = b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    assert not answer.feed(head[:-1])
    assert answer.feed(head[-1:] + b"\x81\x02hi")
    assert (answer.status, answer.rest) == (101, b"\x81\x02hi")


def test_an_answer_may_end_with_its_connection() -> None:
    answer = Answer()
    assert not answer.feed(b"HTTP/1.0 404 Not Found\r\n\r\nnot ")
    assert not answer.feed(b"here")
    answer.end()
    assert (answer.status, bytes(answer.body)) == (404, b"not here")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\n", "in the middle"),
        (REFUSAL[:-1], "in the middle"),
    ],
)
def test_an_answer_that_breaks_off(raw: bytes, words: str) -> None:
    answer = Answer()
    answer.feed(raw)
    with pytest.raises(AnswerError, match=words):
        answer.end()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 65_536, "over 64 KiB"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000, "more than"),
    ],
)
def test_an_answer_that_cannot_be_passed_on(
    raw: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_BODY_BYTES", 1000)
    with pytest.raises(AnswerError, match=words):
        Answer().feed(raw)


@settings(deadline=None)
@given(st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 Yes\r\n"]), st.binary())
def test_garbage_is_an_answer_or_none(head: bytes, tail: bytes) -> None:
    answer = Answer()
    with suppress(AnswerError):
        if not answer.feed(head + tail):
            answer.end()
