import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.keeper.leases.heartbeat import (
    Beat,
    Heartbeat,
    HeartbeatSchedule,
    Notice,
    NoticeKind,
)

START = 1_000_000.0
ALIVE = Beat(alive=True)
BEATS = {
    "ok": ALIVE,
    "off": Beat(alive=True, attached=False),
    "dead": Beat(alive=False),
    "fail": None,
}


def make_schedule(ttl_s: float = 14_400.0, interval_s: float = 25.0) -> HeartbeatSchedule:
    return HeartbeatSchedule(
        ttl_s=ttl_s, expires_at=START + ttl_s, interval_s=interval_s, now=START
    )


def kinds(notices: list[Notice]) -> list[NoticeKind]:
    return [notice.kind for notice in notices]


@pytest.mark.parametrize(("ttl_s", "interval_s"), [(0, 1), (-1, 1), (1, 0), (1, -2)])
def test_durations_must_be_positive(ttl_s: float, interval_s: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        make_schedule(ttl_s, interval_s)


@pytest.mark.parametrize(
    ("ttl_s", "interval_s", "period_s"), [(14_400, 25, 25), (60, 30, 20), (90, 30, 30)]
)
def test_beats_at_the_interval_or_a_third_of_the_ttl(
    ttl_s: float, interval_s: float, period_s: float
) -> None:
    schedule = make_schedule(ttl_s, interval_s)

    assert schedule.due_s(START) == period_s
    assert not schedule.wants_beat(START + period_s - 0.1)
    assert schedule.wants_beat(START + period_s)


def test_the_backend_chooses_the_next_beat() -> None:
    schedule = make_schedule()

    schedule.answered(Beat(alive=True, next_s=7.0), START + 25)

    assert schedule.due_s(START + 25) == 7.0


def test_the_backend_cannot_stretch_it_over_a_third_of_the_ttl() -> None:
    schedule = make_schedule(ttl_s=60)

    schedule.answered(Beat(alive=True, next_s=3600.0), START + 5)

    assert schedule.due_s(START + 5) == 20.0


def test_a_failed_beat_is_transient_and_retried_sooner_each_time_less_so() -> None:
    schedule = make_schedule()
    now, waits = START + 25, []

    for _ in range(7):
        assert schedule.failed("connection refused", now) == []
        waits.append(schedule.due_s(now))
        now += waits[-1]

    assert waits == [1, 2, 4, 8, 16, 25, 25]
    assert schedule.answered(ALIVE, now) == []
    assert schedule.due_s(now) == 25
    assert schedule.failed("again", now) == []
    assert schedule.due_s(now) == 1


def test_lost_when_the_backend_says_so_and_told_once() -> None:
    schedule = make_schedule()

    notices = schedule.answered(Beat(alive=False, reason="closed by the owner"), START + 25)

    assert notices == [Notice(NoticeKind.LOST, "closed by the owner")]
    assert schedule.over
    assert schedule.answered(Beat(alive=False), START + 50) == []
    assert schedule.passed(START + 99_999) == []


def test_lost_when_the_backend_is_silent_for_the_whole_ttl() -> None:
    schedule = HeartbeatSchedule(ttl_s=90, expires_at=START + 9_000, interval_s=30, now=START)

    assert schedule.failed("refused", START + 89) == []
    (notice,) = schedule.failed("refused", START + 90)

    assert notice == Notice(NoticeKind.LOST, "the backend has not answered for 90 s: refused")


def test_the_end_is_announced_ten_minutes_ahead_and_once() -> None:
    schedule = make_schedule()

    assert schedule.passed(START + 14_400 - 601) == []
    assert schedule.passed(START + 14_400 - 600) == [
        Notice(NoticeKind.EXPIRING, "it ends in 600 s")
    ]
    assert schedule.passed(START + 14_400 - 599) == []
    assert kinds(schedule.passed(START + 14_400)) == [NoticeKind.EXPIRED]
    assert schedule.over


def test_a_short_lease_is_announced_at_its_half() -> None:
    schedule = make_schedule(ttl_s=60)

    assert schedule.passed(START + 29) == []
    assert kinds(schedule.passed(START + 30)) == [NoticeKind.EXPIRING]


def test_it_wakes_up_in_time_for_the_announcement_and_the_end() -> None:
    schedule = make_schedule(ttl_s=1_300, interval_s=430)
    schedule.answered(ALIVE, START + 430)

    assert schedule.due_s(START + 430) == 270
    schedule.passed(START + 700)
    schedule.answered(ALIVE, START + 1_000)
    assert schedule.due_s(START + 1_000) == 300


def test_a_later_end_from_the_backend_counts() -> None:
    schedule = make_schedule(ttl_s=60)

    schedule.answered(Beat(alive=True, expires_at=START + 500), START + 20)

    assert schedule.passed(START + 60) == []


def test_an_agent_that_reconnects_is_not_worth_a_word() -> None:
    schedule = make_schedule()
    cut_off = Beat(alive=True, attached=False)

    assert schedule.answered(cut_off, START + 25) == []
    assert schedule.answered(cut_off, START + 84) == []
    assert schedule.answered(ALIVE, START + 86) == []
    assert schedule.answered(cut_off, START + 100) == []


def test_an_agent_that_stays_away_is_told_once_an_outage() -> None:
    schedule = make_schedule()
    cut_off = Beat(alive=True, attached=False, reason="connection refused")

    assert schedule.answered(cut_off, START) == []
    (notice,) = schedule.answered(cut_off, START + 60)
    assert notice.kind is NoticeKind.OFFLINE
    assert "60 s: connection refused" in notice.message
    assert schedule.answered(cut_off, START + 90) == []
    assert not schedule.over

    schedule.answered(ALIVE, START + 100)
    schedule.answered(cut_off, START + 110)
    assert kinds(schedule.answered(cut_off, START + 170)) == [NoticeKind.OFFLINE]


def test_hours_of_sleep_are_no_outage_of_the_agent() -> None:
    schedule = make_schedule()
    schedule.answered(ALIVE, START + 25)

    assert schedule.answered(Beat(alive=True, attached=False), START + 10_000) == []


def test_a_clock_set_back_delays_no_beat() -> None:
    schedule = make_schedule()

    assert schedule.due_s(START - 5_000) == 25
    assert schedule.wants_beat(START - 5_000)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(BEATS)), st.floats(0, 5_000))),
    st.floats(1, 20_000),
    st.floats(0.1, 100),
)
def test_whatever_happens_the_end_comes_once_and_waits_are_bounded(
    steps: list[tuple[str, float]], ttl_s: float, interval_s: float
) -> None:
    schedule = make_schedule(ttl_s, interval_s)
    now, told = START, []

    for what, passed_s in steps:
        now += passed_s
        told += schedule.passed(now)
        if not schedule.over:
            beat = BEATS[what]
            told += schedule.answered(beat, now) if beat else schedule.failed("no", now)
            assert 0 <= schedule.due_s(now) <= ttl_s / 3

    ends = [kind for kind in kinds(told) if kind in (NoticeKind.LOST, NoticeKind.EXPIRED)]
    assert len(ends) == schedule.over
    assert kinds(told).count(NoticeKind.EXPIRING) <= 1


