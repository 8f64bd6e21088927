"""A child process of the keeper that ends with it, however the keeper ends.

It has a process group of its own, so that what it starts ends with it. Where there are no groups
(Windows) stopping ends the process itself, and the keeper's death ends what it has started too.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

__all__ = ["Child", "Tail"]

_POLL_S: Final = 0.05
_DRAIN_S: Final = 0.5
"""How long to wait for the last lines of a process, which may arrive after the news of its end."""
_KILL_S: Final = 2.0
"""How long to wait for the news that a killed process has ended."""
_MAX_RAW_BYTES: Final = 8_192
_MAX_SHOWN: Final = 1_000
_SHOWN_LINES: Final = 12

_UNPRINTABLE: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")

_GUARD: Final = ("/bin/sh", "-c", 'read _; kill -9 -"$1"', "sh")
"""A shell that waits for the end of its input, which is the end of the keeper, however that
comes; then it ends the child's group. A keeper that is killed thus leaves nothing behind."""
_WINDOWS_GUARD: Final = (
    sys.executable,
    "-I",
    "-c",
    "import subprocess as s, sys; sys.stdin.read(); s.run(['taskkill', '/T', '/F', *sys.argv[1:]])",
    "/PID",
)
"""A Python process that does the same on Windows: it ends the child and what that has started."""


class Tail:
    """The end of what a process printed, bounded, line by line.

    Args:
        secrets: what is masked, longest first.
        on_line: called with each whole line, masked.
        max_lines: how many lines are kept.
    """

    def __init__(
        self,
        secrets: Iterable[str] = (),
        on_line: Callable[[str], None] | None = None,
        max_lines: int = 100,
    ) -> None:
        self._secrets = tuple(secrets)
        self._on_line = on_line
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._rest = b""
        """The beginning of a line whose end has not come."""

    def feed(self, data: bytes) -> None:
        """Take more output."""
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_MAX_RAW_BYTES]
        for raw in whole:
            line = self._shown(raw)
            self._lines.append(line)
            if self._on_line is not None:
                self._on_line(line)

    def lines(self, count: int = _SHOWN_LINES) -> list[str]:
        """Return the last lines."""
        rest = [self._shown(self._rest)] if self._rest else []
        return [*self._lines, *rest][-count:]

    def quoted(self) -> str:
        """Return the last lines for an error message."""
        lines = self.lines()
        return "its last lines:\n  " + "\n  ".join(lines) if lines else "it printed nothing"

    def _shown(self, raw: bytes) -> str:
        # Masked before it is cut, lest the cut leave half a secret.
        line = raw[:_MAX_RAW_BYTES].decode("utf-8", "replace")
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return _UNPRINTABLE.sub("", line)[:_MAX_SHOWN]


class _Protocol(asyncio.SubprocessProtocol):
    def __init__(self, child: "Child") -> None:
        self._child = child

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._child.tail.feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._child.drained.set()

    def process_exited(self) -> None:
        # Without waiting for the end of its pipe, which a child of its own may keep open.
        self._child.has_exited()


