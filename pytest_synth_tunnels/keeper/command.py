"""The app that ``synth_tunnels_command`` names: started once, watched, and ended with the run."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from .failures import FailureError
from .ports import HOST, accepts, is_taken

__all__ = ["Command", "Tail"]

CODE: Final = "COMMAND_FAILED"
_POLL_S: Final = 0.05
_SHOWN_LINES: Final = 12

_GUARD: Final = 'read _; kill -9 -"$1"'
"""A shell that waits for the end of its input, which is the end of the keeper, however that
comes; then it ends the command's group. A keeper that is killed thus leaves no app behind."""


class Tail:
    """The end of what a process printed, bounded.

    Args:
        max_bytes: how much of it is kept.
    """

    def __init__(self, max_bytes: int = 16_384) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take more output."""
        self._data += data
        del self._data[: -self._max_bytes]

    def lines(self, count: int = _SHOWN_LINES) -> list[str]:
        """Return the last lines."""
        return self._data.decode("utf-8", "replace").splitlines()[-count:]

    def quoted(self) -> str:
        """Return the last lines for an error message."""
        lines = self.lines()
        return "its last lines:\n  " + "\n  ".join(lines) if lines else "it printed nothing"


class _Protocol(asyncio.SubprocessProtocol):
    """Callbacks of the process. The process's end does not wait for its pipe's, which a child
    of the command may keep open."""

    def __init__(self, tail: Tail, exited: asyncio.Event) -> None:
        self._tail = tail
        self._exited = exited

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._tail.feed(data)

    def process_exited(self) -> None:
        self._exited.set()


class Command:
    """The command of a run, which serves one port for all its processes.

    Args:
        template: the command; ``{port}`` stands for the port. No shell reads it.
        port: the port that it is to serve on 127.0.0.1.
        environ: its environment.
        cwd: its working directory.
        timeout_s: how long it may take until the port accepts, in seconds.
        died: called with a message if it ends by itself after it was up.
    """

    def __init__(
        self,
        template: str,
        *,
        port: int,
        environ: Mapping[str, str],
        cwd: str,
        timeout_s: float,
        died: Callable[[str], None],
    ) -> None:
        self._template = template
        self._port = port
        self._environ = dict(environ)
        self._cwd = cwd
        self._timeout_s = timeout_s
        self._died = died
        self._tail = Tail()
        self._exited = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until its port accepts.

        Raises:
            FailureError: the port is in use, the command cannot be started, ended, or took too
                long; nothing of it runs then.
        """
        if is_taken(self._port):
            raise FailureError(
                CODE,
                f"port {self._port} is in use already, so synth_tunnels_command was not started",
                "Stop what listens there, or set synth_tunnels_port to another port",
            )
        await self._spawn()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._wait_until_up()
        except TimeoutError:
            await self.stop()
            raise FailureError(
                CODE,
                f"synth_tunnels_command did not listen on {HOST}:{self._port} within "
                f"{self._timeout_s:g} s; {self._tail.quoted()}",
                "Does it serve {port}? Set synth_tunnels_command_timeout_s for a slow start",
            ) from None
        except BaseException:
            await self.stop()
            raise
        self._watcher = asyncio.create_task(self._watch())

    def _arguments(self) -> list[str]:
        try:
            words = shlex.split(self._template, posix=sys.platform != "win32")
        except ValueError as error:
            raise FailureError(CODE, f"synth_tunnels_command cannot be read: {error}") from None
        return [word.replace("{port}", str(self._port)) for word in words]

    async def _spawn(self) -> None:
        arguments = self._arguments()
        own_group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        try:
            self._transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Protocol(self._tail, self._exited),
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd=self._cwd,
                **own_group,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise FailureError(
                CODE,
                f"synth_tunnels_command cannot be started: {arguments[0]!r}: {reason}",
                f"It was looked for in the PATH of pytest and runs in {self._cwd}",
            ) from None
        if os.name == "posix":
            self._guard = subprocess.Popen(  # noqa: ASYNC220, S603 - a millisecond; all our own
                ["/bin/sh", "-c", _GUARD, "sh", str(self._transport.get_pid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
            )

    async def _wait_until_up(self) -> None:
        while not await accepts(HOST, self._port, 1.0):
            if self._exited.is_set():
                raise FailureError(
                    CODE,
                    f"synth_tunnels_command ended ({self._status()}) before it listened on "
                    f"{HOST}:{self._port}; {self._tail.quoted()}",
                )
            await asyncio.sleep(_POLL_S)

    async def _watch(self) -> None:
        await self._exited.wait()
        self._died(f"synth_tunnels_command ended ({self._status()}); {self._tail.quoted()}")

    def _status(self) -> str:
        code = self._transport.get_returncode() if self._transport else None
        if code is not None and code < 0:
            try:
                return signal.Signals(-code).name
            except ValueError:
                return f"signal {-code}"
        return f"exit status {code}"

    async def stop(self, grace_s: float = 3.0) -> None:
        """End it and everything it started: asked first, and killed ``grace_s`` seconds later."""
        if self._watcher is not None:
            self._watcher.cancel()
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._signal(transport, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._exited.wait()
                while self._signal(transport, 0):  # noqa: ASYNC110 - a group tells nobody
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            pass
        # What ignored it, and what a command that ended left behind.
        self._signal(transport, getattr(signal, "SIGKILL", signal.SIGTERM))
        transport.close()
        self._end_guard()

    def _signal(self, transport: asyncio.SubprocessTransport, number: int) -> bool:
        """Signal the whole group; return whether there is any of it."""
        try:
            if os.name == "posix":
                os.killpg(transport.get_pid(), number)
            elif number and not self._exited.is_set():
                transport.terminate()
        except (ProcessLookupError, PermissionError):
            return False
        return os.name == "posix"

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()
