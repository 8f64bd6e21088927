import asyncio
import gc
import logging
import threading
import weakref

import pytest

from pytest_synth_tunnels.aio.tasks import in_thread, spawn


def test_a_task_that_nobody_keeps_is_not_collected() -> None:
    async def main() -> None:
        futures: list[weakref.ref[asyncio.Future[None]]] = []
        finished = asyncio.Event()

        async def work() -> None:
            # Nothing but the task refers to what it waits for, and nothing but that to the task.
            future = asyncio.get_running_loop().create_future()
            futures.append(weakref.ref(future))
            await future
            finished.set()

        spawn(work())
        await asyncio.sleep(0)
        gc.collect()
        future = futures[0]()
        assert future is not None
        future.set_result(None)
        await asyncio.wait_for(finished.wait(), 20)

    asyncio.run(main())


def test_a_failure_that_nobody_awaits_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        task = spawn(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(main())
    assert caplog.records == []


def test_a_failure_is_raised_where_the_task_is_awaited() -> None:
    async def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        await spawn(fail())

    with pytest.raises(ValueError, match="no"):
        asyncio.run(main())


def test_a_function_runs_in_a_daemon_thread() -> None:
    def who() -> tuple[bool, bool]:
        current = threading.current_thread()
        return current.daemon, current is threading.main_thread()

    async def main() -> tuple[bool, bool]:
        return await in_thread(who)

    assert asyncio.run(main()) == (True, False)


def test_what_a_function_raises_is_raised_to_its_caller() -> None:
    async def main() -> None:
        await in_thread(lambda: int("x"))

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(main())


def test_a_function_runs_on_when_its_caller_and_the_loop_are_gone() -> None:
    entered, go_on, done = threading.Event(), threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        entered.set()
        go_on.wait(20)
        done.set()

    async def main() -> None:
        task = asyncio.ensure_future(in_thread(work))
        assert await asyncio.to_thread(entered.wait, 20)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert not done.is_set()
    go_on.set()
    assert done.wait(20)
    threads[0].join(20)
    assert not threads[0].is_alive()
