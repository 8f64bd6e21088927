"""When a process started, which tells it from a later one that has its id."""

from .run_directory import RunDirectory

__all__ = ["process_start"]


def process_start(pid: int) -> str | None:
    """Return the start time of a process as the kernel writes it (Linux), else ``None``."""
    stat = RunDirectory(f"/proc/{pid}").read(f"/proc/{pid}/stat")
    # The second field is the program's name, in brackets, and may hold anything.
    return stat.rpartition(b")")[2].split()[19].decode() if stat else None
