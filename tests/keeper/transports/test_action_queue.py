import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.transports.action_queue import CHECK_URL, ActionQueue


class Work:
    """Actions that end when the test lets them."""

    def __init__(self, timeout_s: float = 10) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.gate = asyncio.Event()
        self.queue = ActionQueue(timeout_s, self.done.append)

    def put(self, action: str, error: Exception | None = None) -> None:
        async def work() -> None:
            self.begun.append(action)
            await self.gate.wait()
            if error is not None:
                raise error

        self.queue.put(action, work)

    async def finish(self) -> None:
        self.gate.set()
        assert self.queue.task is not None
        await asyncio.wait([self.queue.task])


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def test_one_at_a_time_in_order_and_each_once() -> None:
    async def main() -> None:
        work = Work()
        for action in ("a", "b", "a", "b", "c"):
            work.put(action)
        await asyncio.sleep(0)
        assert work.begun == ["a"]
        assert work.queue.doing == "a"
        work.put("a")  # as a backend does until it sees the action done

        await work.finish()

        assert work.begun == work.done == ["a", "b", "c"]
        assert work.queue.doing == ""

    run(main)


def test_it_begins_again_when_it_was_empty() -> None:
    async def main() -> None:
        work = Work()
        work.put("a")
        await work.finish()
        work.put("a")
        await work.finish()

        assert work.done == ["a", "a"]

    run(main)


def test_failures_are_kept_until_something_succeeds() -> None:
    async def main() -> None:
        work = Work()
        work.gate.set()
        for error, expected in [
            (KeeperRequestError("CODE", "no edge", "Look"), "a failed: no edge"),
            (KeyError("x"), "a failed: KeyError: 'x'"),
            (None, ""),
        ]:
            work.put("a", error)
            await work.finish()
            assert work.queue.last_error == expected
        assert work.done == ["a"]

    run(main)


def test_a_look_at_the_url_that_fails_names_no_action() -> None:
    async def main() -> None:
        work = Work()
        work.put(CHECK_URL, KeeperRequestError("CODE", "no edge"))
        await work.finish()
        assert work.queue.last_error == "no edge"

    run(main)


def test_an_action_that_hangs_is_broken_off() -> None:
    async def main() -> None:
        work = Work(timeout_s=0.01)
        work.put("a")
        assert work.queue.task is not None
        await asyncio.wait([work.queue.task])

        assert work.queue.last_error == "a failed: it took over 0.01 s"

    run(main)


def test_after_the_end_nothing_is_done() -> None:
    async def main() -> None:
        work = Work()
        broken_off: Awaitable[None] | None
        work.put("a")
        work.put("b")
        await asyncio.sleep(0)
        broken_off = work.queue.task
        work.queue.end()
        work.put("c")
        assert broken_off is not None
        await asyncio.wait([asyncio.ensure_future(broken_off)])

        assert work.begun == ["a"]
        assert work.done == []
        assert work.queue.doing == ""

    run(main)
