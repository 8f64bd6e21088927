"""The queue that gives xdist's controller time."""

from queue import Empty, Queue
from typing import Any

import pytest

from pytest_synth_tunnels.idle_queue import IdleQueue


class SlowQueue:
    """A queue that is empty some times before it hands out an item; no time passes."""

    def __init__(self, *empty_times: int) -> None:
        self._empty_times = list(empty_times)
        self.waits: list[float | None] = []

    def get(self, block: bool, timeout: float | None) -> str:
        self.waits.append(timeout)
        if not self._empty_times or self._empty_times[0] > 0:
            if self._empty_times:
                self._empty_times[0] -= 1
            raise Empty
        self._empty_times.pop(0)
        return "item"


@pytest.fixture
def calls() -> list[str]:
    return []


def idle(queue: Any, calls: list[str]) -> IdleQueue:
    return IdleQueue(queue, lambda: calls.append("tick"), lambda: calls.append("item"))


def test_its_reader_gets_time_twice_a_second(calls: list[str]) -> None:
    slow = SlowQueue(3, 0)
    queue = idle(slow, calls)

    assert queue.get(timeout=2.0) == "item"
    assert queue.get() == "item"
    assert calls == ["tick", "tick", "tick", "item", "item"]
    assert slow.waits == [0.5] * 5


def test_a_wait_has_its_end(calls: list[str]) -> None:
    slow = SlowQueue()

    with pytest.raises(Empty):
        idle(slow, calls).get(timeout=1.25)

    assert slow.waits == [0.5, 0.5, 0.25]
    assert calls == ["tick"] * 3


def test_without_waiting_it_says_at_once_that_there_is_nothing(calls: list[str]) -> None:
    queue: Queue[str] = Queue()

    with pytest.raises(Empty):
        idle(queue, calls).get(block=False)


def test_it_is_the_queue_otherwise(calls: list[str]) -> None:
    queue: Queue[str] = Queue()
    put = queue.put
    waited_for = idle(queue, calls)

    put("first")
    waited_for.put("second")
    assert waited_for.qsize() == 2
    assert [waited_for.get(), waited_for.get()] == ["first", "second"]
