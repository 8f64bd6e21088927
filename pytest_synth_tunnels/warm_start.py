"""Starts the keeper's process before conftests are imported, where the last run used tunnels.

Importing the keeper takes longer than all else that the first test would wait for. So a process
begins with that as early as possible, beside the import of conftests and the collection of tests;
it learns which run it is for when conftests have said what they set (:mod:`.keeper.process.
candidate`), and ends at once where no keeper is wanted after all.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from .keeper.process.candidate import EMBEDDED_BACKEND, Candidate
from .session import CANDIDATE

__all__ = ["started_warm"]


@contextmanager
def started_warm(config: pytest.Config) -> Generator[None, None, None]:
    """Start a candidate, which is no child of this process any more when the block ends.

    Args:
        config: before its conftests are imported; it keeps the candidate, and dismisses it when it
            goes out of use.
    """
    folder = config.invocation_params.dir
    try:
        candidate = Candidate.start(
            os.environ, [os.path.join(folder, entry) for entry in sys.path], [EMBEDDED_BACKEND]
        )
    except OSError:  # the first test that needs a tunnel says why
        yield
        return
    config.add_cleanup(candidate.dismiss)
    try:
        yield
    finally:
        try:
            candidate.reap()
            config.stash[CANDIDATE] = candidate
        except OSError:
            candidate.dismiss()
