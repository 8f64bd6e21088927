"""What one pytest process knows of its run's tunnels.

A session is made in every pytest process, whether or not tunnels are used: so it notes the
environment while nothing has patched it yet, and imports everything else on first use.
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from ._unpatched import unpatched
from .options import API_KEY_VARIABLE, OPTIONS, Option
from .runtime_base import runtime_base

if TYPE_CHECKING:
    from .har_files import HarFiles
    from .hook_events import HookCaller
    from .keeper.ipc.client import KeeperClient
    from .keeper.ipc.messages import Event, Report
    from .keeper.process.candidate import Candidate
    from .run_waits import AppWaits, RunWaits
    from .settings import Settings

__all__ = [
    "CANDIDATE",
    "FIXTURES",
    "SESSION",
    "Session",
    "is_early_start",
    "runs_tests",
    "used_tunnels_before",
    "uses_tunnels",
]

FIXTURES = frozenset(
    {
        *("synth_lease", "exposed_port", "exposed_socket"),
        *("synth_expose", "synth_serve", "synth_tunnels"),
        *("synth_inbox", "synth_traffic"),
    }
)
"""The fixtures that need a keeper."""

_FINISH_TIMEOUT_S = 20.0

_USED = "synth_tunnels/used"
"""What pytest's cache calls it that the last run used tunnels, which could be opened ahead."""


