"""The hooks that other plugins and a ``conftest.py`` can implement.

The keeper is another process and calls none of them: what it has to tell waits there until the
run's *owner* asks, which is the single pytest process, or pytest-xdist's controller. The
controller collects no tests, so a ``conftest.py`` must be one that pytest loads at its start: that
of the root directory, or of a path that pytest was given.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .hook_events import LeaseFacts
    from .settings import Settings


@pytest.hookspec(firstresult=True)
def pytest_synth_tunnels_settings(config: pytest.Config, settings: "Settings") -> "Settings | None":
    """Adjust the resolved settings, with :func:`dataclasses.replace`.

    Called once in every process of the run, the controller and each worker, while pytest is
    configured, or with the first test that needs a tunnel if the implementation was loaded later
    than that. The keeper has the settings of whichever process started it, so give the same answer
    in all of them. The first implementation that answers decides.

    With ``synth_tunnels_start = session`` it is called before conftests are imported, for plugins
    that are loaded by then, and again for all while pytest is configured. A conftest that then
    changes what the tunnel was opened with ends the run with an error.

    Args:
        config: of pytest. Before conftests are imported its options are in
            ``config.known_args_namespace`` alone.
        settings: as command line, environment and ini file say. Keys are no part of them. What
            decides about the backend is ``backend_url``, ``None`` for the embedded one.

    Returns:
        The settings to use, or ``None`` for the given ones.
    """


@pytest.hookspec
def pytest_synth_tunnels_connectors(config: pytest.Config) -> "Mapping[str, str] | None":
    """Name providers of your own, for ``synth_tunnels_provider`` and ``synth_expose(provider=…)``.

    Called once in every process of the run, just before :func:`pytest_synth_tunnels_settings`.
    The class is imported by the keeper, another process, with the ``sys.path`` that the run had
    when pytest was configured, and implements :class:`.connectors.base.Connector`. An installed
    package needs no hook: the entry-point group ``synth_tunnels.connectors`` does the same.

    Args:
        config: of pytest.

    Returns:
        ``{name: "module:Class"}``.
    """


@pytest.hookspec
def pytest_synth_lease_created(config: pytest.Config, lease: "LeaseFacts") -> None:
    """A lease carries traffic: the run's own, or one that ``synth_expose`` opened.

    Called in the run's owner alone, once for each lease and later than it happened: after the test
    that it happened in, or, under pytest-xdist, when the session finishes. An error that is raised
    here is shown in the terminal summary, and changes no test's outcome.

    Args:
        config: of pytest.
        lease: the lease at that moment.
    """


@pytest.hookspec
def pytest_synth_lease_lost(config: pytest.Config, lease: "LeaseFacts", reason: str) -> None:
    """A lease carries nothing any more, though nobody released it: the backend ended it, or its
    time is over.

    Called like :func:`pytest_synth_lease_created`. Its release is told too, later.

    Args:
        config: of pytest.
        lease: the lease at that moment.
        reason: why, for people.
    """


@pytest.hookspec
def pytest_synth_lease_released(config: pytest.Config, lease: "LeaseFacts") -> None:
    """A lease was given back to its backend. One that could not be given back is in the terminal
    summary instead.

    Called like :func:`pytest_synth_lease_created`; for the run's own lease always when the session
    finishes.

    Args:
        config: of pytest.
        lease: the lease at that moment.
    """
