import re

import pytest
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.http11 import Response

from pytest_synth_tunnels.wire.handshake import (
    HandshakeError,
    accept,
    client_protocol,
    explain,
    read_url,
)

HANDSHAKE = [
    ("Host", "a"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]


def test_a_handshake_is_answered_by_rfc_6455() -> None:
    head = accept(HANDSHAKE).decode()
    assert head.startswith("HTTP/1.1 101 ")
    assert re.search(r"(?im)^sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r$", head)


def test_a_request_without_an_upgrade_is_told_what_is_needed() -> None:
    with pytest.raises(HandshakeError) as refused:
        accept([("Host", "a")])
    assert refused.value.status == 426
    assert refused.value.headers == [("Upgrade", "websocket")]


def test_a_handshake_without_a_key_is_malformed() -> None:
    with pytest.raises(HandshakeError) as refused:
        accept([pair for pair in HANDSHAKE if pair[0] != "Sec-WebSocket-Key"])
    assert refused.value.status == 400


@pytest.mark.parametrize("url", ["wss://relay.example/a", "ws://127.0.0.1:1/a", "ws://localhost/a"])
def test_urls_that_a_token_may_travel_to(url: str) -> None:
    assert read_url(url).secure == url.startswith("wss:")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ws://relay.example/a", "wss:// only"),
        ("https://relay.example/a", "not a WebSocket URL"),
        ("relay", "not a WebSocket URL"),
    ],
)
def test_urls_that_no_token_travels_to(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_url(url)


def test_the_token_is_a_bearer_token_of_the_request() -> None:
    protocol = client_protocol(read_url("wss://relay.example/agent"), "at_secret")
    (request,) = protocol.data_to_send()
    assert request.startswith(b"GET /agent HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer at_secret\r\n" in request


def test_a_refused_handshake_names_status_and_body() -> None:
    error = explain(InvalidStatus(Response(403, "Forbidden", [], b"no such lease" + b"x" * 1000)))
    assert error.status == 403
    assert str(error).startswith("the relay answered 403 no such lease")
    assert len(str(error)) < 350


def test_an_answer_that_is_no_handshake_names_its_cause() -> None:
    failed = InvalidHandshake("did not receive a valid HTTP response")
    failed.__cause__ = ValueError("garbage")
    error = explain(failed)
    assert error.status == 0
    assert str(error).endswith("(did not receive a valid HTTP response: garbage)")
