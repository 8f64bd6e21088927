import re
from dataclasses import dataclass
from datetime import datetime

import pytest

from pytest_synth_tunnels.backend.common import (
    MAX_TTL_S,
    MIN_TTL_S,
    RefusedError,
    clamp_ttl,
    make_room,
    make_token,
    timestamp,
)


@dataclass
class Record:
    ended: bool


@pytest.mark.parametrize(
    ("requested", "granted"),
    [
        (1, MIN_TTL_S),
        (0.5, MIN_TTL_S),
        (3600, 3600.0),
        (10**30, MAX_TTL_S),
        (float("inf"), MAX_TTL_S),
    ],
)
def test_a_ttl_is_between_a_minute_and_a_day(requested: float, granted: float) -> None:
    assert clamp_ttl(requested) == granted


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {make_token("wt") for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"wt_[0-9a-f]{48}", token) for token in tokens)


def test_a_timestamp_names_its_time_zone() -> None:
    assert timestamp(1_700_000_000.5) == "2023-11-14T22:13:20.500Z"
    assert datetime.fromisoformat(timestamp(1_700_000_000.5)).timestamp() == 1_700_000_000.5


def test_room_is_made_by_forgetting_the_oldest_that_ended() -> None:
    records = {"a": Record(ended=False), "b": Record(ended=True), "c": Record(ended=True)}
    assert make_room(records, 4, "things") is None
    assert make_room(records, 3, "things") is not None
    assert list(records) == ["a", "c"]


def test_what_is_live_is_never_forgotten() -> None:
    records = {"a": Record(ended=False)}
    with pytest.raises(RefusedError, match="all 1 things") as caught:
        make_room(records, 1, "things")
    assert caught.value.status == 429
    assert list(records) == ["a"]
