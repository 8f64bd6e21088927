"""When a failed call is sent again."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import tenacity

from pytest_synth_tunnels.sdk import errors, requests
from pytest_synth_tunnels.sdk.errors import TunnelError, from_status
from pytest_synth_tunnels.sdk.http_errors import from_transport
from pytest_synth_tunnels.sdk.requests import Request
from pytest_synth_tunnels.sdk.retry import MAX_WAIT_S, async_retrying, retrying, worth_retrying

TARGET = {"client_instance_id": "c", "local_host": "h", "local_port": 1}
NEVER = requests.create_synth_lease(**TARGET)
IDEMPOTENT = requests.health()
KEYED = requests.create_lease(**TARGET, idempotency_key="k")


def transport(raised: httpx.RequestError) -> TunnelError:
    raised.request = httpx.Request("GET", "https://h")
    return from_transport(raised, IDEMPOTENT, origin="https://h", secret="s", timeout_s=1)


def status(code: int, retry_after_s: float | None = None) -> TunnelError:
    return from_status(code, {}, where="x", retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("error", "never", "idempotent", "keyed"),
    [
        (transport(httpx.ConnectError("")), True, True, True),
        (transport(httpx.ConnectTimeout("")), True, True, True),
        (transport(httpx.PoolTimeout("")), True, True, True),
        (transport(httpx.ReadTimeout("")), False, False, True),
        (transport(httpx.ReadError("")), False, False, True),
        (status(429, 1.0), False, True, True),
        (status(503, 0.0), False, True, True),
        (status(503, MAX_WAIT_S + 1), False, False, False),
        (status(503), False, False, True),
        (status(429), False, False, True),
        (status(500, 1.0), False, False, True),
        (status(401), False, False, False),
        (status(404), False, False, False),
        (status(422), False, False, False),
        (errors.TunnelAnswerError("html"), False, False, True),
        (KeyboardInterrupt(), False, False, False),
        (ValueError(), False, False, False),
    ],
    ids=str,
)
def test_nothing_happens_twice(
    error: BaseException, never: bool, idempotent: bool, keyed: bool
) -> None:
    assert worth_retrying(NEVER, error) is never
    assert worth_retrying(IDEMPOTENT, error) is idempotent
    assert worth_retrying(KEYED, error) is keyed


def waits(
    request: Request, retries: int, outcomes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], Callable[[], Any]]:
    """Return the pauses that will be made, and what makes the call."""
    slept: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", slept.append)

    def send() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return slept, lambda: retrying(request, retries)(send)


def test_a_call_is_sent_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, call = waits(IDEMPOTENT, 3, [status(503, 2.0), status(503, 0.0), "done"], monkeypatch)
    assert call() == "done"
    assert 2.0 <= slept[0] <= 4.0
    assert slept[1] == 0.0


def test_the_number_of_attempts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [transport(httpx.ConnectError(str(n))) for n in range(4)]
    slept, call = waits(NEVER, 2, list(refused), monkeypatch)
    with pytest.raises(httpx.ConnectError) as caught:
        call()
    assert caught.value is refused[2]
    assert len(slept) == 2
    assert all(0 <= pause <= 2 for pause in slept)


def test_coroutines_are_retried_alike() -> None:
    outcomes: list[Any] = [status(503, 0.0), "done"]

    async def send() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert asyncio.run(async_retrying(IDEMPOTENT, 1)(send)) == "done"
