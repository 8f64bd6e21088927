"""The bounded log: what it holds, what it drops, who is told, and what comes late."""

from dataclasses import dataclass, field

import pytest

from pytest_synth_tunnels.traffic import log as log_module
from pytest_synth_tunnels.traffic.log import TrafficLog
from pytest_synth_tunnels.traffic.place import EVERYWHERE, NOWHERE, Place

A = Place("lease", "a")
B = Place("lease", "b")


@dataclass(eq=False)
class Entry:
    """A request, as far as the log is concerned."""

    place: Place = A
    arrived_s: float = 0.0
    size_bytes: int = 100
    sequence: int = field(default=0, init=False)
    dropped: bool = field(default=False, init=False)


def filled(log: TrafficLog, number: int, *, place: Place = A) -> list[Entry]:
    entries = [Entry(place, arrived_s=float(i)) for i in range(number)]
    for entry in entries:
        log.add(entry)
    return entries


class TestRing:
    def test_numbers_in_the_order_of_arrival(self) -> None:
        log = TrafficLog()
        assert [entry.sequence for entry in filled(log, 3)] == [1, 2, 3]
        assert len(log) == 3
        assert log.size_bytes == 300

    def test_the_last_number(self) -> None:
        log = TrafficLog(max_requests=2)
        assert log.last_sequence == 0
        filled(log, 3)
        assert log.last_sequence == 3

    def test_too_many_requests(self) -> None:
        log = TrafficLog(max_requests=3)
        entries = filled(log, 5)
        assert list(log) == entries[2:]
        assert [entry.dropped for entry in entries] == [True, True, False, False, False]
        assert log.dropped == 2
        assert log.size_bytes == 300

    def test_too_many_bytes(self) -> None:
        log = TrafficLog(max_bytes=250)
        entries = filled(log, 3)
        assert list(log) == entries[1:]

    def test_one_that_grows_drops_older_ones(self) -> None:
        log = TrafficLog(max_bytes=350)
        entries = filled(log, 3)
        log.resize(entries[2], 200)
        assert list(log) == entries[1:]
        assert log.size_bytes == 300

    def test_the_latest_is_never_dropped(self) -> None:
        log = TrafficLog(max_bytes=50)
        entries = filled(log, 2)
        assert list(log) == entries[1:]
        log.resize(entries[1], 1000)
        assert list(log) == entries[1:]

    def test_one_that_was_dropped_grows_without_effect(self) -> None:
        log = TrafficLog(max_requests=1)
        entries = filled(log, 2)
        log.resize(entries[0], 10_000)
        assert log.size_bytes == 100

    def test_find(self) -> None:
        log = TrafficLog(max_requests=2)
        entries = filled(log, 3)
        assert log.find(1) is None
        assert log.find(2) is entries[1]
        assert log.find(3) is entries[2]
        assert log.find(4) is None
        assert TrafficLog().find(1) is None


class TestWatch:
    def test_what_is_there_and_what_comes(self) -> None:
        log = TrafficLog()
        before = filled(log, 2)
        filled(log, 1, place=B)
        told: list[object] = []
        watch, there = log.watch({A: 0.0}, told.append)
        assert there == before
        after = filled(log, 1)
        filled(log, 1, place=B)
        log.changed(before[0])
        assert told == [*after, before[0]]
        watch.close()
        watch.close()
        filled(log, 1)
        assert len(told) == 2
        assert not log.watched

    def test_from_a_time_on(self) -> None:
        log = TrafficLog()
        entries = filled(log, 3)
        told: list[object] = []
        _, there = log.watch({A: 1.0, NOWHERE: 2.0}, told.append)
        assert there == entries[1:]
        log.changed(entries[0])
        assert told == []
        log.add(Entry(NOWHERE, arrived_s=2.5))
        assert len(told) == 1

    def test_everywhere(self) -> None:
        log = TrafficLog()
        before = filled(log, 1) + filled(log, 1, place=B)
        told: list[object] = []
        watch, there = log.watch({EVERYWHERE: 0.0}, told.append)
        assert there == before
        after = filled(log, 1, place=Place("another", "c")) + filled(log, 1, place=NOWHERE)
        log.changed(before[0])
        assert told == [*after, before[0]]
        watch.close()
        filled(log, 1)
        assert len(told) == 3
        assert not log.watched

    def test_two_watches_of_one_place(self) -> None:
        log = TrafficLog()
        told: list[str] = []
        first, _ = log.watch({A: 0.0}, lambda _: told.append("first"))
        _, _ = log.watch({A: 0.0}, lambda _: told.append("second"))
        filled(log, 1)
        assert sorted(told) == ["first", "second"]
        first.close()
        filled(log, 1)
        assert told[2:] == ["second"]

    def test_a_watch_that_closes_while_it_is_told(self) -> None:
        log = TrafficLog()
        told: list[object] = []

        def once(request: object) -> None:
            told.append(request)
            watch.close()

        watch, _ = log.watch({A: 0.0}, once)
        filled(log, 2)
        assert len(told) == 1


class TestLate:
    def test_what_comes_after_its_test(self) -> None:
        log = TrafficLog()
        log.begin_test(A, "test_a")
        log.begin_test(B, "test_b")
        filled(log, 1)
        log.end_test(A, 10.0)
        log.end_test(A, 11.0)
        late = Entry(A, arrived_s=12.5)
        log.add(late)
        filled(log, 1, place=B)
        assert log.late == [("test_a", 2.5, late)]
        assert log.late_number == 1

    def test_a_place_that_is_no_tests(self) -> None:
        log = TrafficLog()
        log.end_test(A, 1.0)
        filled(log, 1)
        assert log.late == []

    def test_a_place_that_is_used_again(self) -> None:
        log = TrafficLog()
        log.begin_test(A, "test_a")
        log.end_test(A, 1.0)
        log.begin_test(A, "test_b")
        filled(log, 1)
        assert log.late == []

    def test_the_oldest_tests_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_module, "_MAX_TESTS", 2)
        log = TrafficLog()
        places = [Place("lease", f"t{number}") for number in range(3)]
        for place in places:
            log.begin_test(place, place.address)
            log.end_test(place, 0.0)
        for place in places:
            log.add(Entry(place, arrived_s=1.0))
        assert [late.test for late in log.late] == ["t1", "t2"]
        assert log.locate("lease", "/~t0/x") == (NOWHERE, "/~t0/x")

    def test_it_is_bounded(self) -> None:
        log = TrafficLog()
        log.begin_test(A, "test_a")
        log.end_test(A, 0.0)
        filled(log, 150)
        assert len(log.late) == 100
        assert log.late_number == 150
