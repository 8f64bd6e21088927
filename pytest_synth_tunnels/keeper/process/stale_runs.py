"""Removes run directories that have no use, because their keeper and its owner were killed.

A dead keeper's directory still matters while its run goes on: it says why, and that there shall
be no second keeper. So one is removed only when the keeper's lock can be taken, which the kernel
frees when the keeper dies, and the run's owner is gone too.
"""

import json
import logging
import os
import time
from contextlib import suppress
from typing import Final

from filelock import FileLock, Timeout

from .process_start import process_start
from .run_directory import RunDirectory

__all__ = ["remove_stale_runs"]

_log = logging.getLogger(__name__)

_MAX_CHECKED: Final = 100
_ABANDONED_S: Final = 86_400.0
"""Leases end within a day, and so a directory that does not tell its owner is nobody's then."""


def remove_stale_runs(own: RunDirectory) -> None:
    """Remove what this user's killed runs left beside a run directory.

    Args:
        own: the directory of the living run.
    """
    parent, own_name = os.path.split(own.path)
    try:
        names = os.listdir(parent)
    except OSError:
        return  # the run has ended meanwhile, and its directory with it
    for name in names[:_MAX_CHECKED]:
        directory = RunDirectory(os.path.join(parent, name))
        if name != own_name and _is_over(directory):
            with suppress(Timeout, OSError), FileLock(directory.lock, timeout=0):
                directory.remove()
                _log.info("removed %s, which a killed run had left", directory.path)


def _is_over(directory: RunDirectory) -> bool:
    """Whether the owner of a directory's run is dead."""
    try:
        run_file = json.loads(directory.read(directory.run_file) or b"")
        owner_pid, owner_start = int(run_file["owner_pid"]), str(run_file["owner_start"] or "")
    except (ValueError, KeyError, TypeError):
        owner_start = ""
    if owner_start:
        return process_start(owner_pid) != owner_start
    with suppress(OSError):
        return time.time() - os.stat(directory.path).st_mtime > _ABANDONED_S
    return False