class Session:
    """The tunnels of this process's run.

    Args:
        config: of pytest.
        on_first_use: called once with this session, before the first test that needs a tunnel.
        inherited: the run that this process is a worker of, where that is known already.
        get_option: returns an option of the command line; by default ``config.getoption``.

    Attributes:
        config: see above.
        environ: the environment as pytest was configured with it.
        sys_path: where Python looked for modules then, in absolute paths.
        report: what the run did, once its owner has finished it.
        trouble: lines for the terminal summary.
        has_lease: whether a test of this process has asked for ``synth_lease``.
        lost: why the run's lease carries nothing any more, or ``None``.
        port: the port of this process's app, once a test has asked for ``exposed_port``.
        lease_id: the lease of this process, once a test has asked for ``synth_lease``.
        inspector_url: where the page with the run's traffic is; empty for none. A secret.
        is_held: whether the run goes on after the last test, for its inspector.
        test_began_s: when the running test began, by :func:`time.monotonic`.
        is_early: whether the tunnel was opened before any conftest was imported.
        is_used: whether this process has needed the keeper.
        possible_users: the workers that have needed the keeper, or have not said that they did not.
    """

    def __init__(
        self,
        config: pytest.Config,
        on_first_use: "Callable[[Session], None]",
        *,
        inherited: Mapping[str, Any] | None = None,
        get_option: "Callable[[str], Any] | None" = None,
    ) -> None:
        self.config = config
        self.is_early = False
        self.is_used = False
        self.possible_users: set[str] = set()
        self._is_ahead = False
        """Whether the keeper was started before a test needed it."""
        self._candidate: Candidate | None = config.stash.get(CANDIDATE, None)
        """A process that may become the keeper of this run, started before conftests were
        imported."""
        self.environ = dict(os.environ)
        self.sys_path = [os.path.join(config.invocation_params.dir, entry) for entry in sys.path]
        self.report: Report | None = None
        self.trouble: list[str] = []
        self.has_lease = False
        self.lost: str | None = None
        self.port: int | None = None
        self.lease_id = ""
        self.inspector_url = ""
        self.is_held = False
        self.test_began_s = 0.0
        given: Mapping[str, Any] = inherited or getattr(config, "workerinput", {}).get(
            "synth_tunnels", {}
        )
        self._get_option = get_option or config.getoption
        self._run_id: str = given.get("run_id") or os.urandom(8).hex()
        self._base: str = given.get("base") or runtime_base(self.environ)
        self._owner_pid: int = given.get("owner_pid") or unpatched.getpid()
        self._address: str = given.get("address", "")
        self._on_first_use = on_first_use
        self._lock = unpatched.allocate_lock()
        """Held while ``_keeper`` is made."""
        self._settings: Settings | None = None
        self._har_files: HarFiles | None = None
        self._keeper: KeeperClient | None = None
        self._thread = unpatched.get_ident()
        """The thread that writes to the terminal."""
        self._waits: RunWaits | None = None
        self._hook_caller: HookCaller | None = None

    @property
    def is_owner(self) -> bool:
        """Whether this process ends the run."""
        return self._owner_pid == unpatched.getpid()

    @property
    def worker_id(self) -> str:
        """The name of this pytest-xdist worker; empty for a process that is none."""
        name: str = getattr(self.config, "workerinput", {}).get("workerid", "")
        return name

    @property
    def directory_path(self) -> str:
        """The directory through which the run's processes find their keeper."""
        return f"{self._base}/{self._run_id}"

    @property
    def settings(self) -> "Settings":
        """The resolved settings, as the hooks leave them.

        Raises:
            pytest.UsageError: one of them cannot be used.
        """
        if self._settings is None:
            from .settings import SettingsError, apply_hooks, resolve

            try:
                given = resolve(self._command_line, self.environ, self._ini)
                self._settings = apply_hooks(
                    given,
                    connectors=self.config.hook.pytest_synth_tunnels_connectors(config=self.config),
                    adjust=self._adjust,
                    installed_providers=_installed_providers,
                )
            except SettingsError as error:
                raise pytest.UsageError(f"synth-tunnels: {error}") from None
        return self._settings

    def why_not_hosted(self) -> str | None:
        """Return why no hosted backend can be used; ``None`` if one can.

        Raises:
            pytest.UsageError: a setting cannot be used.
        """
        from .settings import find_missing_key

        if self.settings.backend_url is None:
            return "set SYNTH_API_KEY and SYNTH_BACKEND_URL, or synth_tunnels_backend = hosted"
        return find_missing_key(self.settings, self.environ)

    def _adjust(self, settings: "Settings") -> "Settings | None":
        adjusted: Settings | None = self.config.hook.pytest_synth_tunnels_settings(
            config=self.config, settings=settings
        )
        return adjusted

    def _command_line(self, option: Option) -> str | None:
        value: str | None = self._get_option(option.ini)
        return value

    def settle(self) -> None:
        """Take in what conftests have set, once they are imported.

        Raises:
            pytest.UsageError: it comes too late for the tunnel, or cannot be used.
        """
        self._get_option = self.config.getoption
        if self.is_early:
            from dataclasses import replace

            from .settings import SettingsError, check_late_changes

            early, self._settings = self.settings, None
            try:
                check_late_changes(early, self.settings)
            except SettingsError as error:
                raise pytest.UsageError(f"synth-tunnels: {error}") from None
            self.keeper.run = replace(self.keeper.run, settings=self.settings)
        elif (
            self.has_settings()
            and self.settings.start == "session"
            and runs_tests(self.config.option)
        ):
            source = self.settings.sources.get("start", "synth_tunnels_start")
            raise pytest.UsageError(
                f"synth-tunnels: {source} is 'session', which came too late, with a conftest: set "
                "it on the command line, in the environment or in the ini file, and let pytest "
                "load this plugin by itself or with -p"
            )

    def _ini(self, option: Option) -> str | None:
        value: str = self.config.getini(option.ini)
        return value or None

    def has_settings(self) -> bool:
        """Whether anything was set at all, without resolving it."""
        if self.config.hook.pytest_synth_tunnels_settings.get_hookimpls():
            return True
        return any(
            self._command_line(option) or self.environ.get(option.variable) or self._ini(option)
            for option in OPTIONS
        )

    @property
    def keeper(self) -> "KeeperClient":
        """This process's hold on the run's keeper, which it needs from now on."""
        self.is_used = True
        return self._hold_keeper()

    def _hold_keeper(self) -> "KeeperClient":
        """Return this process's hold on the run's keeper."""
        if self._keeper is None:
            with self._lock:
                if self._keeper is None:
                    keeper = self._new_keeper()
                    self._on_first_use(self)
                    self._keeper = keeper
        return self._keeper

    def _new_keeper(self) -> "KeeperClient":
        from .keeper.ipc.client import KeeperClient
        from .keeper.process.launch import Run
        from .keeper.process.run_directory import RunDirectory

        return KeeperClient(
            Run(
                run_id=self._run_id,
                directory=RunDirectory(self.directory_path),
                owner_pid=self._owner_pid,
                address=self._address,
                settings=self.settings,
                environ=self.environ,
                cwd=self._command_folder(),
                sys_path=self.sys_path,
            ),
            self,
        )

    def _run_waits(self) -> "RunWaits | None":
        """Return what shows the waits of this run; ``None`` in a process that has no terminal, or
        where the user wants it quiet."""
        is_quiet = (self._get_option("verbose") or 0) < 0
        if self.worker_id or not self.is_owner or is_quiet:
            return None
        if self._waits is None:
            from .keeper.process.run_directory import RunDirectory
            from .pytest_screen import PytestScreen
            from .run_waits import RunWaits
            from .wait_display import WaitDisplay

            screen = PytestScreen(self.config, sys.stdout if self.is_early else None)
            self._waits = RunWaits(
                RunDirectory(self.directory_path),
                WaitDisplay(screen, prefix="synth tunnels: "),
                # A forked child and a test's threads share the terminal, and not its state.
                may_show=lambda: self.is_owner and unpatched.get_ident() == self._thread,
            )
        return self._waits

    def app_waits(self) -> "AppWaits | None":
        """Return what takes the waits of this process for an app that it serves."""
        if not self.worker_id:
            return self._run_waits()
        from .keeper.process.run_directory import RunDirectory
        from .run_waits import ToldWaits

        return ToldWaits(RunDirectory(self.directory_path), self.worker_id)

    def waiting(self, waited_s: float) -> None:
        """Show what a thread of this process waits for at the keeper (a ``WaitListener``)."""
        waits = self._run_waits()
        if waits is not None:
            waits.waiting(waited_s)

    def over(self) -> None:
        """Show that such a wait is over."""
        if self._waits is not None:
            self._waits.over()

    def show_waits(self) -> None:
        """Show what the workers of this run wait for; called while they let their controller
        wait."""
        if self._waits is None and not self._is_keeper_up():
            return
        waits = self._run_waits()
        if waits is not None:
            waits.look()

    def pause_waits(self) -> None:
        """Make room for what others are about to write."""
        if self._waits is not None:
            self._waits.pause()

    @property
    def har_files(self) -> "HarFiles":
        """The files to which this run's traffic is written."""
        if self._har_files is None:
            from pathlib import Path

            from .har_files import HarFiles
            from .redact import redact

            self._har_files = HarFiles(
                self.config.rootpath / self.settings.output,
                Path(self.directory_path),
                lambda content: redact(content, self.secrets()),
            )
        return self._har_files

    def remove_old_har_files(self) -> None:
        """Remove the HAR files of earlier runs, if this process owns a run that writes some."""
        if not (self.is_owner and self.has_settings() and self.settings.har != "off"):
            return
        try:
            self.har_files.remove_old()
        except OSError as error:
            self.trouble.append(f"the HAR files of an earlier run cannot be removed: {error}")

    def open_inspector(self) -> None:
        """Open the page that shows the run's traffic, if this process owns a run that wants one."""
        if not (self.is_owner and self.has_settings() and self.settings.inspector != "off"):
            return
        from .keeper.ipc.errors import KeeperError

        self._start_before_need()
        try:
            self.inspector_url = self._hold_keeper().open_inspector()
        except KeeperError as error:
            self.trouble.append(f"the inspector cannot be opened: {error}")

    def _write_report(self) -> None:
        """Write the page with the run's traffic, if the settings name one."""
        if not self.has_settings() or self.settings.report is None:
            return

        from .keeper.ipc.errors import KeeperError
        from .traffic_report import write_report

        in_ini = self.settings.is_from_ini("report")
        path = (
            self.config.rootpath if in_ini else self.config.invocation_params.dir
        ) / self.settings.report
        try:
            records = []
            if self._was_needed():
                from .synth_traffic import run_traffic

                records = run_traffic(self.keeper)
            write_report(path, records, self.secrets())
        except KeeperError as error:
            self.trouble.append(f"the traffic report {path} was not written: {error}")
        except OSError as error:
            self.trouble.append(f"the traffic report cannot be written: {error}")

    def _is_keeper_up(self) -> bool:
        """Whether any process of this run has ever needed a tunnel."""
        try:
            unpatched.lstat(self.directory_path)
        except OSError:
            return False
        return True

    def _command_folder(self) -> str:
        """Return where the command runs: in the folder of the ini file that names it, or else where
        pytest was started."""
        if not self.settings.is_from_ini("command"):
            return str(self.config.invocation_params.dir)
        ini_file = self.config.inipath
        return str(self.config.rootpath if ini_file is None else ini_file.parent)

    @property
    def has_keeper(self) -> bool:
        """Whether this process has needed the keeper."""
        return self._keeper is not None

    def secrets(self) -> set[str]:
        """Return the tokens and keys that no report of this process may show."""
        if self._keeper is None:
            return set()
        return self._keeper.secrets | {self.environ.get(API_KEY_VARIABLE, "").strip()}

    def worker_input(self, worker_id: str) -> dict[str, Any]:
        """Return what makes a worker on this host part of this run; builtin types only."""
        return {
            "run_id": self._run_id,
            "base": self._base,
            "owner_pid": self._owner_pid,
            "address": worker_id,
        }

    def start(self, fixture_names: Collection[str]) -> None:
        """Start the keeper if a test needs it, without waiting for it, and end one that none needs.

        Args:
            fixture_names: what the tests ask for.
        """
        if not FIXTURES.isdisjoint(fixture_names):
            self.start_keeper()
        elif "request" in fixture_names:
            return  # by which a test may ask for any of them
        elif self._is_ahead and not self.possible_users and not self.inspector_url:
            self._dismiss_keeper()

    def start_ahead(self) -> None:
        """Start the keeper beside collection, if the last run used tunnels and so may this one."""
        candidate = self._candidate
        if candidate is None:
            return
        if self.is_owner and not self.has_keeper and self._may_start_ahead():
            self._start_before_need()
        else:
            self._candidate = None
            candidate.dismiss()

    def _may_start_ahead(self) -> bool:
        """Whether opening the run's lease touches nothing beyond this machine, no port that was
        chosen, and no program of the user's."""
        settings = self.settings
        is_local = settings.backend_url is None and settings.provider == "synthtunnel"
        is_local = is_local and settings.bind == "127.0.0.1" and settings.public_port is None
        return is_local and settings.command is None

    def _start_before_need(self) -> None:
        """Start the keeper although no test needs it yet, and may never do."""
        self._start()
        self._is_ahead = True

    def _dismiss_keeper(self) -> None:
        """End a keeper that was started ahead, and that no test needs."""
        from .keeper.ipc.errors import KeeperError

        with suppress(KeeperError):  # nobody needs it
            if self._keeper is not None:
                self._keeper.finish(_FINISH_TIMEOUT_S)
        # A test that needs one after all has it started anew, in a directory of its own.
        self._is_ahead, self._keeper, self._run_id = False, None, os.urandom(8).hex()
        self._waits = None

    def _remember(self, is_used: bool) -> None:
        """Note in pytest's cache whether this run used tunnels, for :func:`used_tunnels_before`."""
        cache: pytest.Cache | None = getattr(self.config, "cache", None)
        if cache is None or cache.get(_USED, False) == is_used:
            return
        import warnings

        with warnings.catch_warnings():  # a cache that cannot be written makes no difference
            warnings.simplefilter("ignore")
            cache.set(_USED, is_used)

    def start_keeper(self) -> None:
        """Start the run's keeper now, or find that it is started, without waiting for it.

        That it cannot be started is told by the first request that needs it.
        """
        self.is_used = True
        self._start()

    def _start(self) -> None:
        if self.has_keeper or not self.is_owner:
            self._hold_keeper().start()
            return
        from .keeper.process.candidate import Candidate, no_signal_of_its_end

        with no_signal_of_its_end():
            candidate, self._candidate = self._candidate, None
            try:
                if candidate is None:
                    candidate = Candidate.start(self.environ, self.sys_path)
                # While it imports the keeper, this imports what talks to it.
                self._hold_keeper().start(candidate)
            except OSError:  # there is no process to be had, which the first request says
                return
            finally:
                if candidate is not None:
                    candidate.dismiss()  # unless it has been told

    def check(self) -> "list[Event]":
        """Return what happened to this process's tunnels since the last call.

        Raises:
            KeeperError: the keeper died.
        """
        if self._keeper is None:
            return []
        events = self._keeper.check()
        for event in events:
            # Later tests can go on after every other event: a lease that synth_expose opened
            # concerns the test that has it, and an agent that is cut off tries again.
            lost_it = event.kind == "lost" and event.shared and self.has_lease
            if lost_it or event.kind == "failed":
                self.lost = event.message
        return events

    def reserve_port(self) -> int:
        """Return the port that the run's lease exposes in this process.

        Raises:
            KeeperError: the keeper cannot be had.
        """
        from .keeper.ipc.messages import Port, ReservePort

        self.port = self.keeper.ask(ReservePort(), Port).port
        return self.port

    def free_port(self) -> None:
        """Have the app's port bindable by any server, whatever the last server left on it.

        Raises:
            KeeperError: the keeper died.
        """
        if self.port is None:
            return
        from .listener import can_bind
        from .socket_table import has_loopback_listener

        # Where a server listens there is nothing to free, and the keeper finds that out slowly.
        if not can_bind(self.port) and not has_loopback_listener(self.port):
            self.reserve_port()

    def tell(self) -> None:
        """Tell other plugins what happened to the run's leases, if this process owns the run."""
        if not self.is_owner or self._keeper is None:
            return
        caller = self._caller()
        if not caller.is_wanted:
            return
        from .keeper.ipc.errors import KeeperError

        try:
            events = self._keeper.take_lease_events()
        except KeeperError:
            return  # the next test that needs a tunnel says so
        self.trouble += caller.tell(events)

    def _caller(self) -> "HookCaller":
        if self._hook_caller is None:
            from .hook_events import HookCaller

            self._hook_caller = HookCaller(self.config)
        return self._hook_caller

    def finish(self) -> None:
        """End the run, if this process owns it and any process of it needed a keeper."""
        if not self.is_owner:
            return
        if not self.config.getoption("collectonly"):
            self._write_report()
            self._remember(self._was_needed() and self._may_start_ahead())
        if not self._is_keeper_up():
            return
        if not self._was_needed():
            self._dismiss_keeper()
            return
        from .keeper.ipc.errors import KeeperError

        try:
            self.report = self.keeper.finish(_FINISH_TIMEOUT_S)
        except KeeperError as error:
            # The tests that needed a keeper that did not start have said so already.
            if error.code != "KEEPER_NOT_STARTED":
                self.trouble.append(str(error))
        if self.report is not None:
            self.trouble += self.report.public + self.report.events + self.report.unreleased
            self.trouble += self.report.traffic
            self.trouble += self._caller().tell(self.report.lease_events)

    def abandon(self) -> None:
        """Let go of the keeper, and end the run if this process owns it and has not ended it."""
        if self.is_owner and self._keeper is not None and self._is_keeper_up():
            from .keeper.ipc.errors import KeeperError

            with suppress(KeeperError):  # the run ended before any test, with a cause of its own
                self._keeper.finish(_FINISH_TIMEOUT_S)
        self.close()

    def _was_needed(self) -> bool:
        """Whether any process of this run has needed the keeper."""
        if self._is_ahead:
            return self.is_used or bool(self.possible_users)
        return self._is_keeper_up()

    def close(self) -> None:
        """Let go of the keeper, in every process."""
        if self._keeper is not None:
            self._keeper.close()


