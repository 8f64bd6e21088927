"""What this user's keeper processes owe to hosted backends: a line for each open lease.

A lease of a hosted backend is written down as soon as the backend has made it and crossed out
when it is released. What a killed keeper left can so be closed later, by the next keeper for the
same backend and key or by hand, and nothing else: a line is *stale* only if its keeper's lock can
be taken, which the kernel frees when the keeper dies. No token is ever written, and with the
embedded backend nothing is, because its leases die with it.
"""

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Final

from filelock import FileLock, Timeout

from ..process.run_directory import RunDirectory

__all__ = [
    "Entry",
    "HostIdentity",
    "KeeperLiveness",
    "Ledger",
    "hash_key",
    "liveness_of",
    "remove_traces",
    "state_folder",
]

_LOCK_TIMEOUT_S: Final = 5.0


def hash_key(api_key: str) -> str:
    """Return what tells two API keys apart and reveals neither."""
    return hashlib.sha256(f"synth-tunnels:{api_key}".encode()).hexdigest()[:12]


def state_folder(environ: Mapping[str, str]) -> str:
    """Return the folder for what outlives a run, which may not exist yet."""
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        base = environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        base = environ.get("XDG_STATE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.join(home, ".local", "state")
    return os.path.join(base, "synth-tunnels")


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """Where a path names the same file and a lock means the same process.

    Attributes:
        host: the machine's name.
        boot: which of its boots, and which of its mount namespaces: containers often share both
            name and kernel, and yet not their temporary directories.
    """

    host: str
    boot: str

    @classmethod
    def here(cls) -> "HostIdentity":
        """Return where this process runs."""
        boot = ""
        with suppress(OSError):
            with open("/proc/sys/kernel/random/boot_id") as file:
                boot = file.read().strip()
            boot += "/" + os.readlink("/proc/self/ns/mnt")
        return cls(socket.gethostname(), boot)


@dataclass(frozen=True, slots=True)
class Entry:
    """An open lease, and whose it is.

    Attributes:
        backend_url: the backend that made it.
        key_hash: which API key it was made with, as :func:`hash_key` says.
        lease_id: the lease.
        provider: how its traffic comes, which decides how it is released.
        host: the machine of its keeper.
        boot: see :class:`HostIdentity`.
        lock: the path of its keeper's lock.
        created_at: when it was made, in unix seconds.
        expires_at: when it ends by itself, in unix seconds.
    """

    backend_url: str
    key_hash: str
    lease_id: str
    provider: str
    host: str
    boot: str
    lock: str
    created_at: float
    expires_at: float


class KeeperLiveness(StrEnum):
    """What can be said of an entry's keeper from here."""

    LIVE = "live"
    STALE = "stale"
    UNKNOWN = "unknown"
    """The keeper ran on another machine, before a reboot or in another container."""


class Ledger:
    """The ledger of one user. All calls block for up to five seconds: not for an event loop.

    Args:
        folder: see :func:`state_folder`.
        now: unix seconds.
    """

    def __init__(self, folder: str, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "leases.jsonl")
        self._now = now

    def add(self, entry: Entry) -> None:
        """Write a lease down.

        Raises:
            OSError: the folder cannot be written to, or another process keeps the ledger locked.
        """
        with self._locked():
            self._write([*self._read(), entry])

    def remove(self, lease_ids: Iterable[str]) -> None:
        """Cross leases out; unknown ones do not matter.

        Raises:
            OSError: as in :meth:`add`.
        """
        if not os.path.exists(self._path):
            return
        done = set(lease_ids)
        with self._locked():
            self._write([entry for entry in self._read() if entry.lease_id not in done])

    def entries(self) -> list[Entry]:
        """Return all leases that have not expired by themselves, oldest first.

        Raises:
            OSError: the ledger exists and cannot be read.
        """
        return self._read()

    def stale(self, backend_url: str, key_hash: str, place: HostIdentity) -> list[Entry]:
        """Return what dead keepers left at a backend, as far as that is certain.

        Raises:
            OSError: the ledger exists and cannot be read.
        """
        return [
            entry
            for entry in self._read()
            if (entry.backend_url, entry.key_hash) == (backend_url, key_hash)
            and liveness_of(entry, place) is KeeperLiveness.STALE
        ]

    def _locked(self) -> FileLock:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        return FileLock(f"{self._path}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o600)

    def _read(self) -> list[Entry]:
        try:
            with open(self._path, encoding="utf-8") as file:
                entries = [_parse(line) for line in file]
        except FileNotFoundError:
            return []
        now = self._now()
        return [entry for entry in entries if entry is not None and entry.expires_at > now]

    def _write(self, entries: list[Entry]) -> None:
        """Replace the file as a whole: a crash leaves the old one or the new one."""
        if not entries:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        temporary = f"{self._path}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, self._path)


def _parse(line: str) -> Entry | None:
    """Read a line; what another version or an accident wrote is nobody's."""
    try:
        body = json.loads(line)
        values = {f.name: f.type(body[f.name]) for f in fields(Entry)}  # type: ignore[operator]
    except (ValueError, TypeError, KeyError):
        return None
    return Entry(**values)


def liveness_of(entry: Entry, place: HostIdentity) -> KeeperLiveness:
    """Return whether an entry's keeper lives.

    Args:
        entry: the lease.
        place: where this process runs.
    """
    if (entry.host, entry.boot) != (place.host, place.boot):
        return KeeperLiveness.UNKNOWN
    if not os.path.exists(entry.lock):
        # A keeper removes its lock last; so it ended, or somebody swept up after its death.
        return KeeperLiveness.STALE
    lock = FileLock(entry.lock, timeout=0)
    try:
        with lock:
            return KeeperLiveness.STALE
    except Timeout:
        return KeeperLiveness.LIVE
    except OSError:
        return KeeperLiveness.UNKNOWN


def remove_traces(entry: Entry) -> None:
    """Remove the run directory that a stale entry's keeper left, if it did."""
    folder, name = os.path.split(entry.lock)
    directory = RunDirectory(folder)
    if os.path.basename(directory.lock) == name and os.path.isfile(entry.lock):
        directory.remove()
