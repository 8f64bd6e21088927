"""HAR files of a run: one for each test that something came for."""

import json
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ._version import __version__
from .traffic.har import HarRecord, har_log

__all__ = ["HarFiles"]

_MARK: Final = '{"log": {"version": "1.2", "creator": {"name": "pytest-synth-tunnels",'
"""How each file begins that this plugin wrote."""

_RUN: Final = re.compile(r'"_synthRun": "([^"]+)"')
_MARK_CHARACTERS: Final = 512
"""How much of a file is read to see whose it is."""

_MAX_NAME: Final = 120
_UNSAFE: Final = re.compile(r"[^\w.-]+")


class HarFiles:
    """The HAR files of one run, in a folder that earlier runs and other programs use as well.

    A file carries its run's id. What an earlier run has left is removed; the files of a run that is
    still going on, and all that this plugin did not write, stay.

    Args:
        folder: where the files are; it is made with the first one.
        run_path: the run's directory, which is there as long as the run goes on. Those of other
            runs lie beside it.
        redact: takes the run's own secrets out of what is written.
    """

    def __init__(
        self, folder: Path, run_path: Path, redact: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self._folder = folder
        self._redact = redact
        self._runs = run_path.parent
        self._run_id = run_path.name

    def remove_old(self) -> None:
        """Remove what earlier runs wrote.

        Raises:
            OSError: a file cannot be read or removed.
        """
        for path in self._folder.glob("*.har"):
            run_id = _run_of(path)
            if run_id is not None and run_id != self._run_id and not self._is_going_on(run_id):
                path.unlink(missing_ok=True)

    def write(self, test: str, worker: str, records: Iterable[HarRecord]) -> Path | None:
        """Write the file of a test; a second one for the same test replaces the first.

        Args:
            test: the test's id.
            worker: the xdist worker that ran it; empty for none.
            records: what came for it, oldest first, masked.

        Returns:
            The file, or ``None`` if nothing came.

        Raises:
            OSError: it cannot be written.
        """
        found = list(records)
        if not found:
            return None
        content = har_log(found, version=__version__, comment=test, run_id=self._run_id)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path_for(test, worker)
        # A program that reads the folder meanwhile finds a whole file, or none.
        unfinished = path.with_name(f".{path.name}.{self._run_id}")
        unfinished.write_text(json.dumps(self._redact(content), ensure_ascii=False), "utf-8")
        unfinished.replace(path)
        return path

    def _path_for(self, test: str, worker: str) -> Path:
        """Return a path that says which test it is of, and that is no other run's."""
        name = _UNSAFE.sub("-", test.replace("::", "--")).strip("-.")[-_MAX_NAME:]
        digest = sha256(f"{test} {worker}".encode()).hexdigest()[:8]
        stem = "-".join(part for part in (name, worker, digest) if part)
        path = self._folder / f"{stem}.har"
        if path.exists() and _run_of(path) != self._run_id:
            path = self._folder / f"{stem}-{self._run_id}.har"
        return path

    def _is_going_on(self, run_id: str) -> bool:
        return (self._runs / Path(run_id).name).exists()


def _run_of(path: Path) -> str | None:
    """Return the run that wrote a file; ``None`` where this plugin did not write it, or where it
    is gone."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(_MARK_CHARACTERS)
    except FileNotFoundError:
        return None
    run = _RUN.search(start)
    return run[1] if start.startswith(_MARK) and run is not None else None