SESSION = pytest.StashKey[Session]()

CANDIDATE = pytest.StashKey["Candidate"]()
"""See :mod:`.warm_start`."""


_RUNS_NO_TESTS = (
    *("help", "version", "collectonly", "markers", "cacheshow"),
    *("showfixtures", "show_fixtures_per_test"),
)
"""The options with which pytest shows something and runs no test."""


def runs_tests(options: object) -> bool:
    """Whether pytest runs tests with these options."""
    return not any(getattr(options, name, None) for name in _RUNS_NO_TESTS)


def is_early_start(config: pytest.Config) -> bool:
    """Whether the tunnel is to be opened before conftests are imported; for a configuration that
    has not imported them yet."""
    option = next(option for option in OPTIONS if option.name == "start")
    options = config.known_args_namespace
    value = (
        getattr(options, option.ini, None)
        or os.environ.get(option.variable)
        or config.getini(option.ini)
    )
    return value == "session" and runs_tests(options)


def used_tunnels_before(config: pytest.Config) -> bool:
    """Whether the last run of the same tests used tunnels that this run may open ahead; for a
    configuration that has no cache yet, and never for a worker of xdist, whose controller does
    it."""
    options = config.known_args_namespace
    if getattr(options, "cacheclear", False) or not runs_tests(options):
        return False
    # A worker is told so by its variable, and execnet starts it without a program; what one of its
    # tests starts inherits the variable alone.
    if "PYTEST_XDIST_WORKER" in os.environ and sys.argv[:1] == ["-c"]:
        return False
    try:
        folder = os.path.expandvars(os.path.expanduser(config.getini("cache_dir")))
        with open(os.path.join(config.rootpath, folder, "v", _USED), "rb") as file:
            return file.read(8) == b"true"
    except (OSError, ValueError):  # pytest's cache is off, or has nothing to say
        return False


def uses_tunnels(item: pytest.Item) -> bool:
    """Whether a test asks for one of our fixtures, itself or through others."""
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def _installed_providers(from_hooks: "Mapping[str, str]") -> list[str]:
    from .connectors.registry import known_names

    return known_names(from_hooks)
