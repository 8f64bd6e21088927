"""What callers are told, as published clients understand it (protocol, sections 1 and 3)."""

import json

import pytest

from pytest_synth_tunnels.relay import failures
from pytest_synth_tunnels.relay.failures import RelayFailure

from ..support.http_server import GET, OneConnection


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (failures.offline(), "agent_offline"),
        (failures.offline("it was replaced"), "agent_offline"),
        (failures.lost("it was replaced"), "agent_offline"),
        (failures.over("it was released"), "lease_expired"),
        (failures.timed_out(2.5), "timed out"),
        (failures.not_opened(2.5), "timed out"),
    ],
)
def test_the_detail_has_the_word_that_published_clients_look_for(
    failure: RelayFailure, word: str
) -> None:
    assert failure.detail == f"{word}: {failure.message}"


@pytest.mark.parametrize(
    ("code", "status", "public_code"),
    [
        ("REQUEST_BODY_TOO_LARGE", 413, "TUNNEL_PAYLOAD_TOO_LARGE"),
        ("TOO_MANY_ACTIVE_REQUESTS", 429, "TUNNEL_CAPACITY_EXCEEDED"),
        ("TOO_MANY_IN_FLIGHT_REQUESTS", 429, "TUNNEL_CAPACITY_EXCEEDED"),
        ("ANYTHING_ELSE", 502, "TUNNEL_ENDPOINT_UNREACHABLE"),
    ],
)
def test_an_agents_code_becomes_a_public_one(code: str, status: int, public_code: str) -> None:
    failure = failures.reported(code, "why")
    assert (failure.status, failure.code, failure.message) == (status, public_code, "why")
    assert failure.detail == f"{code}: why"
    assert failure.recorded


def test_what_an_agent_says_is_bounded_and_never_empty() -> None:
    failure = failures.reported("A" * 1000, "b" * 10_000)
    assert len(failure.message) == 500
    assert len(failure.detail) < 600
    assert failures.reported("X", "").message == "the app could not be reached"
    assert failures.websocket_failed("").message == "the app could not be reached"
    assert len(failures.websocket_failed("b" * 10_000).message) == 500


@pytest.mark.parametrize(
    ("protocol", "named"), [("h2c", True), ("a b", False), ("x" * 41, False), ("é", False)]
)
def test_a_protocol_is_named_only_where_it_is_plain(protocol: str, named: bool) -> None:
    assert (protocol in failures.upgrade_unsupported(protocol).message) is named


def test_a_full_lease_says_when_to_come_back() -> None:
    for failure in (failures.too_many_requests(3), failures.too_many_websockets(3)):
        assert ("Retry-After", "1") in failure.headers
        assert " 3 " in failure.message


def test_a_refused_request_is_answered_with_the_failure(loop, wire) -> None:
    world = OneConnection(loop, wire)
    exchange = world.feed(GET % b"x").handler.exchange
    failures.refuse(exchange, "req_1", failures.not_admitted("TUNNEL_AUTH_REQUIRED", "no token"))
    head, _, body = world.answer().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nWWW-Authenticate: Bearer" in head
    assert "TUNNEL_AUTH_REQUIRED" in json.dumps(json.loads(body))
    assert b"no token" in body
    assert b"req_1" in head + body
