"""The page with a run's traffic (``--synth-tunnels-report``)."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ._version import __version__
from .redact import redact
from .traffic.har import HarRecord, har_log
from .traffic.page import page

__all__ = ["write_report"]


def write_report(path: Path, records: Sequence[HarRecord], secrets: set[str]) -> None:
    """Write the page.

    Args:
        path: the file; folders on the way to it are made.
        records: what came in the run, oldest first, masked.
        secrets: the run's own, which are taken out wherever they stand.

    Raises:
        OSError: it cannot be written.
    """
    number = "1 request" if len(records) == 1 else f"{len(records)} requests"
    title = f"{number}, written {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"
    rows = [
        {
            "request": record.request.to_data(),
            "test": record.test,
            "worker": record.worker,
            "late": record.is_late,
        }
        for record in records
    ]
    har = har_log(records, version=__version__, comment=title, run_id="")
    text = page(title, redact(rows, secrets), redact(har, secrets))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
