"""How many connections a process may have."""

from contextlib import suppress
from typing import Final

__all__ = ["allow_many_files"]

_FILES: Final = 8192


def allow_many_files() -> None:
    """Raise the process's own limit as far as the system lets it, and as far as it is needed.

    A request under way has a caller's connection and one to the app. Many systems begin with 1024
    files, or 256, which is less than the 1024 requests that one lease may have.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        return
    with suppress(OSError, ValueError):  # a system that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
