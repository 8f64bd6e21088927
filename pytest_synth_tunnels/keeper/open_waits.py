"""What the processes of a run wait for, told through files of the run directory.

A wait of more than two seconds is shown by the process that has the terminal. Under pytest-xdist
that is the controller, which waits for nothing itself and holds no connection to the keeper, so
that files tell it. A run whose waits are all short writes none. A file is renewed twice a second,
and one that is older was left by a process that has died. The keeper tells what its clients
wait for; a process tells what it waits for in itself, such as an app that it serves.

Standard library only, since the pytest process imports it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from json import dumps, loads
from typing import NamedTuple, Protocol

from .._unpatched import unpatched
from .process.run_directory import RunDirectory

__all__ = ["SHOWN_AFTER_S", "OpenWait", "OpenWaits", "read_waits", "write_waits"]

SHOWN_AFTER_S = 2.0
"""A wait that takes no longer is not told."""

_REWRITE_S = 0.5
_NAME = "waits"
"""How the names of the files begin."""

_MAX_FILE_BYTES = 65_536
_VALID_S = 5.0
"""How long a file counts."""


class OpenWait(NamedTuple):
    """Something that is waited for.

    Attributes:
        what: the end of a sentence, without secrets: ``the connector of ngrok``.
        since_s: when the wait began, by :func:`time.monotonic`, which all processes of a machine
            share.
    """

    what: str
    since_s: float


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Have it not come."""


class OpenWaits:
    """The waits of a process that has an event loop, and their file.

    Args:
        directory: of the run; ``None`` to tell nobody.
        call_later: calls a function on the event loop after some seconds.
        now: seconds, by :func:`time.monotonic`.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        *,
        call_later: Callable[[float, Callable[[], None]], Timer],
        now: Callable[[], float] = unpatched.monotonic,
    ) -> None:
        self._directory = directory
        self._call_later = call_later
        self._now = now
        self._open: dict[object, tuple[Callable[[], str], float]] = {}
        """What is waited for, and since when; each by an object of its own."""
        self._has_told = False
        """Whether there is a file."""
        self._timer: Timer | None = None

    @contextmanager
    def waiting(self, describe: Callable[[], str]) -> Iterator[None]:
        """Tell of a wait, if it takes longer than two seconds, until the end of the block.

        Args:
            describe: returns what is waited for, as in :class:`OpenWait`; it may change.
        """
        key = object()
        self._open[key] = describe, self._now()
        if self._timer is None and self._directory is not None:
            self._timer = self._call_later(SHOWN_AFTER_S, self._tell)
        try:
            yield
        finally:
            del self._open[key]
            if self._has_told or not self._open:
                self._tell()

    def _tell(self) -> None:
        """Write what has been waited for long enough, and come again while anything is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._directory is None:
            return
        now_s = self._now()
        began_by_s = now_s - SHOWN_AFTER_S
        first: dict[str, float] = {}
        for describe, since_s in self._open.values():
            if since_s <= began_by_s:
                # Several processes may wait for the same.
                first.setdefault(describe(), since_s)
        waits = [OpenWait(what, since_s) for what, since_s in first.items()]
        if waits or self._has_told:
            write_waits(self._directory, "", waits, now_s)
            self._has_told = bool(waits)
        if self._open:
            self._timer = self._call_later(_REWRITE_S, self._tell)


def write_waits(directory: RunDirectory, address: str, waits: list[OpenWait], now_s: float) -> None:
    """Tell what a process waits for; it does without where nothing can be written.

    Args:
        directory: of the run.
        address: of the process (``gw1``); empty for the keeper.
        waits: all of it; none removes the file.
        now_s: the time, by :func:`time.monotonic`.
    """
    path = f"{directory.path}/{_NAME}-{address}"
    with suppress(OSError):
        if not waits:
            unpatched.unlink(path)
            return
        unfinished = f"{directory.path}/.{_NAME}-{address}"
        fd = unpatched.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            unpatched.write(fd, dumps({"told_s": now_s, "waits": waits}).encode())
        finally:
            unpatched.close(fd)
        unpatched.rename(unfinished, path)


def read_waits(directory: RunDirectory, now_s: float) -> list[OpenWait]:
    """Return what the processes of a run wait for, the longest wait first.

    Args:
        directory: of the run.
        now_s: the time, by :func:`time.monotonic`.
    """
    found: list[OpenWait] = []
    try:
        names = unpatched.listdir(directory.path)
    except OSError:
        return found
    for name in names:
        if name.startswith(f"{_NAME}-"):
            data = directory.read(f"{directory.path}/{name}", _MAX_FILE_BYTES)
            with suppress(ValueError, TypeError, KeyError):  # it is gone, or cut off on a full disk
                content = loads(data or b"")
                if now_s - content["told_s"] < _VALID_S:
                    found += [OpenWait(str(what), float(s)) for what, s in content["waits"]]
    return sorted(found, key=lambda wait: wait.since_s)
