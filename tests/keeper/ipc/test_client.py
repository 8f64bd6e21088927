"""A process's hold on its keeper, with a keeper that answers what the test says."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.ipc.client import KeeperClient
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.holders import Holder
from pytest_synth_tunnels.keeper.ipc.messages import (
    Done,
    Event,
    Finish,
    LeaseEvents,
    Message,
    Port,
    Report,
    ReservePort,
    Status,
    StatusInfo,
    TakeLeaseEvents,
    WaitReady,
)
from pytest_synth_tunnels.keeper.ipc.question_pool import _MAX_IDLE, MAX_CONNECTIONS

from ...support.keeper_server import KeeperServer, run_in, serving_keeper

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")

EVENT = Event(kind="offline", lease_id="lease_1", shared=True, message="cut off")
REPORT = Report(
    created=1, released=1, events=[], unreleased=[], public=[], traffic=[], lease_events=[]
)


class Answers:
    """What the keeper answers. A wait lasts until it is released."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.waiting = threading.Semaphore(0)
        """Counts the waits that have begun."""

    async def __call__(self, holder: Holder, message: Message) -> Message:
        if isinstance(message, Status):
            return StatusInfo(state=message.lease_id, answer={})
        if isinstance(message, WaitReady):
            self.waiting.release()
            await self.release.wait()
            return Done()
        if isinstance(message, ReservePort):
            raise KeeperRequestError("NO_PORT", "there is no port", "Close one")
        if isinstance(message, TakeLeaseEvents):
            return LeaseEvents(lease_events=[{"kind": "created"}])
        if isinstance(message, Finish):
            return REPORT
        raise ValueError(f"{type(message).__name__} is no request")


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def start(tmp_path: Path, answers: Answers) -> Iterator[Callable[..., Any]]:
    """Start a keeper and return it with a client; settings are those of the run."""
    with ExitStack() as stack:

        def start(**settings: Any) -> tuple[KeeperServer, KeeperClient]:
            run = run_in(tmp_path / "u" / "r", **settings)
            keeper = stack.enter_context(serving_keeper(run, answers))
            client = KeeperClient(run)
            stack.callback(client.close)
            return keeper, client

        yield start


def status(client: KeeperClient, number: int) -> bool:
    """Ask, and say whether the answer is the one to this question."""
    return client.ask(Status(lease_id=str(number)), StatusInfo).state == str(number)


def wait(client: KeeperClient, timeout_s: float = 20.0) -> Done:
    return client.ask(WaitReady(lease_id="lease_1", timeout_s=timeout_s), Done, timeout_s)


def test_each_thread_gets_the_answer_to_its_own_question(start: Callable[..., Any]) -> None:
    _, client = start()

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda number: status(client, number), range(1000)))


def test_as_many_threads_as_may_be_idle_open_a_connection_each(start: Callable[..., Any]) -> None:
    keeper, client = start()

    # Of more threads some connections are closed when they come back, and opened again later.
    with ThreadPoolExecutor(_MAX_IDLE) as threads:
        assert all(threads.map(lambda number: status(client, number), range(1000)))

    assert keeper.opened <= 1 + _MAX_IDLE, "one that holds, and one for each thread"


def test_questions_one_after_the_other_share_a_connection(start: Callable[..., Any]) -> None:
    keeper, client = start()

    assert all(status(client, number) for number in range(20))

    assert keeper.opened == 2


def test_a_slow_question_holds_up_no_other(start: Callable[..., Any], answers: Answers) -> None:
    keeper, client = start()
    with ThreadPoolExecutor(8) as threads:
        slow = [threads.submit(wait, client) for _ in range(8)]
        for _ in slow:
            assert answers.waiting.acquire(timeout=20)

        assert all(status(client, number) for number in range(20))
        assert not any(one.done() for one in slow)
        keeper.call(answers.release.set)
        assert all(one.result(20) == Done() for one in slow)


