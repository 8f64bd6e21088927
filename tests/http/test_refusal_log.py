"""What the log tells of refusals: without sockets, time by hand."""

import logging
from collections.abc import Callable

import pytest

from pytest_synth_tunnels.http.refusal_log import FloodFilter, log_refusal


class Clock:
    """A clock, and a filter that keeps to it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.filter = FloodFilter(lambda: self.now)

    def written(self, count: int, kind: str = "X") -> list[tuple[int, int]]:
        """Return which of so many are written, and how many each says were left out."""
        found = []
        for number in range(1, count + 1):
            record = logging.makeLogRecord({"msg": "0 more", "kind": kind})
            if self.filter.filter(record):
                found.append((number, int(record.getMessage().rpartition(" more")[0].split()[-1])))
        return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_are_all_written(clock: Clock) -> None:
    assert clock.written(16) == [(number, 0) for number in range(1, 17)]


def test_then_only_each_doubling_is(clock: Clock) -> None:
    clock.written(16)
    # The 17th of all is the first of these.
    assert clock.written(1_000) == [(16, 15), (48, 31), (112, 63), (240, 127), (496, 255)]


def test_a_flood_of_a_hundred_thousand_is_a_few_lines(clock: Clock) -> None:
    assert len(clock.written(100_000)) == 16 + 12


def test_a_flood_of_one_kind_hides_no_other(clock: Clock) -> None:
    clock.written(1_000)
    assert clock.written(1, "Y") == [(1, 0)]


def test_the_next_interval_begins_anew_and_tells_what_was_left_out(clock: Clock) -> None:
    clock.written(20)
    clock.now += 59
    assert clock.written(1) == []
    clock.now += 1
    assert clock.written(17) == [(1, 5), *((number, 0) for number in range(2, 17))]


def test_a_line(refused: Callable[[], list[str]]) -> None:
    log_refusal(401, "TUNNEL_AUTH_INVALID", "r-1", "192.0.2.7")
    log_refusal(400, "BAD_REQUEST", peer="192.0.2.7")
    log_refusal(401, "unauthorized", "an agent")
    for _ in range(31):
        log_refusal(503, "AGENT_OFFLINE", "r-2", "192.0.2.7")
    log_refusal(503, "AGENT_OFFLINE", "r-3", "192.0.2.7")
    assert refused()[:3] == [
        "r-1 from 192.0.2.7: 401 TUNNEL_AUTH_INVALID",
        "a request from 192.0.2.7: 400 BAD_REQUEST",
        "an agent: 401 unauthorized",
    ]
    assert refused()[3:] == [
        *["r-2 from 192.0.2.7: 503 AGENT_OFFLINE"] * 16,
        "r-3 from 192.0.2.7: 503 AGENT_OFFLINE (and 15 more of these before)",
    ]


@pytest.mark.parametrize("name", ["r-1\nkeeper: all is well", "x" * 65, "é", "", "a\tb"])
def test_a_name_that_is_not_plain_is_left_out(name: str, refused: Callable[[], list[str]]) -> None:
    log_refusal(502, "X", name)
    log_refusal(502, "X", "3f2a-1.2")
    assert refused() == ["a request: 502 X", "3f2a-1.2: 502 X"]


def test_a_line_of_no_kind_is_written(clock: Clock) -> None:
    record = logging.makeLogRecord({"msg": "all is well"})
    assert all(clock.filter.filter(record) for _ in range(100))
    assert record.getMessage() == "all is well"
