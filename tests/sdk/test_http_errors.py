"""Errors that are httpx exceptions too."""

import copy
import pickle
import time
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from pytest_synth_tunnels.sdk import errors, requests
from pytest_synth_tunnels.sdk.errors import TunnelAnswerError, TunnelError
from pytest_synth_tunnels.sdk.http_errors import from_transport, read_answer

SENT = httpx.Request("GET", "https://h/v1/tunnels/health")


def read(response: httpx.Response, request: requests.Request | None = None) -> Any:
    response.request = SENT
    return read_answer(response, request or requests.health(), origin="https://h", secret="sk-1")


def failure(response: httpx.Response) -> TunnelError:
    with pytest.raises(TunnelError) as caught:
        read(response)
    return caught.value


def test_a_success_gives_its_json() -> None:
    assert read(httpx.Response(201, json={"a": [1]})) == {"a": [1]}
    assert read(httpx.Response(204)) == {}
    assert read(httpx.Response(200, json=[{}]), requests.list_leases()) == [{}]


def test_a_status_error_is_httpxs_too() -> None:
    error = failure(
        httpx.Response(429, json={"detail": "slow down"}, headers={"x-request-id": "r1"})
    )
    assert isinstance(error, errors.TunnelUnavailableError)
    assert isinstance(error, httpx.HTTPStatusError)
    assert error.response.status_code == error.status == 429
    assert error.request is SENT
    assert error.request_id == "r1"
    assert "GET /v1/tunnels/health of https://h answered 429: slow down." in str(error)


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b'"x"', b"\xff", b"[" * 100_000])
def test_a_status_error_needs_no_json(content: bytes) -> None:
    assert failure(httpx.Response(500, content=content)).code == "TUNNEL_INTERNAL"


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (formatdate(0), 0.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        ("Fri, 31 Dec 9999 23:59:60 GMT", None),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    assert failure(httpx.Response(503, headers={"retry-after": value})).retry_after_s == wait_s


def test_retry_after_a_date() -> None:
    error = failure(httpx.Response(503, headers={"retry-after": formatdate(time.time() + 60)}))
    assert error.retry_after_s == pytest.approx(60, abs=5)


@pytest.mark.parametrize("content", [b"<html>tok-1</html>", b"{", b"\xff", b"[" * 100_000, b" "])
def test_an_answer_that_is_not_json_is_told_and_not_shown(content: bytes) -> None:
    error = failure(httpx.Response(200, content=content, headers={"content-type": "text/html"}))
    assert isinstance(error, TunnelAnswerError)
    assert isinstance(error, ValueError)
    assert "answered 200 with text/html that is not JSON" in str(error)
    assert "tok-1" not in str(error)
    assert error.__suppress_context__


@pytest.mark.parametrize("content", [b"1", b'"x"', b"null", b"true", b"[1]"])
def test_an_answer_that_is_no_object_is_refused(content: bytes) -> None:
    error = failure(httpx.Response(200, content=content))
    assert isinstance(error, TunnelAnswerError)
    assert "instead of an object" in str(error)


def test_a_list_call_takes_no_scalar() -> None:
    with pytest.raises(TunnelAnswerError, match="instead of a list"):
        read(httpx.Response(200, json=7), requests.list_tunnels())


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (httpx.ConnectError("refused"), errors.TunnelConnectionError, "cannot connect (refused)"),
        (httpx.ConnectTimeout(""), errors.TunnelTimeoutError, "no connection within 2.5 s"),
        (httpx.ReadTimeout(""), errors.TunnelTimeoutError, "no answer within 2.5 s"),
        (httpx.PoolTimeout(""), errors.TunnelTimeoutError, "no answer within 2.5 s"),
        (httpx.ReadError(""), errors.TunnelConnectionError, "the connection broke (ReadError)"),
        (httpx.ProxyError("407"), errors.TunnelConnectionError, "the connection broke (407)"),
        (
            httpx.LocalProtocolError("Illegal header value b'Bearer sk-1'"),
            errors.TunnelConnectionError,
            "Illegal header value b'Bearer ***'",
        ),
        (httpx.DecodingError("gzip"), errors.TunnelAnswerError, "broken encoding (gzip)"),
        (httpx.InvalidURL("bad"), errors.TunnelRequestError, "does not fit into a URL (bad)"),
    ],
)
def test_a_transport_failure_is_httpxs_too(
    raised: httpx.RequestError | httpx.InvalidURL, kind: type[TunnelError], says: str
) -> None:
    if isinstance(raised, httpx.RequestError):
        raised.request = SENT
    error = from_transport(
        raised, requests.health(), origin="https://h", secret="sk-1", timeout_s=2.5
    )
    assert isinstance(error, kind)
    assert isinstance(error, type(raised))
    assert says in str(error)
    assert "sk-1" not in str(error)
    if isinstance(error, httpx.RequestError):
        assert error.request is SENT


def test_such_errors_can_be_copied_and_pickled() -> None:
    error = failure(httpx.Response(404, json={"detail": "gone"}))
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.response.json() == {"detail": "gone"}


def test_one_class_for_each_pair() -> None:
    assert type(failure(httpx.Response(404))) is type(failure(httpx.Response(404)))
    assert type(failure(httpx.Response(404))).__name__ == "TunnelNotFoundError"
