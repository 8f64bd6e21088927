"""Starts a run's tunnel before any conftest is imported: ``synth_tunnels_start = session``.

Apps that read their public URL from the environment when they are imported find it there. The
process that owns the run starts the keeper, and waits for its lease; an xdist worker, which is
told of its run only after its conftests are imported, finds it through a variable that it inherits.
It takes the variable out of its environment, so that no pytest that one of its tests starts is
taken for a process of this run.
"""

import os
from functools import partial
from json import dumps, loads
from typing import Any

import pytest

from .keeper.ipc.errors import KeeperError
from .keeper.ipc.messages import LeaseInfo, OpenAddress
from .preload import preload
from .session import SESSION, Session

__all__ = ["PUBLIC_URL_VARIABLE", "RUN_VARIABLE", "hand_on_run", "start_early"]

PUBLIC_URL_VARIABLE = "SYNTH_PUBLIC_URL"

RUN_VARIABLE = "SYNTH_TUNNELS_RUN"
"""What xdist's workers inherit: the run, as :meth:`.session.Session.worker_input` gives it."""

_WORKER_VARIABLE = "PYTEST_XDIST_WORKER"
_XDIST_RUN_VARIABLE = "PYTEST_XDIST_TESTRUNUID"


def start_early(config: pytest.Config) -> Session:
    """Open this process's address on the run's lease, and put its URL into the environment.

    Args:
        config: before its conftests are imported; it keeps the session, and puts the environment
            back when it goes out of use.

    Returns:
        The session, with its keeper held.

    Raises:
        pytest.UsageError: a setting cannot be used, or there is no lease to be had.
    """
    before = {name: os.environ.get(name) for name in (PUBLIC_URL_VARIABLE, RUN_VARIABLE)}
    inherited = _take_inherited_run()
    if inherited:
        before[RUN_VARIABLE] = None  # it was for this process alone
    session = Session(
        config,
        # Reports are cleaned from the start of the session on, when all that writes is there.
        lambda _: None,
        inherited=inherited,
        get_option=lambda name: getattr(config.known_args_namespace, name, None),
    )
    session.is_early = True
    config.stash[SESSION] = session
    config.add_cleanup(partial(_end, session, before))
    settings = session.settings
    try:
        session.start_keeper()
        preload()
        lease = session.keeper.ask(OpenAddress(), LeaseInfo, settings.start_timeout_s)
    except KeeperError as error:
        source = settings.sources.get("start", "synth_tunnels_start")
        raise pytest.UsageError(
            f"synth-tunnels: {source} is 'session', which needs a tunnel before any conftest is "
            f"imported: {error}"
        ) from None
    os.environ[PUBLIC_URL_VARIABLE] = lease.public_url
    return session


def hand_on_run(session: Session) -> None:
    """Let the workers that are started from now on find the run of a session."""
    run = session.worker_input("")
    # What a worker starts inherits this uid, and what the owner starts has the owner's.
    run["outside"] = os.environ.get(_XDIST_RUN_VARIABLE, "")
    os.environ[RUN_VARIABLE] = dumps(run)


def _take_inherited_run() -> dict[str, Any]:
    """Return the run that this process is a worker of; nothing for a process with its own."""
    text = os.environ.get(RUN_VARIABLE)
    worker = os.environ.get(_WORKER_VARIABLE)
    if not (text and worker):
        return {}
    run: dict[str, Any] = loads(text)
    if run.pop("outside") == os.environ.get(_XDIST_RUN_VARIABLE, ""):
        return {}
    del os.environ[RUN_VARIABLE]
    return {**run, "address": worker}


def _end(session: Session, before: dict[str, str | None]) -> None:
    """Put the environment back, and end a run that did not come to its end by itself."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    session.abandon()
