"""Starts the keeper's process before conftests are imported, where the last run used tunnels.

Importing the keeper takes longer than all else that the first test would wait for. So a process
begins with that as early as possible, beside the import of conftests and the collection of tests.
It learns which run it is for when conftests have said what they set, and ends where no keeper is
wanted after all (:mod:`.keeper.process.candidate`).
"""

import os
import sys
from contextlib import suppress

import pytest

from .keeper.process.candidate import EMBEDDED_BACKEND, Candidate
from .session import CANDIDATE

__all__ = ["start_warm"]


def start_warm(config: pytest.Config) -> None:
    """Start a candidate for the run's keeper.

    Args:
        config: before its conftests are imported; it keeps the candidate, which ends at the
            latest when the configuration goes out of use.
    """
    folder = config.invocation_params.dir
    sys_path = [os.path.join(folder, entry) for entry in sys.path]
    with suppress(OSError):  # the first test that needs a tunnel says why
        candidate = Candidate.start(os.environ, sys_path, [EMBEDDED_BACKEND])
        config.stash[CANDIDATE] = candidate
        config.add_cleanup(candidate.dismiss)
