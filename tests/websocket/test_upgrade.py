"""The handshakes with caller and app, without sockets."""

import pytest

from pytest_synth_tunnels.websocket.upgrade import (
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
