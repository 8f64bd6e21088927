"""The directory of a run: where its processes find their keeper.

Standard library only, since the pytest process imports it. It stays a real directory whatever a
test patches, and in its place whatever a test does to HOME, TMPDIR or the working directory: its
path is fixed early, and :mod:`..._unpatched` has the functions that touch it.

One process of the run *claims* the right to start a candidate, by a directory in it. If the
candidate ends before it listens, the claim is renamed to *failed*, so that no process waits for
it or starts another.
"""

import errno
import os
import stat
from contextlib import suppress

from ..._unpatched import unpatched

__all__ = ["RunDirectory", "RunDirectoryError"]

_MAX_SOCKET_PATH_BYTES = 100
"""AF_UNIX paths end at 104 bytes on macOS and 108 on Linux."""

_SPACE_BYTES = 16_384
"""More than a keeper that starts writes into its run file and its log."""


class RunDirectoryError(OSError):
    """The run directory cannot be used; the message says which and why."""


class RunDirectory:
    """A directory of one run, 0700, under the user's runtime or temporary directory.

    Attributes:
        path: the directory.
        socket: where the keeper listens.
        run_file: who the keeper is and its secret; it exists from the moment it listens.
        lock: what decides which candidate is the keeper.
        log: the keeper's log, and its last words.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = f"{path}/s"
        self.run_file = f"{path}/keeper.json"
        self.lock = f"{path}/keeper.lock"
        self.log = f"{path}/keeper.log"
        self._claim = f"{path}/claim"
        self._failed = f"{path}/failed"

    def create(self) -> None:
        """Make the directory, or check the one that is there.

        Raises:
            RunDirectoryError: it cannot be made, it is not ours alone, or its path is too long.
        """
        if unpatched.is_posix and len(os.fsencode(self.socket)) > _MAX_SOCKET_PATH_BYTES:
            raise RunDirectoryError(
                f"the path of the run directory {self.path} is too long for a socket in it (over "
                f"{_MAX_SOCKET_PATH_BYTES} bytes). Set XDG_RUNTIME_DIR or TMPDIR to a shorter path"
            )
        # The parent goes when the last of this user's runs ends, perhaps between our two steps.
        for _ in range(10):
            self._make_private(self.path.rpartition("/")[0])
            try:
                self._make_private(self.path)
            except FileNotFoundError:
                continue
            return
        raise RunDirectoryError(
            f"the run directory {self.path} was removed again and again while it was made"
        )

    def _make_private(self, path: str) -> None:
        try:
            unpatched.mkdir(path, 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            if path == self.path:
                raise
            raise RunDirectoryError(f"cannot make {path}: its parent does not exist") from None
        except OSError as error:
            raise RunDirectoryError(
                f"cannot make {path}: {error.strerror}. Set XDG_RUNTIME_DIR or TMPDIR to a "
                "directory that you can write to"
            ) from None
        if unpatched.is_posix:
            _check_private(path)

    def claim(self) -> bool:
        """Take the right to start a candidate; true for one process of the run."""
        if self.has_failed():
            return False
        try:
            unpatched.mkdir(self._claim, 0o700)
        except FileExistsError:
            return False
        return True

    def is_claimed(self) -> bool:
        """Whether any process of this run has started a candidate."""
        return _exists(self._claim) or self.has_failed()

    def has_failed(self) -> bool:
        """Whether no candidate could be started, or it ended before it could listen."""
        return _exists(self._failed)

    def mark_failed(self) -> None:
        """Let all processes of the run know that there will be no keeper.

        The claim is renamed, which works on a full disk too.
        """
        with suppress(OSError):
            unpatched.rename(self._claim, self._failed)

    def check_space(self) -> None:
        """See whether the keeper could write its files here.

        Raises:
            RunDirectoryError: it could not, and why.
        """
        probe = f"{self.path}/probe"
        try:
            fd = unpatched.open(probe, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                if unpatched.write(fd, bytes(_SPACE_BYTES)) < _SPACE_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                unpatched.close(fd)
                unpatched.unlink(probe)
        except OSError as error:
            raise RunDirectoryError(
                f"nothing can be written to the run directory {self.path}: {error.strerror}. Make "
                "room there, or set XDG_RUNTIME_DIR or TMPDIR to a directory on another disk"
            ) from None

    def read(self, path: str, size_bytes: int = 65_536) -> bytes | None:
        """Return the last ``size_bytes`` of a file of this directory; ``None`` without it."""
        try:
            fd = unpatched.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            data = b""
            while chunk := unpatched.read(fd, 65_536):
                data = (data + chunk)[-size_bytes:]
            return data
        finally:
            unpatched.close(fd)

    def last_log_lines(self, count: int = 5) -> list[str]:
        """Return the end of the keeper's log."""
        text = (self.read(self.log) or b"").decode("utf-8", "replace")
        return text.splitlines()[-count:]

    def remove(self) -> None:
        """Remove the directory and what is in it; and its parent, if this was the last run."""
        try:
            for name in unpatched.listdir(self.path):
                entry = f"{self.path}/{name}"
                is_directory = stat.S_ISDIR(unpatched.lstat(entry).st_mode)
                (unpatched.rmdir if is_directory else unpatched.unlink)(entry)
            unpatched.rmdir(self.path)
            unpatched.rmdir(self.path.rpartition("/")[0])
        except OSError:
            # Gone already, or another run of this user still has its directory beside ours.
            pass


def _exists(path: str) -> bool:
    try:
        unpatched.lstat(path)
    except OSError:
        return False
    return True


def _check_private(path: str) -> None:
    found = unpatched.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        problem = "is not a directory"
    elif found.st_uid != unpatched.getuid():
        problem = f"belongs to user {found.st_uid}"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        problem = f"is open to others (mode {stat.S_IMODE(found.st_mode):o})"
    else:
        return
    if found.st_uid == unpatched.getuid():
        hint = "Remove it and run again"
    else:  # in a sticky directory nobody but its owner can remove it
        hint = "Set XDG_RUNTIME_DIR or TMPDIR to a directory of your own"
    raise RunDirectoryError(f"refusing to use {path}: it {problem}. {hint}")
