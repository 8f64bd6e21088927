"""Keeps a run's inspector open after the last test (``--synth-tunnels-inspector=hold``)."""

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from ._unpatched import unpatched
from .reporting import summarize

if TYPE_CHECKING:
    from .session import Session

__all__ = ["InspectorHold"]

_RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
"""How a run ends that has something to show."""

_LOOK_S = 1.0
"""How often it is seen whether the keeper is still there."""


class InspectorHold:
    """A plugin of the process that owns the run.

    Args:
        session: of the run; it is finished here, after the hold.
    """

    def __init__(self, session: "Session") -> None:
        self._session = session
        session.is_held = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, object, object]:
        """Wait for Ctrl-C behind all others, so that the summary of the run stands already."""
        done = yield
        ours = self._session
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        told = len(ours.trouble)
        if ours.inspector_url and exitstatus in _RAN:
            if terminal is not None:
                terminal.write_line(
                    "synth tunnels: the inspector stays open until Ctrl-C, at the URL above",
                    flush=True,
                )
            self._wait()
        ours.finish()
        if terminal is not None:
            summarize(terminal, ours.trouble[told:], ours.report, ours.secrets())
        return done

    def _wait(self) -> None:
        """Wait until Ctrl-C, or until there is no keeper any more."""
        from .keeper.ipc.errors import KeeperError

        never = unpatched.allocate_lock()
        never.acquire()
        try:
            while True:
                never.acquire(timeout=_LOOK_S)
                self._session.check()
        except (KeyboardInterrupt, KeeperError):
            pass  # that there is no keeper any more is told by the end of the run