class Child:
    """A process in a group of its own.

    Args:
        arguments: the program and its arguments. No shell reads them, but everybody on this
            machine can: no secrets.
        environ: its environment.
        cwd: its working directory; the keeper's unless given.
        stdin_data: what it reads on its standard input, which then stays open until the child is
            stopped or the keeper has ended; without it the child has no standard input.
        secrets: what is masked in its output.
        on_line: called with each line of it.

    Attributes:
        tail: the end of its output.
        exited: set when it has ended.
        drained: set when its output has ended.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str],
        cwd: str | None = None,
        stdin_data: bytes | None = None,
        secrets: Iterable[str] = (),
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.tail = Tail(secrets, on_line)
        self.exited = asyncio.Event()
        self.drained = asyncio.Event()
        self._arguments = arguments
        self._environ = dict(environ)
        self._cwd = cwd
        self._stdin_data = stdin_data
        self._transport: asyncio.SubprocessTransport | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._is_gone = False
        """Neither the child nor anything that it started exists any longer."""

    async def start(self) -> None:
        """Start it.

        Raises:
            OSError: there is no such program, or it cannot be run.
            ValueError: the arguments or the environment make no sense.
        """
        if any("\0" in argument for argument in self._arguments):
            # Not every event loop says so: uvloop's leaves out what follows.
            raise ValueError("embedded null byte")
        self._transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Protocol(self),
            *self._arguments,
            stdin=subprocess.DEVNULL if self._stdin_data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environ,
            cwd=self._cwd,
            # Where there are process groups, one of its own, which all that it starts belongs to.
            start_new_session=os.name == "posix",
        )
        if self.exited.is_set():  # the news of its end came before its number was known here
            self.has_exited()
        if not self._is_gone:
            try:
                self._guard = _guard(self.pid)
            except OSError:
                await self.stop(grace_s=0)
                raise
        if self._stdin_data is not None:
            pipe = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
            pipe.write(self._stdin_data)

    def has_exited(self) -> None:
        """Take the news of its end. If it left nothing behind, nothing is signalled from now on,
        because its process id may soon be that of a stranger."""
        self.exited.set()
        if self._transport is not None and not self._signal(self._transport, 0):
            self._is_gone = True
            self._end_guard()

    @property
    def pid(self) -> int:
        """The child's process id; 0 before it was started."""
        return self._transport.get_pid() if self._transport is not None else 0

    async def wait(self) -> str:
        """Wait for its end, and for what it printed last.

        Returns:
            How it ended: ``exit status 1``, or ``SIGKILL``.
        """
        await self.exited.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await self.drained.wait()
        return self.outcome()

    def outcome(self) -> str:
        """Return how it ended: ``exit status 1``, or ``SIGKILL``."""
        code = self._transport.get_returncode() if self._transport is not None else None
        if code is not None and code < 0:
            try:
                return signal.Signals(-code).name
            except ValueError:
                return f"signal {-code}"
        return f"exit status {code}"

    async def stop(self, grace_s: float = 3.0) -> None:
        """End it and everything it started: asked first, and killed ``grace_s`` seconds later."""
        transport = self._transport
        if transport is None or self._stopping:
            return
        self._stopping = True
        try:
            self._signal(transport, signal.SIGTERM)
            async with asyncio.timeout(grace_s):
                await self.exited.wait()
                while self._signal(transport, 0):  # noqa: ASYNC110 - a group tells nobody
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            pass
        finally:
            # For processes that ignored SIGTERM, and for what an ended one left behind.
            self._signal(transport, getattr(signal, "SIGKILL", signal.SIGTERM))
            self._end_guard()
            await self._close(transport)

    async def _close(self, transport: asyncio.SubprocessTransport) -> None:
        # Only after its end: closing reaps the process, and would take its exit status from
        # those who wait for it.
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KILL_S):
                    await self.exited.wait()
        finally:
            transport.close()

    def _signal(self, transport: asyncio.SubprocessTransport, number: int) -> bool:
        """Signal the whole group; return whether there is any of it."""
        if self._is_gone:
            return False
        try:
            if sys.platform != "win32":
                os.killpg(transport.get_pid(), number)
                return True
            if number and not self.exited.is_set():
                transport.terminate()
        except (ProcessLookupError, PermissionError):
            pass
        return False

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()


def _guard(pid: int) -> "subprocess.Popen[bytes]":
    """Start a guard for a group of processes. In a group of its own, lest it be killed with the
    keeper's."""
    windows = os.name != "posix"
    own_group: dict[str, Any] = {} if windows else {"process_group": 0}
    return subprocess.Popen(  # noqa: S603 - all our own
        [*(_WINDOWS_GUARD if windows else _GUARD), str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Windows finds its own parts by these.
        env={name: os.environ[name] for name in ("SYSTEMROOT", "PATH") if name in os.environ},
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        **own_group,
    )
