"""What a process that carries traffic sets up: event loop, read buffers, limit of open files."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from .shortage import ShortageLog

__all__ = ["allow_many_files", "open_files_allowed", "run"]

_LARGER_THAN_ANY_READ_BYTES: Final = 2 << 20
_OPEN_FILES: Final = 8192


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a process's main coroutine, on uvloop's event loop where that is installed.

    Args:
        main: all that the process does.
    """
    _keep_read_buffers()
    allow_many_files()
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        runner.get_loop().set_exception_handler(ShortageLog())
        runner.run(main)


def allow_many_files() -> None:
    """Raise the process's own limit as far as the system lets it, and as far as it is needed.

    A request in flight has a caller's connection and one to the app. Many systems begin with 1024
    files, or 256, which is less than the 1024 requests that one lease may have.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        return
    with suppress(OSError, ValueError):  # a system that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def open_files_allowed() -> int:
    """Return how many files this process may have open, at most as many as it has a use for."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return _OPEN_FILES
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OPEN_FILES if limit == resource.RLIM_INFINITY else min(_OPEN_FILES, limit)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loop, or nothing where asyncio's own has to do."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def _keep_read_buffers() -> None:
    """Let the memory of one read serve the next.

    asyncio reads into a new buffer of 256 KiB each time, which then shrinks to what came. glibc
    asks the system for an allocation that large, and gives it back after, until one that is
    larger still was freed: from then on it keeps what it has. That is worth up to a third of the
    time of a large body. With other C libraries this does nothing.
    """
    bytearray(_LARGER_THAN_ANY_READ_BYTES)
