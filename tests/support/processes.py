"""Waiting for processes and for what they say."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from pytest_synth_tunnels.keeper.process.process_watch import watch_process

__all__ = ["gone", "living_processes", "seen_by_all", "until"]


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    died = asyncio.Event()
    watch_process(pid, died.set)
    async with asyncio.timeout(10):
        await died.wait()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a status calls nobody
            await asyncio.sleep(0.01)


def seen_by_all(pid: int) -> bytes:
    """Return the arguments and the environment of a process (Linux)."""
    return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()


def living_processes(variable: str) -> list[int]:
    """Return the processes that were started with a variable such as ``NAME=value`` (Linux)."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environ = (process / "environ").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            continue
        if variable.encode() in environ and state != "Z":
            found.append(int(process.name))
    return found
