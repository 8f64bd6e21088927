"""Where this user's run directories lie. Every pytest process imports it, and so it is small."""

import os
import tempfile
from collections.abc import Iterator, Mapping

from ._unpatched import unpatched

__all__ = ["runtime_base"]

_MAX_BASE_BYTES = 80
"""AF_UNIX paths end at 104 bytes on macOS, and the run's own part of it has 19."""
_SUFFIXES = tuple(f"-{number}" for number in range(2, 10))
"""For the name of a place that another user has taken."""


def runtime_base(environ: Mapping[str, str]) -> str:
    """Return where this user's run directories lie, fixed before a test changes TMPDIR.

    That is the first usable place: one that can be written to, leaves room for the path of a
    socket, and is not another user's.
    """
    name = f"synth-tunnels-{unpatched.getuid()}" if os.name == "posix" else "synth-tunnels"
    for folder in _runtime_folders(environ):
        if not os.access(folder, os.W_OK):
            continue
        for suffix in ("", *_SUFFIXES):
            base = f"{folder}/{name}{suffix}"
            if len(os.fsencode(base)) <= _MAX_BASE_BYTES and _is_ours_or_free(base):
                return base
    return f"{tempfile.gettempdir()}/{name}"  # RunDirectory says what is wrong with it


def _runtime_folders(environ: Mapping[str, str]) -> Iterator[str]:
    folder = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(folder):
        yield folder
    yield tempfile.gettempdir()
    if os.name == "posix":
        yield from ("/tmp", "/var/tmp")  # noqa: S108 - a private directory is made there


def _is_ours_or_free(path: str) -> bool:
    if os.name != "posix":
        return True
    try:
        return unpatched.lstat(path).st_uid == unpatched.getuid()
    except OSError:
        return True