class Script:
    """A clock that moves when somebody waits, and a backend that answers from a list."""

    def __init__(self, answers: list[Beat | Exception], stop_after: int = 100) -> None:
        self.now = START
        self.answers = answers
        self.beats_at: list[float] = []
        self.told: list[Notice] = []
        self.waits_left = stop_after

    def time(self) -> float:
        return self.now

    def wait(self, timeout_s: float) -> bool:
        self.now += timeout_s
        self.waits_left -= 1
        return self.waits_left < 0

    def beat(self) -> Beat:
        self.beats_at.append(self.now - START)
        answer = self.answers.pop(0) if self.answers else ALIVE
        if isinstance(answer, Exception):
            raise answer
        return answer

    def heartbeat(
        self, schedule: HeartbeatSchedule, wait: Callable[[float], bool] | None = None
    ) -> Heartbeat:
        return Heartbeat(
            "lease_1",
            schedule=schedule,
            beat=self.beat,
            on_notice=self.told.append,
            now=self.time,
            wait=wait or self.wait,
        )


def test_the_thread_beats_retries_and_tells_the_loss() -> None:
    script = Script([ALIVE, ConnectionError("refused"), ALIVE, Beat(alive=False, reason="gone")])

    script.heartbeat(make_schedule()).run()

    assert script.beats_at == [25, 50, 51, 76]
    assert script.told == [Notice(NoticeKind.LOST, "gone")]


def test_the_thread_lives_to_the_end_of_the_lease() -> None:
    script = Script([])

    script.heartbeat(make_schedule(ttl_s=60)).run()

    assert script.beats_at == [20, 40]
    assert kinds(script.told) == [NoticeKind.EXPIRING, NoticeKind.EXPIRED]


def test_a_stopped_thread_tells_nothing_more() -> None:
    script = Script([])
    beating, answered = threading.Event(), threading.Event()

    def beat() -> Beat:
        beating.set()
        assert answered.wait(10)
        return Beat(alive=False)

    heartbeat = script.heartbeat(make_schedule(), wait=lambda _: False)
    script.now += 25
    heartbeat._beat = beat
    heartbeat.start()
    assert beating.wait(10)
    heartbeat.stop()
    answered.set()
    heartbeat.join(10)

    assert not heartbeat.is_alive()
    assert script.told == []


def test_stop_ends_the_wait_at_once() -> None:
    heartbeat = Heartbeat(
        "lease_1",
        schedule=make_schedule(),
        beat=lambda: ALIVE,
        on_notice=lambda _: None,
        now=lambda: START,
    )
    heartbeat.start()

    heartbeat.stop()
    heartbeat.join(10)

    assert not heartbeat.is_alive()