def test_questions_beyond_the_bound_wait_for_a_connection(
    start: Callable[..., Any], answers: Answers
) -> None:
    keeper, client = start()
    count = MAX_CONNECTIONS + 20
    with ThreadPoolExecutor(count) as threads:
        slow = [threads.submit(wait, client) for _ in range(count)]
        for _ in range(MAX_CONNECTIONS):
            assert answers.waiting.acquire(timeout=20)
        with pytest.raises(KeeperError, match="no more may wait at the same time") as caught:
            client.ask(Status(lease_id="1"), StatusInfo, 0.01)
        assert caught.value.code == "KEEPER_TIMEOUT"
        keeper.call(answers.release.set)
        assert all(one.result(20) == Done() for one in slow)

    assert keeper.most_at_once == MAX_CONNECTIONS
    assert status(client, 1)


def test_a_refusal_condemns_nothing(start: Callable[..., Any]) -> None:
    keeper, client = start()

    with pytest.raises(KeeperError, match=r"^there is no port\. Close one$") as caught:
        client.ask(ReservePort(), Port)

    assert caught.value.code == "NO_PORT"
    assert status(client, 1)
    assert keeper.opened == 2, "the connection is as good as before"


def test_an_answer_that_comes_too_late_is_nobody_s(
    start: Callable[..., Any], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.keeper.ipc.connection.SLACK_S", 0.0)
    keeper, client = start()

    with pytest.raises(KeeperError, match=r"did not answer WaitReady within 0.05 s") as caught:
        wait(client, 0.05)
    assert caught.value.code == "KEEPER_TIMEOUT"
    keeper.call(answers.release.set)

    assert all(status(client, number) for number in range(20))
    client.check()


def test_a_wait_that_an_exception_cuts_short_leaves_its_answer_to_nobody(
    start: Callable[..., Any], answers: Answers
) -> None:
    import signal

    class CutShortError(Exception):
        pass

    def cut_short(*_: object) -> None:
        raise CutShortError

    keeper, client = start()
    before = signal.signal(signal.SIGUSR1, cut_short)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert answers.waiting.acquire(timeout=20)
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(CutShortError):
            wait(client)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    keeper.call(answers.release.set)

    assert all(status(client, number) for number in range(20))


def test_a_question_whose_connection_breaks_fails_alone(
    start: Callable[..., Any], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.keeper.ipc.client._DEATH_TIMEOUT_S", 0.05)
    keeper, client = start()
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(wait, client)
        assert answers.waiting.acquire(timeout=20)
        keeper.cut(holding=False)
        with pytest.raises(KeeperError, match="broke off this request") as caught:
            slow.result(20)

    assert caught.value.code == "KEEPER_UNAVAILABLE"
    assert status(client, 1)


def test_the_keeper_s_death_is_told_to_all_and_kept(
    start: Callable[..., Any], answers: Answers
) -> None:
    keeper, client = start()
    Path(client.run.directory.log).write_text("a\nlast words\n")
    with ThreadPoolExecutor(4) as threads:
        slow = [threads.submit(wait, client) for _ in range(4)]
        for _ in slow:
            assert answers.waiting.acquire(timeout=20)
        keeper.stop()
        for one in slow:
            with pytest.raises(KeeperError, match=r"is gone: it ended (.|\n)*last words") as caught:
                one.result(20)
            assert caught.value.code == "KEEPER_DIED"
    Path(client.run.directory.log).unlink()

    for ask in (client.check, lambda: status(client, 1), client.connect):
        with pytest.raises(KeeperError, match="last words"):
            ask()


def test_a_check_notices_that_the_keeper_died(start: Callable[..., Any]) -> None:
    keeper, client = start()
    assert client.check() == []
    assert status(client, 1)
    assert client.check() == []
    keeper.stop()

    with pytest.raises(KeeperError, match="is gone"):
        client.check()


def test_a_keeper_that_is_gone_before_the_first_question(tmp_path: Path) -> None:
    run = run_in(tmp_path / "u" / "r")
    with serving_keeper(run, Answers()):
        pass
    client = KeeperClient(run)

    for _ in range(2):
        with pytest.raises(KeeperError, match="it does not listen any more") as caught:
            status(client, 1)
        assert caught.value.code == "KEEPER_DIED"


def test_a_keeper_that_never_started_is_waited_for_once(tmp_path: Path) -> None:
    run = run_in(tmp_path / "u" / "r", start_timeout_s=0.05)
    (tmp_path / "u" / "r" / "failed").mkdir()
    (tmp_path / "u" / "r" / "keeper.log").write_text("no memory")
    client = KeeperClient(run)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(status, client, number) for number in range(4)]
        for one in asked:
            with pytest.raises(KeeperError, match="no memory") as caught:
                one.result(20)
            assert caught.value.code == "KEEPER_NOT_STARTED"
    (tmp_path / "u" / "r" / "keeper.log").write_text("something else")

    with pytest.raises(KeeperError, match="no memory"):
        status(client, 1)


def test_events_come_to_who_checks_and_to_nobody_else(start: Callable[..., Any]) -> None:
    keeper, client = start()
    assert status(client, 1)
    keeper.tell(EVENT)
    keeper.tell(EVENT)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda number: status(client, number), range(100)))

    deadline = time.monotonic() + 20
    events: list[Event] = []
    while len(events) < 2 and time.monotonic() < deadline:
        events += client.check()
    assert events == [EVENT, EVENT]
    assert client.check() == []


