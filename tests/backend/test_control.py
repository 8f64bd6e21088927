"""One request to the control plane: answered from its head, or once its body is there."""

import json
from typing import Any

import pytest

from pytest_synth_tunnels.backend.control import MAX_BODY_BYTES, control
from pytest_synth_tunnels.backend.routes import Routes
from pytest_synth_tunnels.http.exchange import IGNORE


class Head:
    def __init__(self, method: str, path: str, key: str, content_length: int) -> None:
        self.method = method
        self.path = path
        self.query = ""
        self.content_length = content_length
        self.peer_host = "127.0.0.1"
        self._key = key

    def get(self, name: str) -> str | None:
        return f"Bearer {self._key}" if name == "authorization" else None


class FakeExchange:
    """Notes its answer, and whether the caller was told to send the body."""

    def __init__(self, method: str, path: str, *, key: str = "sk", length: int = 0) -> None:
        self.head = Head(method, path, key, length)
        self.continued = False
        self.answer: tuple[int, Any] | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None

    def continue_(self) -> None:
        self.continued = True

    def respond(self, status: int, headers: Any, body: bytes) -> None:
        assert self.answer is None
        self.answer = status, json.loads(body)


class FakeTunnels:
    def create(self, **body: Any) -> Any:
        return body


class FakeStore:
    tunnels = FakeTunnels()


def ask(exchange: FakeExchange, *pieces: bytes) -> Any:
    handler = control(exchange, Routes(FakeStore(), api_key="sk"))  # type: ignore[arg-type]
    for piece in pieces:
        handler.body_received(piece)
    if not exchange.done:
        handler.body_ended()
    return handler


def test_a_body_is_collected() -> None:
    exchange = FakeExchange("POST", "/v1/tunnels/", length=40)
    ask(exchange, b'{"subdomain": "a",', b'"local_port": 1}')
    assert exchange.continued
    assert exchange.answer is not None
    assert exchange.answer[0] == 200
    assert exchange.answer[1]["local_port"] == 1


@pytest.mark.parametrize(
    ("exchange", "status", "code"),
    [
        (FakeExchange("GET", "/nowhere"), 404, "not_found"),
        (FakeExchange("POST", "/v1/tunnels/", key="other"), 401, "unauthorized"),
        (FakeExchange("PUT", "/v1/tunnels/"), 405, "method_not_allowed"),
        (
            FakeExchange("POST", "/v1/tunnels/", length=MAX_BODY_BYTES + 1),
            413,
            "payload_too_large",
        ),
    ],
)
def test_a_head_that_is_refused_costs_no_body(
    exchange: FakeExchange, status: int, code: str
) -> None:
    assert ask(exchange) is IGNORE
    assert not exchange.continued
    assert exchange.answer is not None
    assert (exchange.answer[0], exchange.answer[1]["code"]) == (status, code)


def test_a_body_of_unknown_length_is_bounded() -> None:
    exchange = FakeExchange("POST", "/v1/tunnels/")
    piece = b" " * (MAX_BODY_BYTES // 2)
    ask(exchange, piece, piece, b" ", b"more that is dropped")
    assert exchange.answer is not None
    assert exchange.answer[0] == 413


def test_a_body_that_does_not_validate_is_refused() -> None:
    exchange = FakeExchange("POST", "/v1/tunnels/", length=2)
    ask(exchange, b"{}")
    assert exchange.answer is not None
    assert exchange.answer[0] == 422
