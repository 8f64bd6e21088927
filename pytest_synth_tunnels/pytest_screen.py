"""pytest's terminal as a screen for waits, also while pytest captures what tests print."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from .wait_display import StreamScreen

if TYPE_CHECKING:
    import pytest

__all__ = ["PytestScreen"]


class PytestScreen:
    """Writes through pytest's own reporter, so that the reporter knows where its line is.

    Args:
        config: of pytest.
        early: written to before there is a reporter; ``None`` to write nothing then.
    """

    def __init__(self, config: "pytest.Config", early: TextIO | None) -> None:
        self._plugins = config.pluginmanager
        self._early = None if early is None else StreamScreen(early)

    @property
    def is_terminal(self) -> bool:
        """Whether a line can be rewritten."""
        reporter = self._reporter
        if reporter is not None:
            return bool(reporter.isatty)
        return self._early is not None and self._early.is_terminal

    @property
    def columns(self) -> int:
        """How many characters a line has, as far as pytest knows."""
        reporter = self._reporter
        if reporter is not None:
            return int(reporter._tw.fullwidth)
        return 0 if self._early is None else self._early.columns

    @property
    def _reporter(self) -> Any:
        return self._plugins.get_plugin("terminalreporter")

    def begin(self) -> None:
        """Leave the line of dots, or of a test's name, if the cursor is on one."""
        with self._uncaptured() as reporter:
            if reporter is not None:
                reporter.ensure_newline()
                # The reporter of a run with workers does not note its dots.
                if reporter._tw.width_of_current_line:
                    reporter.write("\n", flush=True)

    def rewrite(self, text: str) -> None:
        """Replace the line on which the cursor is."""
        with self._uncaptured() as reporter:
            if reporter is not None:
                reporter.rewrite(text, erase=True)
                reporter.flush()
            elif self._early is not None:
                self._early.rewrite(text)

    def end(self) -> None:
        """Go to the next line."""
        with self._uncaptured() as reporter:
            if reporter is not None:
                reporter.write("\n", flush=True)
            elif self._early is not None:
                self._early.end()

    def line(self, text: str) -> None:
        """Write a line of its own."""
        with self._uncaptured() as reporter:
            if reporter is not None:
                reporter.write_line(text)
                reporter.flush()
            elif self._early is not None:
                self._early.line(text)

    @contextmanager
    def _uncaptured(self) -> Iterator[Any]:
        """Return the reporter, if there is one, while nothing is captured."""
        capture = self._plugins.get_plugin("capturemanager")
        if capture is None:
            yield self._reporter
            return
        with capture.global_and_fixture_disabled():
            yield self._reporter
