"""Tasks that the event loop does not forget, and threads that the interpreter does not wait for."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["in_thread", "spawn"]

_T = TypeVar("_T")

_tasks: set[asyncio.Task[Any]] = set()
"""The event loop itself holds a task only weakly."""


def spawn(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Run a coroutine as a task; its exception is not logged if nobody awaits the task."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def in_thread(function: Callable[[], _T]) -> _T:
    """Run a function in a daemon thread of its own and return what it returns.

    ``asyncio.to_thread`` would do, but the interpreter waits for its threads at the end, and a
    backend that hangs must not keep the keeper alive. If the caller is cancelled, the function
    runs on and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failed = None, None
        try:
            result = function()
        except Exception as error:  # it is raised where the result is awaited
            failed = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, name=f"call {function}", daemon=True).start()
    return await future
