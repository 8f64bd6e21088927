"""Runs pytest on a suite, as a whole process."""

import subprocess
import time
from pathlib import Path

from cache import child_environment
from processes import BenchmarkError

__all__ = ["ALONE", "run_pytest_s"]

ALONE = ("-p", "no:anyio", "-p", "no:xdist", "-p", "no:xdist.looponfail")
"""Other plugins off: what they import, and what they cost, would hide what ours does."""

_TIMEOUT_S = 120


def run_pytest_s(python: Path, folder: Path, *options: str, expected: int = 0) -> float:
    """Run pytest in a folder.

    Args:
        python: the interpreter.
        folder: where it runs, and its root.
        options: of its command line.
        expected: the status with which it is to exit.

    Returns:
        The wall time, in seconds.

    Raises:
        BenchmarkError: it exits with another status.
        subprocess.TimeoutExpired: it takes longer than two minutes.
    """
    began_s = time.perf_counter()
    done = subprocess.run(
        [python, "-m", "pytest", "--rootdir", folder, *options],
        cwd=folder,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    took_s = time.perf_counter() - began_s
    if done.returncode != expected:
        raise BenchmarkError(f"pytest exited with {done.returncode}: {done.stdout[-500:]}")
    return took_s
