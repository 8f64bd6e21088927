"""What one pytest process knows of its run's tunnels.

Made in every pytest process, used or not: so it notes the environment while nothing has patched
it yet, and imports everything else on first use.
"""

import os
import sys
import tempfile
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from ._unpatched import unpatched
from .options import API_KEY_VARIABLE, OPTIONS, Option

if TYPE_CHECKING:
    from .keeper.ipc.client import KeeperClient
    from .keeper.ipc.messages import Event, Report
    from .settings import Settings
    from .telling import HookCaller

__all__ = ["FIXTURES", "SESSION", "Session"]

FIXTURES = frozenset(
    {"synth_lease", "exposed_port", "exposed_socket", "synth_expose", "synth_tunnels"}
)
"""The fixtures that need a keeper."""

_FINISH_TIMEOUT_S = 20.0


class Session:
    """The tunnels of this process's run.

    Attributes:
        environ: the environment as pytest was configured with it.
        sys_path: the same of where Python looks for modules, in absolute paths.
        report: what the run did, once its owner has finished it.
        trouble: lines for the terminal summary.
        has_lease: whether a test of this process has asked for ``synth_lease``.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.environ = dict(os.environ)
        self._cwd = str(config.invocation_params.dir)
        self.sys_path = [os.path.join(self._cwd, entry) for entry in sys.path]
        self.report: Report | None = None
        self.trouble: list[str] = []
        self.has_lease = False
        self._lost: str | None = None
        """Why the run's lease carries nothing any more."""
        given: dict[str, Any] = getattr(config, "workerinput", {}).get("synth_tunnels", {})
        self._run_id: str = given.get("run_id") or os.urandom(8).hex()
        self._base: str = given.get("base") or _runtime_base(self.environ)
        self._owner_pid: int = given.get("owner_pid") or unpatched.getpid()
        self._address: str = given.get("address", "")

    @property
    def is_owner(self) -> bool:
        """Whether this process ends the run."""
        return self._owner_pid == unpatched.getpid()

    @property
    def directory_path(self) -> str:
        """Where the run's processes meet."""
        return f"{self._base}/{self._run_id}"

    @cached_property
    def settings(self) -> "Settings":
        """The resolved settings, as the hooks leave them.

        Raises:
            pytest.UsageError: one of them cannot be used.
        """
        from .settings import SettingsError, resolve
        from .tailoring import tailor

        try:
            return tailor(resolve(self._command_line, self.environ, self._ini), self.config)
        except SettingsError as error:
            raise pytest.UsageError(f"synth-tunnels: {error}") from None

    def _command_line(self, option: Option) -> str | None:
        value: str | None = self.config.getoption(option.ini)
        return value

    def _ini(self, option: Option) -> str | None:
        value: str = self.config.getini(option.ini)
        return value or None

    def has_settings(self) -> bool:
        """Whether anything was set at all, without working it out."""
        if self.config.hook.pytest_synth_tunnels_settings.get_hookimpls():
            return True
        return any(
            self._command_line(option) or self.environ.get(option.variable) or self._ini(option)
            for option in OPTIONS
        )

    @cached_property
    def keeper(self) -> "KeeperClient":
        """This process's hold on the run's keeper."""
        from .keeper.ipc.client import KeeperClient
        from .keeper.process.launch import Run
        from .keeper.process.run_directory import RunDirectory
        from .reporting import Redaction

        self.config.pluginmanager.register(Redaction(self))
        return KeeperClient(
            Run(
                run_id=self._run_id,
                directory=RunDirectory(self.directory_path),
                owner_pid=self._owner_pid,
                address=self._address,
                settings=self.settings,
                environ=self.environ,
                cwd=self._cwd,
                sys_path=self.sys_path,
            )
        )

    @property
    def secrets(self) -> set[str]:
        """The tokens and keys that no report of this process may show."""
        if not self.has_keeper:
            return set()
        return self.keeper.secrets | {self.environ.get(API_KEY_VARIABLE, "").strip()}

    @property
    def has_keeper(self) -> bool:
        """Whether this process has had to do with the keeper."""
        return "keeper" in self.__dict__

    def worker_input(self, worker_id: str) -> dict[str, Any]:
        """Return what makes a worker on this host part of this run; builtin types only."""
        return {
            "run_id": self._run_id,
            "base": self._base,
            "owner_pid": self._owner_pid,
            "address": worker_id,
        }

    def start(self, items: Iterable[pytest.Item]) -> None:
        """Start the keeper if a test needs it, without waiting for it.

        A test with ``request`` may need it too, in the middle of what it patches: an import would
        then be seen by the patch, go wrong by it, or be forgotten with it.
        """
        names = {name for item in items for name in getattr(item, "fixturenames", ())}
        if not FIXTURES.isdisjoint(names):
            _load()
            self.keeper.start()
        elif "request" in names:
            _load()

    def check(self) -> "list[Event]":
        """Return what happened to this process's tunnels since the last call.

        Raises:
            KeeperError: the keeper died.
        """
        if not self.has_keeper:
            return []
        events = self.keeper.check()
        for event in events:
            # A lease that synth_expose opened concerns the test that has it; an agent that is cut
            # off tries again; and a command that died serves all.
            lost_it = event.kind == "lost" and event.shared and self.has_lease
            if lost_it or event.kind == "failed":
                self._lost = event.message
        return events

    @property
    def lost(self) -> str | None:
        """Why later tests cannot use the lease, if so."""
        return self._lost

    @cached_property
    def _teller(self) -> "HookCaller":
        from .telling import HookCaller

        return HookCaller(self.config)

    def tell(self) -> None:
        """Tell other plugins what happened to the run's leases, if this process owns the run."""
        if not (self.is_owner and self.has_keeper and self._teller.is_wanted):
            return
        from .keeper.ipc.errors import KeeperError

        try:
            happenings = self.keeper.news()
        except KeeperError:
            return  # the next test that needs a tunnel says so
        self.trouble += self._teller.tell(happenings)

    def finish(self) -> None:
        """End the run, if this process owns it and any process of it needed a keeper."""
        if not self.is_owner:
            return
        try:
            unpatched.lstat(self.directory_path)
        except OSError:
            return  # no process of this run ever needed a tunnel
        from .keeper.ipc.errors import KeeperError

        try:
            self.report = self.keeper.finish(_FINISH_TIMEOUT_S)
        except KeeperError as error:
            # Whoever needed a keeper that did not start has said so already.
            if error.code != "KEEPER_NOT_STARTED":
                self.trouble.append(str(error))
        if self.report is not None:
            self.trouble += self.report.public + self.report.events + self.report.unreleased
            self.trouble += self._teller.tell(self.report.happenings)

    def close(self) -> None:
        """Let go of what this process holds."""
        if self.has_keeper:
            self.keeper.close()


SESSION = pytest.StashKey[Session]()


def uses_tunnels(item: pytest.Item) -> bool:
    """Whether a test asks for one of our fixtures, itself or through others."""
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def _load() -> None:
    """Import, before the first test, all that a test process needs of us."""
    from . import exposing, lease, reporting, tailoring, telling
    from .keeper.ipc import client

    _ = client, exposing, lease, reporting, tailoring, telling


def _runtime_base(environ: dict[str, str]) -> str:
    """Return where this user's run directories lie, fixed before a test changes TMPDIR."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    if not (os.path.isabs(base) and os.access(base, os.W_OK)):
        base = tempfile.gettempdir()
    return (
        f"{base}/synth-tunnels-{unpatched.getuid()}"
        if os.name == "posix"
        else f"{base}/synth-tunnels"
    )
