"""Starts a process that may become a run's keeper, whatever the tests have patched.

The process is not a child of the pytest process for long: it forks at once, and the first process
is reaped here, so that neither a user's ``os.wait()`` nor a handler of SIGCHLD ever sees it. It has
a session of its own, so that Ctrl-C does not reach it. It inherits no standard stream (an xdist
worker's stdout is execnet's channel). What it is to do comes through a pipe, its keys too; nothing
of that is ever in its arguments.

Theory of operation. A candidate is *starting* from :meth:`Candidate.start` on: it imports the
keeper, which takes most of the time that a keeper needs to start, and waits for what to do. It is
*told* once, by :meth:`Candidate.tell`, for which run it stands as keeper; or *dismissed*, by
:meth:`Candidate.dismiss` or by the end of the process that started it, and then ends as soon as its
imports are done, within a moment.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from json import dumps
from typing import Any, Protocol

from ..._unpatched import unpatched
from ...environment import allowed_environment

__all__ = ["EMBEDDED_BACKEND", "Candidate", "no_signal_of_its_end", "pause"]

EMBEDDED_BACKEND = "pytest_synth_tunnels.backend.server"
"""What the keeper of a run with the embedded backend imports besides."""

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
ahead = json.loads(sys.stdin.buffer.readline())
sys.path[:] = ahead["sys_path"]
failure = None
try:
    from pytest_synth_tunnels.keeper.process.main import main
    for name in ahead["modules"]:
        __import__(name)
except Exception as error:
    failure = error
# What is imported stays, so that there is nothing to collect among it, now or later.
gc.freeze()
gc.enable()
told = sys.stdin.buffer.read()
if not told:
    os._exit(0)
config = json.loads(told)
sys.path[:] = config.pop("sys_path")
os.environ.update(config.pop("keeper_environ"))
log = os.open(config["run_dir"] + "/keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.dup2(log, 2)
os.close(log)
try:
    if failure is not None:
        raise failure
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


class _Process(Protocol):
    """The candidate's process, as the system has it."""

    def feed(self, data: bytes) -> bool:
        """Write to it; say whether it has taken that."""

    def close(self) -> None:
        """Let it see that nothing more comes."""

    def reap(self) -> int:
        """Have it be no child of this process any more, and return its exit status."""


class Candidate:
    """A process that may become the keeper of a run. Made by :meth:`start`."""

    def __init__(self, process: _Process) -> None:
        self._process = process
        self._is_reaped = False

    @classmethod
    def start(
        cls, environ: Mapping[str, str], sys_path: Sequence[str], modules: Sequence[str] = ()
    ) -> "Candidate":
        """Start one, and do not wait for it.

        Until it is reaped it is a child of this process: :func:`no_signal_of_its_end`.

        Args:
            environ: the environment, of which it gets what a keeper may always see.
            sys_path: where it finds this package and what it needs.
            modules: what it is to import besides, while it waits.

        Raises:
            OSError: no process can be started.
        """
        environment = allowed_environment(environ)
        start = _PosixProcess if unpatched.is_posix else _WindowsProcess
        process: _Process = start(environment)
        process.feed(dumps({"sys_path": list(sys_path), "modules": list(modules)}).encode() + b"\n")
        return cls(process)

    def tell(self, config: Mapping[str, Any]) -> bool:
        """Tell it for which run it stands as keeper; say whether it was there to hear that.

        Args:
            config: see :func:`.main.main`; besides, ``sys_path``, and as ``keeper_environ`` what
                is added to its environment.

        Raises:
            OSError: the interpreter could not run.
        """
        try:
            is_heard = self._process.feed(dumps(config).encode())
        finally:
            self._process.close()
            self.reap()
        return is_heard

    def dismiss(self) -> None:
        """Have it end, unless it has been told."""
        self._process.close()
        with suppress(OSError):  # it has ended, which is what is wanted
            self.reap()

    def reap(self) -> None:
        """Wait until it is no child of this process any more. Harmless if that is done.

        Raises:
            OSError: the interpreter could not run.
        """
        if self._is_reaped:
            return
        self._is_reaped = True
        status = self._process.reap()
        if status:
            raise OSError(f"{unpatched.executable} ended at once, with status {status}")


class _PosixProcess:
    """A process that is started by ``posix_spawn`` and fed through a pipe."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        reader, self._writer = unpatched.pipe()
        try:
            self._pid = unpatched.posix_spawn(
                unpatched.executable,
                [unpatched.executable, "-I", "-c", _BOOTSTRAP],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reader, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ],
                setsid=True,
                # Otherwise the keeper would inherit what a test has set.
                setsigmask=[],
                setsigdef=[signal.SIGCHLD],
            )
        except BaseException:
            unpatched.close(self._writer)
            raise
        finally:
            unpatched.close(reader)
        unpatched.set_blocking(self._writer, False)

    def feed(self, data: bytes) -> bool:
        # The pipe takes 64 KiB at once, the rest as the candidate reads.
        writable = unpatched.poll()
        writable.register(self._writer, select.POLLOUT)
        while data:
            if not writable.poll(_REAP_TIMEOUT_MS):
                return False  # it hangs
            try:
                data = data[unpatched.write(self._writer, data) :]
            except BrokenPipeError:
                return False  # it has ended
        return True

    def close(self) -> None:
        writer, self._writer = self._writer, -1
        if writer != -1:
            unpatched.close(writer)

    def reap(self) -> int:
        for _ in range(_REAP_TIMEOUT_MS):
            try:
                pid, status = unpatched.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                return 0  # SIGCHLD is ignored here, or a waiting loop of the user's was faster
            if pid:
                return os.waitstatus_to_exitcode(status)
            pause(1)
        return 0


class _WindowsProcess:
    """A process that is nobody's child there."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = unpatched.popen(
            [unpatched.executable, "-I", "-c", _BOOTSTRAP],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "DETACHED_PROCESS", 0)
            | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    def feed(self, data: bytes) -> bool:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            return False  # it has ended
        return True

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def reap(self) -> int:
        # The process goes on by itself; without this Popen would warn that nobody waited for it.
        self._process.returncode = 0
        return 0


def pause(timeout_ms: int) -> None:
    """Wait in the kernel: a test may have frozen Python's clocks and replaced ``sleep``."""
    unpatched.select([], [], [], timeout_ms / 1000)


@contextmanager
def no_signal_of_its_end() -> Iterator[None]:
    """Keep the signal of a candidate's first process, which is started and reaped meanwhile, from
    a test's handler, which would wait for it."""
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
