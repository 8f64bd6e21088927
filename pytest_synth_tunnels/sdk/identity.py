"""The id by which a backend knows this machine, the same in every run. Standard library only."""

import functools
import os
import re
import secrets
from pathlib import Path

__all__ = ["client_instance_id"]

_VALID = re.compile(r"[\x21-\x7e]{8,200}")
_MAX_BYTES = 4096


def client_instance_id(home: Path | None = None) -> str:
    """Return this machine's id, shared with the published clients.

    Args:
        home: the home directory; the user's own by default.

    Returns:
        What ``~/.synth/client_instance_id`` holds, which is written if it holds nothing usable;
        where that cannot be done, an id for this process alone, which begins with ``session-``.
    """
    try:
        path = (home or Path.home()) / ".synth" / "client_instance_id"
        return _read(path) or _write(path)
    except (OSError, RuntimeError):  # a RuntimeError if there is no home
        return _session_id()


@functools.cache
def _session_id() -> str:
    return f"session-{secrets.token_hex(16)}"


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    return text if _VALID.fullmatch(text) else None


def _write(path: Path) -> str:
    """Write a new id, all at once; of several writers at once the first one wins."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    created = f"client-{secrets.token_hex(16)}"
    try:
        draft.write_text(f"{created}\n", encoding="ascii")
        if path.exists():  # and unusable
            draft.replace(path)
        else:
            os.link(draft, path)
    except FileExistsError:
        return _read(path) or _session_id()
    finally:
        draft.unlink(missing_ok=True)
    return created
