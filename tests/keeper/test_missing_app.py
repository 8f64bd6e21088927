"""When it is certain that no app is there."""

from types import SimpleNamespace
from typing import Any

from pytest_synth_tunnels.http.pool import NOBODY_LISTENS, PATIENCE_S
from pytest_synth_tunnels.keeper.missing_app import MissingApp

REFUSED = f"cannot connect to the app at 127.0.0.1:1: {NOBODY_LISTENS}"


def request(sequence: int, arrived_s: float, **values: Any) -> Any:
    return SimpleNamespace(
        **{"answered_by": None, "error": "", "over": False}
        | {"sequence": sequence, "arrived_s": arrived_s}
        | values
    )


def refused(sequence: int, arrived_s: float, error: str = REFUSED) -> Any:
    return request(sequence, arrived_s, answered_by="tunnel", error=error, over=True)


def test_an_app_may_start_late() -> None:
    missing = MissingApp(100.0)
    assert missing.asks_at_s() == 100.0 + PATIENCE_S
    assert not missing.was_refused


def test_a_request_in_flight_may_still_find_it() -> None:
    missing = MissingApp(100.0)
    missing.feed(request(1, 102.0))
    missing.feed(request(2, 102.5))
    assert missing.asks_at_s() is None
    missing.feed(refused(1, 102.0))
    assert missing.asks_at_s() is None
    missing.feed(refused(2, 102.5))
    assert missing.asks_at_s() == 100.0 + PATIENCE_S
    assert missing.was_refused


def test_a_request_before_the_wait_has_waited_already() -> None:
    missing = MissingApp(100.0)
    missing.feed(refused(1, 95.0))
    missing.feed(refused(2, 99.0))
    assert missing.asks_at_s() == 95.0 + PATIENCE_S


def test_an_answer_since_then_shows_an_app() -> None:
    missing = MissingApp(100.0)
    missing.feed(refused(1, 95.0))
    missing.feed(request(2, 99.0, answered_by="app", over=True))
    assert missing.asks_at_s() == 100.0 + PATIENCE_S
    assert not missing.was_refused


def test_other_refusals_say_nothing_of_the_app() -> None:
    missing = MissingApp(100.0)
    missing.feed(refused(1, 90.0, "TUNNEL_AUTH_REQUIRED: this tunnel wants the worker token"))
    assert missing.asks_at_s() == 100.0 + PATIENCE_S


def test_it_is_asked_once() -> None:
    missing = MissingApp(100.0)
    missing.settle()
    assert missing.asks_at_s() is None
