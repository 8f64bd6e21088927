"""Connectors whose program is a function of this package, in a Python process of its own.

A process of its own can be killed and started again, and takes whatever threads a library has
started with it.
"""

import asyncio
import json
import os
import sys
import threading
import traceback
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final, NoReturn

from .program import ProgramConnector

__all__ = ["PythonConnector", "Say", "run"]

Say = Callable[[str], None]
"""Takes a line, from any thread."""

_BOOTSTRAP: Final = """\
import sys, json
config = json.loads(sys.stdin.buffer.readline())
sys.path[:] = config.pop("sys_path")
from importlib import import_module
import_module(config.pop("module")).main(config)
"""
"""The configuration comes through the standard input, because everybody on this machine can read
arguments, and every child of the process inherits its environment."""


class PythonConnector(ProgramConnector):
    """Runs ``main(config)`` of a module.

    Attributes:
        module: its full name.
    """

    module: ClassVar[str]

    @abstractmethod
    def config(self) -> Mapping[str, Any]:
        """Return what ``main`` gets, in types that JSON knows. It may hold secrets.

        Raises:
            ConnectorError: something is missing.
        """

    def arguments(self) -> list[str]:
        """Return the interpreter of the keeper, with a program of a few lines."""
        return [sys.executable, "-I", "-c", _BOOTSTRAP]

    def stdin_data(self) -> bytes:
        """Return the configuration."""
        config = {**self.config(), "sys_path": sys.path, "module": self.module}
        return json.dumps(config).encode() + b"\n"


def run(serve: Callable[[Say, asyncio.Event], Awaitable[None]]) -> NoReturn:
    """Run the process, until its standard input ends.

    Args:
        serve: does the work; gets what takes its lines, and an event that is set when it is to
            end. Raises ``SystemExit`` when it has said why it cannot go on.
    """
    status = 1
    try:
        asyncio.run(_until_input_ends(serve))
        status = 0
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's regular shutdown is skipped, because a library's threads may hang it.
    os._exit(status)


async def _until_input_ends(serve: Callable[[Say, asyncio.Event], Awaitable[None]]) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        loop.call_soon_threadsafe(ended.set)

    # A thread, since not every event loop can wait for a pipe.
    threading.Thread(target=wait, daemon=True).start()
    await serve(_say, ended)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
