"""What the user reads: the header, the terminal summary, and reports without secrets."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from .keeper.client import KeeperError
from .session import Session

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["complete", "header", "redact", "summarize"]

_SECTION = "synth tunnels"
_MASK = "***"


def header(settings: "Settings") -> str:
    """Return the line for pytest's header: the backend, and what is not as by default."""
    backend = settings.backend_url or "embedded"
    changed = [
        f"{name}={getattr(settings, name)} ({source})"
        for name, source in settings.sources.items()
        if name != "backend"
    ]
    return ", ".join([f"synth tunnels: {backend} backend", *changed])


def complete(report: pytest.TestReport, session: Session) -> None:
    """Add to a test's report what happened to its tunnel, and take secrets out of it."""
    if report.when == "call":
        try:
            lines = [event.message for event in session.check()]
        except KeeperError as error:
            lines = [str(error)]
        if lines:
            report.sections.append((_SECTION, "\n".join(lines)))
    secrets = session.keeper.secrets
    if secrets:
        report.sections = redact(report.sections, secrets)
        report.longrepr = redact(report.longrepr, secrets)


def summarize(terminal: "pytest.TerminalReporter", session: Session) -> None:
    """Write what a user must know after the run; nothing if all went well and nobody asks."""
    lines = list(session.trouble)
    if session.report is not None and terminal.config.get_verbosity() > 0:
        lines.append(f"{session.report.created} created, {session.report.released} released")
    if lines:
        terminal.section(_SECTION)
        for line in lines:
            terminal.line(line)


def redact(value: Any, secrets: Iterable[str]) -> Any:
    """Return ``value`` with every secret masked, in its strings and in the objects it is made of.

    Args:
        value: a part of a test report: text, a collection, or one of pytest's ``repr`` objects.
        secrets: the tokens and keys that this process has seen.
    """
    known = [secret for secret in secrets if secret]
    return _Redactor(known).clean(value) if known else value


class _Redactor:
    def __init__(self, secrets: list[str]) -> None:
        self._secrets = secrets
        self._seen: set[int] = set()

    def clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, _MASK)
            return value
        if isinstance(value, list | tuple):
            return type(value)(self.clean(item) for item in value)
        if type(value).__module__.startswith("_pytest.") and id(value) not in self._seen:
            self._seen.add(id(value))
            for name, part in vars(value).items():
                # pytest's repr objects are frozen dataclasses in some versions.
                object.__setattr__(value, name, self.clean(part))
        return value
