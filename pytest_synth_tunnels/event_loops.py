"""Whether the caller runs in an event loop, which a blocking call would stop."""

import sys

__all__ = ["refuse_event_loop"]


def refuse_event_loop(async_name: str) -> None:
    """Refuse to block a running event loop.

    Raises:
        RuntimeError: there is one.
    """
    __tracebackhide__ = True
    if _in_asyncio_task() or _in_trio_task():
        raise RuntimeError(
            "this would block the running event loop, and with it whatever it serves: use "
            f"{async_name} here"
        )


def _in_asyncio_task() -> bool:
    # A loop may be running without a task, as that of Playwright's synchronous API, which a test
    # may block. What is not imported is not running, and a test may have replaced the module.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def _in_trio_task() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())
