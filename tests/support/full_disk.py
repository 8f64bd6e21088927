"""A file system without room."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def full_file_system(path: Path) -> Iterator[Path]:
    """Mount a small file system at ``path`` and fill it; directories can still be made there.

    Skips the test where this process may not mount.
    """
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount")
    try:
        with open(path / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass  # full
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        os.rmdir(path)
