"""pytest's terminal as a screen, by a reporter that notes what it is told."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels.pytest_screen import PytestScreen


class Reporter:
    """A terminal reporter whose dots are on an unfinished line."""

    isatty = True

    def __init__(self, world: "World") -> None:
        self._world = world
        self._tw = SimpleNamespace(fullwidth=80, width_of_current_line=3)

    def ensure_newline(self) -> None:
        self._world.note("ensure_newline")

    def write(self, text: str, *, flush: bool = False) -> None:
        self._world.note(text)
        self._tw.width_of_current_line = 0

    def rewrite(self, text: str, *, erase: bool) -> None:
        self._world.note(f"rewrite {text}")

    def write_line(self, text: str) -> None:
        self._world.note(f"line {text}")

    def flush(self) -> None:
        self._world.note("flush")


class World:
    """The plugins of a run, and what was written while nothing was captured."""

    def __init__(self, *, has_reporter: bool = True, has_capture: bool = True) -> None:
        self.written: list[str] = []
        self.is_captured = has_capture
        capture = SimpleNamespace(global_and_fixture_disabled=self._uncaptured)
        plugins = {
            "terminalreporter": Reporter(self) if has_reporter else None,
            "capturemanager": capture if has_capture else None,
        }
        self.config: Any = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=plugins.get))

    @contextmanager
    def _uncaptured(self) -> Iterator[None]:
        self.is_captured = False
        yield
        self.is_captured = True

    def note(self, text: str) -> None:
        assert not self.is_captured
        self.written.append(text)


@pytest.mark.parametrize("has_capture", [True, False])
def test_it_writes_past_the_capture(has_capture: bool) -> None:
    world = World(has_capture=has_capture)
    screen = PytestScreen(world.config, None)

    assert (screen.is_terminal, screen.columns) == (True, 80)
    screen.begin()
    screen.begin()
    screen.rewrite("waiting")
    screen.end()
    screen.line("waited")

    assert world.written == [
        *("ensure_newline", "\n", "ensure_newline"),
        *("rewrite waiting", "flush", "\n", "line waited", "flush"),
    ]


def test_before_there_is_a_reporter() -> None:
    stream = io.StringIO()
    screen = PytestScreen(World(has_reporter=False).config, stream)

    assert not screen.is_terminal
    screen.begin()
    screen.rewrite("waiting")
    screen.end()
    screen.line("waited")

    assert stream.getvalue() == "\rwaiting\x1b[K\nwaited\n"


def test_without_a_reporter_nothing_is_written() -> None:
    screen = PytestScreen(World(has_reporter=False).config, None)

    assert not screen.is_terminal
    screen.begin()
    screen.rewrite("waiting")
    screen.end()
    screen.line("waited")
