"""Starts a candidate keeper from a pytest process, whatever the tests have patched.

The candidate is not a child of the pytest process: it forks at once, and the first process is
reaped here, so that neither a user's ``os.wait()`` nor a handler of SIGCHLD ever sees it. It has a
session of its own, so that Ctrl-C does not reach it. It inherits no standard stream (an xdist
worker's stdout is execnet's channel). Its configuration comes through a pipe and its keys by the
environment; neither is ever in its arguments.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import dumps
from typing import Any

from ..._unpatched import unpatched
from ...environment import allowed_environment
from ...options import API_KEY_VARIABLE, BACKEND_URL_VARIABLE
from ...settings import Settings
from .run_directory import RunDirectory

__all__ = ["Run", "launch", "pause"]

_REAP_TIMEOUT_MS = 10_000

# The first statements run before anything is imported: the sooner the parent is reaped, the less
# the user's suite waits for it.
_BOOTSTRAP = """\
import os, sys
if hasattr(os, "fork"):
    if os.fork():
        os._exit(0)
    os.closerange(3, 4096)
import gc, json
gc.disable()
config = json.loads(sys.stdin.buffer.read())
sys.path[:] = config.pop("sys_path")
try:
    from pytest_synth_tunnels.keeper.process.main import main
    # What is imported stays, so that there is nothing to collect among it, now or later.
    gc.freeze()
    gc.enable()
    main(config)
    # Nothing is left to do: taking the interpreter apart would only let the process live longer.
    sys.stderr.flush()
    os._exit(0)
except Exception:
    import traceback
    traceback.print_exc()
    os.rename(config["run_dir"] + "/claim", config["run_dir"] + "/failed")
    sys.exit(1)
"""


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


def process_start(pid: int) -> str | None:
    """Return the start time of a process as the kernel writes it (Linux), else ``None``."""
    stat = RunDirectory(f"/proc/{pid}").read(f"/proc/{pid}/stat")
    # The second field is the program's name, in brackets, and may hold anything.
    return stat.rpartition(b")")[2].split()[19].decode() if stat else None


def launch(run: Run) -> None:
    """Start a candidate, and return as soon as it is no child of this process.

    Raises:
        OSError: no process can be started, or it could not write its files.
    """
    try:
        run.directory.check_space()
        _launch(run)
    except BaseException:
        run.directory.mark_failed()
        raise


def _launch(run: Run) -> None:
    config: dict[str, Any] = {
        "run_dir": run.directory.path,
        "run_id": run.run_id,
        "owner_pid": run.owner_pid,
        "owner_start": process_start(run.owner_pid),
        "settings": run.settings.to_json(),
        "environ": {k: v for k, v in run.environ.items() if k != API_KEY_VARIABLE},
        "cwd": run.cwd,
        "sys_path": run.sys_path,
    }
    start = _spawn if unpatched.is_posix else _spawn_windows
    with _no_signal_of_its_end():
        start(run, dumps(config).encode())


def keeper_environment(run: Run) -> dict[str, str]:
    """Return the environment of the keeper: an allow-list, and what ``pass_env`` names."""
    also = set(run.settings.pass_env)
    if run.settings.backend_url is not None:
        also |= {API_KEY_VARIABLE, BACKEND_URL_VARIABLE}
    return allowed_environment(run.environ, also)


def pause(timeout_ms: int) -> None:
    """Wait in the kernel: a test may have frozen Python's clocks and replaced ``sleep``."""
    unpatched.select([], [], [], timeout_ms / 1000)


@contextmanager
def _no_signal_of_its_end() -> Iterator[None]:
    """Keep the signal of the first process's end from a test's handler, which would wait for it."""
    if sys.platform != "linux" or not callable(unpatched.getsignal(signal.SIGCHLD)):
        yield
        return
    before = unpatched.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        yield
        if signal.SIGCHLD not in before and unpatched.sigtimedwait([signal.SIGCHLD], 0):
            _signal_other_ends()
    finally:
        unpatched.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_other_ends() -> None:
    """Signal again if a child of the test has ended meanwhile: two signals may become one."""
    if sys.platform == "linux":
        try:
            if unpatched.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                unpatched.kill(unpatched.getpid(), signal.SIGCHLD)
        except ChildProcessError:
            pass  # there is none


def _spawn(run: Run, config: bytes) -> None:
    reader, writer = unpatched.pipe()
    try:
        pid = unpatched.posix_spawn(
            unpatched.executable,
            [unpatched.executable, "-I", "-c", _BOOTSTRAP],
            keeper_environment(run),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, reader, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (
                    os.POSIX_SPAWN_OPEN,
                    2,
                    run.directory.log,
                    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
                    0o600,
                ),
            ],
            setsid=True,
            # Otherwise the keeper would inherit what a test has set.
            setsigmask=[],
            setsigdef=[signal.SIGCHLD],
        )
        unpatched.close(reader)
        reader = -1
        _feed(writer, config)
    finally:
        unpatched.close(writer)
        if reader != -1:
            unpatched.close(reader)
    _reap(pid)


def _feed(writer: int, config: bytes) -> None:
    """Write the configuration; the pipe takes 64 KiB at once, the rest as the candidate reads."""
    unpatched.set_blocking(writer, False)
    writable = unpatched.poll()
    writable.register(writer, select.POLLOUT)
    while config:
        if not writable.poll(_REAP_TIMEOUT_MS):
            return  # the candidate hangs; it will miss its configuration and fail
        try:
            config = config[unpatched.write(writer, config) :]
        except BrokenPipeError:
            return  # it died; its log says why


def _reap(pid: int) -> None:
    for _ in range(_REAP_TIMEOUT_MS):
        try:
            if unpatched.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return  # SIGCHLD is ignored here, or a waiting loop of the user's was faster
        pause(1)


def _spawn_windows(run: Run, config: bytes) -> None:
    log = unpatched.open(run.directory.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = unpatched.popen(
            [unpatched.executable, "-I", "-c", _BOOTSTRAP],
            env=keeper_environment(run),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            creationflags=getattr(subprocess, "DETACHED_PROCESS", 0)
            | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    finally:
        unpatched.close(log)
    if process.stdin is not None:
        process.stdin.write(config)
        process.stdin.close()
    # The process goes on by itself; without this Popen would warn that nobody waited for it.
    process.returncode = 0
