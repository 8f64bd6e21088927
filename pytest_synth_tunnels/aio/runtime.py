"""The event loop of a process that carries traffic."""

import asyncio
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, Final

from .files import allow_many_files

__all__ = ["run"]

_LARGER_THAN_ANY_READ_BYTES: Final = 2 << 20


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a process's main coroutine, on uvloop's event loop where that is installed.

    Args:
        main: all that the process does.
    """
    _keep_read_buffers()
    allow_many_files()
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        runner.run(main)


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
