"""What an answer that is no success means."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.sdk import errors
from pytest_synth_tunnels.sdk.errors import CODES, TunnelError, from_status


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (302, {}, errors.TunnelRequestError, "TUNNEL_URL_INVALID"),
        (400, {}, errors.TunnelRequestError, "TUNNEL_REQUEST_INVALID"),
        (401, {"code": "unauthorized"}, errors.TunnelAuthError, "TUNNEL_AUTH_INVALID"),
        (401, {"detail": "token timed out"}, errors.TunnelAuthError, "TUNNEL_AUTH_INVALID"),
        (403, {"code": "forbidden"}, errors.TunnelAuthError, "TUNNEL_AUTH_INVALID"),
        (404, {}, errors.TunnelNotFoundError, "TUNNEL_NOT_FOUND"),
        (404, {"detail": "lease_expired"}, errors.TunnelExpiredError, "TUNNEL_LEASE_EXPIRED"),
        (408, {}, errors.TunnelTimeoutError, "TUNNEL_TIMEOUT"),
        (409, {}, errors.TunnelConflictError, "TUNNEL_CONFLICT"),
        (409, {"detail": "lease_pending"}, errors.TunnelUnavailableError, "TUNNEL_LEASE_PENDING"),
        (410, {}, errors.TunnelExpiredError, "TUNNEL_LEASE_EXPIRED"),
        (413, {}, errors.TunnelRequestError, "TUNNEL_PAYLOAD_TOO_LARGE"),
        (422, {"detail": "bad port"}, errors.TunnelRequestError, "TUNNEL_REQUEST_INVALID"),
        (422, {"detail": "no Provider x"}, errors.TunnelRequestError, "TUNNEL_PROVIDER_INVALID"),
        (429, {}, errors.TunnelUnavailableError, "TUNNEL_CAPACITY_EXCEEDED"),
        (500, {}, errors.TunnelBackendError, "TUNNEL_INTERNAL"),
        (500, {"code": "rate_limited"}, errors.TunnelUnavailableError, "TUNNEL_CAPACITY_EXCEEDED"),
        (500, {"detail": "query timed out"}, errors.TunnelTimeoutError, "TUNNEL_TIMEOUT"),
        (502, {}, errors.TunnelConnectionError, "TUNNEL_ENDPOINT_UNREACHABLE"),
        (503, {"code": "AGENT_OFFLINE"}, errors.TunnelUnavailableError, "TUNNEL_AGENT_OFFLINE"),
        (503, {}, errors.TunnelUnavailableError, "TUNNEL_CAPACITY_EXCEEDED"),
        (504, {}, errors.TunnelTimeoutError, "TUNNEL_TIMEOUT"),
        (500, {"code": "TUNNEL_CONFLICT"}, errors.TunnelConflictError, "TUNNEL_CONFLICT"),
    ],
)
def test_an_answer_has_a_class_and_a_code(
    status: int, body: dict[str, Any], kind: type[TunnelError], code: str
) -> None:
    error = from_status(status, body, where="GET /x of https://h")
    assert type(error) is kind
    assert (error.status, error.code) == (status, code)
    assert error.hint == CODES[code] != ""


def test_the_text_says_what_happened_and_what_to_do() -> None:
    error = from_status(
        404, {"detail": "no such lease", "request_id": "r1"}, where="GET /x of https://h"
    )
    assert str(error) == (
        "GET /x of https://h answered 404: no such lease. "
        "Check the id, and that it belongs to this backend. [TUNNEL_NOT_FOUND, request r1]"
    )
    assert error.request_id == "r1"
    assert str(TunnelError("It broke.", hint="")) == "It broke. [TUNNEL_INTERNAL]"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "a", "message": "b"}, "a"),
        ({"message": "b"}, "b"),
        ({"error": "c"}, "c"),
        ({"detail": {"code": "x", "message": "d"}}, "d"),
        ({"error": {"message": "e"}}, "e"),
        ({"detail": [{"loc": ["body", "port"], "msg": "too big"}, {"msg": "f"}, 7]},
         "body.port: too big; f; 7"),
        ({"detail": 7}, ""),
    ],
)  # fmt: skip
def test_the_backends_words_are_found_wherever_they_are(body: dict[str, Any], said: str) -> None:
    message = from_status(400, body, where="GET /x").message
    assert message == "GET /x answered 400" + (f": {said}" if said else "")


def test_a_nested_code_counts() -> None:
    error = from_status(500, {"detail": {"code": "agent_offline"}}, where="GET /x")
    assert error.code == "TUNNEL_AGENT_OFFLINE"


def test_no_message_shows_the_key_or_runs_on() -> None:
    body = {"detail": "bad key sk-123\x1b[31m\nred " + "x" * 5000, "request_id": "sk-123"}
    error = from_status(401, body, where="GET /x", secret="sk-123")
    assert "sk-123" not in f"{error} {error!r} {vars(error)}"
    assert "bad key *** [31m red xxx" in str(error)
    assert len(str(error)) < 600


def test_a_request_id_comes_from_the_body_or_else_a_header() -> None:
    assert from_status(500, {"request_id": "b"}, where="", request_id="h").request_id == "b"
    assert from_status(500, {}, where="", request_id="h").request_id == "h"
    assert from_status(500, {}, where="").request_id is None


names = st.sampled_from(["code", "detail", "message", "error", "request_id", "loc", "msg"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(names, json_values, max_size=4)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.integers(100, 599), bodies)
def test_any_body_gives_an_error(status: int, body: dict[str, Any]) -> None:
    error = from_status(status, body, where="GET /x")
    assert error.code in CODES
    assert "\n" not in str(error)


def test_every_class_has_a_known_code() -> None:
    for name in errors.__all__:
        value = getattr(errors, name)
        if isinstance(value, type):
            assert value("x").code in CODES
