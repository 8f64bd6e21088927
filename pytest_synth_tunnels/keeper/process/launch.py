"""Starts the keeper of a run: tells a candidate (:mod:`.candidate`) for which run it stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...environment import allowed_environment
from ...options import API_KEY_VARIABLE, BACKEND_URL_VARIABLE
from ...settings import Settings
from .candidate import Candidate, no_signal_of_its_end
from .process_start import process_start
from .run_directory import RunDirectory

__all__ = ["Run", "launch"]


@dataclass(frozen=True, slots=True)
class Run:
    """One pytest invocation, as each of its processes knows it.

    Attributes:
        run_id: names the run.
        directory: where its processes find the keeper.
        owner_pid: the process whose last hook ends the run: the single one, or the xdist
            controller.
        address: this process's part of a shared URL (``gw1``), empty without xdist.
        settings: the resolved settings.
        environ: the environment as it was when pytest was configured.
        cwd: where pytest was started.
        sys_path: where the keeper finds this package and what it needs.
    """

    run_id: str
    directory: RunDirectory
    owner_pid: int
    address: str
    settings: Settings
    environ: Mapping[str, str] = field(repr=False)  # it holds keys
    cwd: str
    sys_path: list[str]


def launch(run: Run, candidate: Candidate | None = None) -> None:
    """Start a candidate, or tell the one that is started, and return as soon as it is no child of
    this process.

    Args:
        run: for which it stands.
        candidate: one that was started ahead; if it has ended meanwhile, another is started.

    Raises:
        OSError: no process can be started, or it could not write its files.
    """
    try:
        run.directory.check_space()
        config = _config(run)
        if candidate is not None and candidate.tell(config):
            return
        with no_signal_of_its_end():
            Candidate.start(run.environ, run.sys_path).tell(config)
    except BaseException:
        run.directory.mark_failed()
        raise


def _config(run: Run) -> dict[str, Any]:
    return {
        "run_dir": run.directory.path,
        "run_id": run.run_id,
        "owner_pid": run.owner_pid,
        "owner_start": process_start(run.owner_pid),
        "settings": run.settings.to_json(),
        "environ": {k: v for k, v in run.environ.items() if k != API_KEY_VARIABLE},
        "keeper_environ": keeper_environment(run),
        "cwd": run.cwd,
        "sys_path": run.sys_path,
    }


def keeper_environment(run: Run) -> dict[str, str]:
    """Return the environment of the keeper: an allow-list, and what ``pass_env`` names."""
    also = set(run.settings.pass_env)
    if run.settings.backend_url is not None:
        also |= {API_KEY_VARIABLE, BACKEND_URL_VARIABLE}
    return allowed_environment(run.environ, also)
