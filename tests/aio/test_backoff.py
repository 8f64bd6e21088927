"""Backoff: the pauses, and what chance may change of them."""

import pytest

from pytest_synth_tunnels.aio.backoff import Backoff


def test_pauses_double_up_to_the_limit_and_begin_anew() -> None:
    backoff = Backoff(0.2, 2.0)
    assert [backoff.next_s() for _ in range(6)] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    backoff.reset()
    assert backoff.next_s() == 0.2


def test_a_first_pause_above_the_limit_is_the_limit() -> None:
    assert Backoff(5.0, 1.0).next_s() == 1.0


def test_ten_thousand_failures_overflow_nothing() -> None:
    backoff = Backoff(1.0, 30.0)
    assert [backoff.next_s() for _ in range(10_000)][-1] == 30.0


@pytest.mark.parametrize(("chance", "pauses"), [(0.0, [0.5, 1.0, 1.5]), (1.0, [1.0, 2.0, 3.0])])
def test_the_spread_is_drawn(chance: float, pauses: list[float]) -> None:
    backoff = Backoff(1.0, 3.0, spread=0.5, uniform=lambda a, b: a + chance * (b - a))
    assert [backoff.next_s() for _ in range(3)] == pauses
