"""What the user reads: the header, the terminal summary, and reports without secrets."""

import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from ._version import __version__
from .redact import redact

if TYPE_CHECKING:
    import warnings

    from .keeper.ipc.messages import Report
    from .settings import Settings
    from .traffic.har import HarRecord

__all__ = [
    "TRAFFIC_SECTION",
    "Redaction",
    "add_har",
    "add_section",
    "clean",
    "header",
    "summarize",
]

_SECTION = "synth tunnels"
TRAFFIC_SECTION = "synth tunnel traffic"

_SHOWN = ("longrepr", "sections", "user_properties", "wasxfail", "msg", "kwargs", "extras")
"""The attributes of reports, and of what they belong to, that are written somewhere."""


def header(settings: "Settings") -> str:
    """Return the line for pytest's header: the backend, and what is not as by default."""
    backend = settings.backend_url or "embedded"
    changed = [
        f"{name}={getattr(settings, name)} ({source})"
        for name, source in settings.sources.items()
        if name != "backend"
    ]
    return ", ".join([f"synth tunnels: {backend} backend", *changed])


def add_section(report: pytest.TestReport, lines: list[str], title: str = _SECTION) -> None:
    """Add to a test's report what happened to its tunnels, or what came, if anything did.

    Args:
        report: of the test.
        lines: what to tell.
        title: of the section.
    """
    if lines:
        report.sections.append((title, "\n".join(lines)))


def add_har(report: pytest.TestReport, records: "Sequence[HarRecord]") -> None:
    """Add to a test's report, for pytest-html, what came as a HAR file, if anything did.

    Args:
        report: of the test.
        records: what came, oldest first, masked.
    """
    if not records:
        return
    from .traffic.har import har_log

    # Loaded already, if its page is wanted; it has no types.
    extras: Any = import_module("pytest_html.extras")
    content = har_log(records, version=__version__, comment=report.nodeid, run_id="")
    link = extras.json(content, name=f"{TRAFFIC_SECTION} (HAR)")
    known = getattr(report, "extras", [])
    object.__setattr__(report, "extras", [*known, {**link, "extension": "har"}])


def summarize(
    terminal: "pytest.TerminalReporter",
    trouble: list[str],
    report: "Report | None",
    secrets: set[str],
) -> None:
    """Write what a user must know after the run; nothing if all went well and nobody asks.

    Args:
        terminal: where to write.
        trouble: a line for each thing that went wrong.
        report: what the run did, if it used tunnels and this process owned it.
        secrets: what no line may show.
    """
    lines = list(trouble)
    if report is not None and terminal.config.get_verbosity() > 0:
        lines.append(f"{report.created} created, {report.released} released")
    if lines:
        terminal.section(_SECTION)
        for line in redact(lines, secrets):
            terminal.line(line)


class Redaction:
    """A plugin of the runs that use tunnels: it takes secrets out of all that others write.

    Args:
        config: of pytest; its log handlers are told to leave secrets out.
        secrets: returns the secrets, more of them as the run goes on.
    """

    def __init__(self, config: pytest.Config, secrets: Callable[[], set[str]]) -> None:
        self._secrets = secrets
        logs = config.pluginmanager.get_plugin("logging-plugin")
        for name in ("log_file_handler", "log_cli_handler"):
            handler = getattr(logs, name, None)
            if isinstance(handler, logging.Handler):
                handler.setFormatter(_Formatter(handler.formatter, secrets))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Clean a report again: its makers may have added to it, as subtests do."""
        clean(report, self._secrets())

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: "warnings.WarningMessage") -> None:
        """Clean a warning before the summary lists it, such as one that has the traceback of a
        thread."""
        warning = warning_message.message
        if isinstance(warning, Warning):
            warning.args = redact(warning.args, self._secrets())


class _Formatter(logging.Formatter):
    """Formats as another does. The records stay as they are, for ``caplog``."""

    def __init__(self, inner: logging.Formatter | None, secrets: Callable[[], set[str]]) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        text: str = redact(self._inner.format(record), self._secrets())
        return text


def clean(report: pytest.TestReport, secrets: set[str]) -> None:
    """Take secrets out of all that a report says."""
    # A subtest is named by what it was given.
    for owner in (report, getattr(report, "context", None)):
        for name in _SHOWN:
            # Most reports say nothing, and there are six of them for each test.
            if said := getattr(owner, name, None):
                object.__setattr__(owner, name, redact(said, secrets))