def test_events_are_not_lost_when_a_question_breaks(
    start: Callable[..., Any], answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.keeper.ipc.client._DEATH_TIMEOUT_S", 0.05)
    keeper, client = start()
    assert status(client, 1)
    keeper.tell(EVENT)

    client.explain(ConnectionResetError("cut"))
    client.explain(ConnectionResetError("cut"))

    assert client.check() == [EVENT]


def test_only_a_process_that_holds_asks_for_lease_events(start: Callable[..., Any]) -> None:
    _, client = start()
    assert client.take_lease_events() == []

    assert status(client, 1)

    assert client.take_lease_events() == [{"kind": "created"}]


def test_finishing_ends_the_waits_of_other_threads(
    start: Callable[..., Any], answers: Answers
) -> None:
    # This keeper does not end after its report, so that a wait for its end would show.
    _, client = start()
    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(wait, client) for _ in range(2)]
        for _ in slow:
            assert answers.waiting.acquire(timeout=20)

        assert client.finish(20.0) == REPORT

        for one in slow:
            with pytest.raises(KeeperError):
                one.result(20)


def test_a_run_that_needed_no_keeper_has_nothing_to_finish(tmp_path: Path) -> None:
    run = run_in(tmp_path / "u" / "r")
    (tmp_path / "u" / "r" / "claim").rmdir()

    assert KeeperClient(run).finish(1.0) is None


def test_a_forked_child_asks_by_connections_of_its_own(
    start: Callable[..., Any], answers: Answers
) -> None:
    keeper, client = start()
    assert status(client, 1)
    answer = _in_a_child(lambda: all(status(client, number) for number in range(50)))

    assert answer
    assert keeper.opened == 4
    assert all(status(client, number) for number in range(50)), "the parent's are as before"
    assert keeper.opened == 4


def test_a_child_that_is_forked_while_locks_are_held_can_ask(
    start: Callable[..., Any],
) -> None:
    _, client = start()
    assert status(client, 1)
    connections = client._by_pid[os.getpid()]

    with connections.lock, connections.questions._lock, connections.questions._opening:
        answer = _in_a_child(lambda: status(client, 1))

    assert answer


def _in_a_child(work: Callable[[], bool]) -> bool:
    import warnings

    with warnings.catch_warnings():
        # Python warns of the keeper's thread, which the child does not use.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 3)
        finally:
            os._exit(4)
    return os.waitpid(pid, 0)[1] == 0


def test_a_refused_request_is_shown_where_it_was_made(start: Callable[..., Any]) -> None:
    _, client = start()

    with pytest.raises(KeeperError) as refused:
        client.ask(ReservePort(), Port)

    shown = refused.traceback.filter(refused)
    assert [str(entry.path) for entry in shown] == [__file__]
