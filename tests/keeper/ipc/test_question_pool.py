"""The connections that the threads of a process share, with connections that the test makes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.question_pool import MAX_CONNECTIONS, QuestionPool


class FakeConnection:
    def __init__(self) -> None:
        self.is_free = True
        self.is_closed = False
        self.is_shut_down = False

    def close(self) -> None:
        self.is_closed = True

    def shut_down(self) -> None:
        self.is_shut_down = True


class Opened(list[FakeConnection]):
    """The connections that were opened, and how many threads opened one at the same time."""

    def __init__(self) -> None:
        self.most_at_once = 0
        self._at_once = 0

    def __call__(self) -> Any:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.append(FakeConnection())
        self._at_once -= 1
        return self[-1]


@pytest.fixture
def opened() -> Opened:
    return Opened()


@pytest.fixture
def pool(opened: Opened) -> QuestionPool:
    return QuestionPool(opened)


def test_a_connection_is_used_again(pool: QuestionPool, opened: Opened) -> None:
    for _ in range(3):
        with pool.connection(1.0) as connection:
            assert connection is opened[0]

    assert not opened[0].is_closed


def test_no_two_users_share_one(pool: QuestionPool, opened: Opened) -> None:
    with pool.connection(1.0) as one, pool.connection(1.0) as other:
        assert one is not other

    assert len(opened) == 2


def test_one_whose_answer_is_still_to_come_is_closed(pool: QuestionPool, opened: Opened) -> None:
    with pool.connection(1.0) as connection:
        connection.is_free = False

    assert opened[0].is_closed
    with pool.connection(1.0) as connection:
        assert connection is opened[1]


def test_an_error_gives_the_connection_back(pool: QuestionPool, opened: Opened) -> None:
    for _ in range(MAX_CONNECTIONS + 1):
        with pytest.raises(ZeroDivisionError), pool.connection(1.0):
            raise ZeroDivisionError

    assert len(opened) == 1


def test_a_connection_that_cannot_be_opened_takes_no_slot(opened: Opened) -> None:
    def fail() -> Any:
        raise KeeperError("no keeper")

    pool = QuestionPool(fail)

    for _ in range(MAX_CONNECTIONS + 1):
        with pytest.raises(KeeperError, match="no keeper"), pool.connection(0.01):
            pass


def test_few_idle_ones_are_kept(pool: QuestionPool, opened: Opened) -> None:
    barrier = threading.Barrier(20)

    def use(_: int) -> None:
        with pool.connection(10.0):
            barrier.wait(10)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(use, range(20)))

    assert len(opened) == 20
    assert opened.most_at_once == 1
    assert sum(not connection.is_closed for connection in opened) == 8


def test_users_beyond_the_bound_take_turns(pool: QuestionPool, opened: Opened) -> None:
    def use(_: int) -> None:
        with pool.connection(30.0):
            pass

    with ThreadPoolExecutor(MAX_CONNECTIONS * 2) as threads:
        list(threads.map(use, range(1000)))

    assert len(opened) <= MAX_CONNECTIONS
    assert pool._slots == MAX_CONNECTIONS


def test_closing_ends_all_and_lends_none_any_more(pool: QuestionPool, opened: Opened) -> None:
    with pool.connection(1.0), pool.connection(1.0):
        pass
    with pool.connection(1.0) as used:
        pool.close()
        assert used.is_shut_down  # type: ignore[attr-defined]
        with pytest.raises(KeeperError, match="the run is over") as caught, pool.connection(1.0):
            pass

    assert caught.value.code == "KEEPER_FINISHING"
    assert all(connection.is_closed for connection in opened)
