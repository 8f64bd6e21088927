"""Processes that are started, looked at through ``/proc``, and stopped whatever happens."""

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = [
    "BenchmarkError",
    "Process",
    "Processes",
    "busy_share",
    "cpu_s",
    "memory_kib",
    "poll",
    "reset_peak",
]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOP_TIMEOUT_S = 5.0
_LINE_TIMEOUT_S = 30.0


class BenchmarkError(Exception):
    """One measurement cannot be made; the message says why."""


class Process:
    """A process in a group of its own, which ends with it.

    Args:
        command: program and arguments.
        env: its environment.
        cwd: where it runs.
        polite: it ends by itself when its stdin does, and gets the time for that.
    """

    def __init__(
        self,
        command: Iterable[str | Path],
        *,
        env: dict[str, str] | None = None,
        cwd: str = "/",
        polite: bool = False,
    ) -> None:
        self._polite = polite
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self.command = [str(word) for word in command]
        self._popen = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        assert self._popen.stdout is not None
        self._stdout = self._popen.stdout.fileno()
        self._said = b""
        """What came on stdout behind the last line that was read."""
        self.pid = self._popen.pid

    def line(self, wanted: Callable[[bytes], bool] = lambda _: True) -> bytes:
        """Return the first line on stdout that is wanted.

        Raises:
            BenchmarkError: it does not come in time.
        """
        name = Path(self.command[0]).name
        ends_at = time.monotonic() + _LINE_TIMEOUT_S
        while True:
            line, end, rest = self._said.partition(b"\n")
            if end:
                self._said = rest
                if wanted(line):
                    return line
                continue
            if not select.select([self._stdout], [], [], max(0, ends_at - time.monotonic()))[0]:
                raise BenchmarkError(f"{name} said nothing for {_LINE_TIMEOUT_S:g} s")
            piece = os.read(self._stdout, 65536)
            if not piece:
                said = f"{self._said.decode(errors='replace')} {self.tail()}".strip()
                raise BenchmarkError(f"{name} ended early: {said}")
            self._said += piece

    def json_line(self) -> Any:
        """Return the first line on stdout that is a JSON object."""
        return json.loads(self.line(lambda line: line.startswith(b"{")))

    def tell(self, value: Any) -> None:
        """Write a value to stdin as a line of JSON."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(value).encode() + b"\n")
        self._popen.stdin.flush()

    def tail(self) -> str:
        """Return the end of stderr."""
        self._log.seek(max(0, os.fstat(self._log.fileno()).st_size - 600))
        return self._log.read().decode(errors="replace").strip() or "it said nothing"

    def stop(self) -> None:
        """End the group: politely, by SIGTERM, and else by SIGKILL."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with suppress(OSError):  # it is gone already
            self._popen.stdin.close()
        try:
            if not (self._polite and self._ended()):
                self._signal(signal.SIGTERM)
                self._ended()
        finally:
            self._signal(signal.SIGKILL)
            self._popen.wait()
            self._popen.stdout.close()
            self._log.close()

    def _ended(self) -> bool:
        try:
            self._popen.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Processes:
    """Started processes; a context manager that stops all of them, the last one first."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    def start(
        self,
        *command: str | Path,
        env: dict[str, str] | None = None,
        cwd: str = "/",
        polite: bool = False,
    ) -> Process:
        """Start a process (see :class:`Process`)."""
        process = Process(command, env=env, cwd=cwd, polite=polite)
        self._started.append(process)
        return process

    def stop(self, process: Process) -> None:
        """Stop one of them now."""
        if process in self._started:
            process.stop()
            self._started.remove(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._started:
            # Kept in the list until it is stopped, so that a second Ctrl-C loses none.
            self._started[-1].stop()
            self._started.pop()


def with_descendants(pids: Iterable[int]) -> list[int]:
    """Return the processes and all that they started."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    todo = list(pids)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, ())
    return found


def cpu_s(pids: Iterable[int]) -> tuple[float, float]:
    """Return the CPU time that the processes and their children have used, and the kernel's part
    of it."""
    user = kernel = 0
    for pid in with_descendants(pids):
        fields = _stat(pid)
        if fields:
            user += int(fields[11])
            kernel += int(fields[12])
    return (user + kernel) / _TICKS_PER_S, kernel / _TICKS_PER_S


def busy_share(duration_s: float = 2.0) -> float:
    """Return the part of all processors' time that is used now, by whomever."""

    def used_and_all() -> tuple[int, int]:
        # user, nice, system, idle, iowait, irq, softirq, steal
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(fields) - fields[3] - fields[4], sum(fields)

    used, total = used_and_all()
    time.sleep(duration_s)
    used_later, total_later = used_and_all()
    return (used_later - used) / max(total_later - total, 1)


def memory_kib(pid: int, field: str = "VmRSS") -> int:
    """Return a figure of ``/proc/PID/status``: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise BenchmarkError(f"process {pid} has ended")


def reset_peak(pid: int) -> None:
    """Let ``VmHWM`` begin again at what is used now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def poll(condition: Callable[[], Any], what: str, timeout_s: float, pause_s: float = 0.002) -> Any:
    """Return the first truth that a condition gives.

    Raises:
        BenchmarkError: it gave none in time.
    """
    ends_at = time.monotonic() + timeout_s
    while time.monotonic() < ends_at:
        found = condition()
        if found:
            return found
        time.sleep(pause_s)
    raise BenchmarkError(f"{what} within {timeout_s:g} s")


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` behind the name; the first is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
