"""How a long wait looks to the person who waits.

On a terminal it is one line, which is rewritten as time passes; in a log it is one line each ten
seconds. Nothing is said of a wait that takes no longer than two seconds.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TextIO

from ._unpatched import unpatched
from .keeper.open_waits import SHOWN_AFTER_S, OpenWait

__all__ = ["Screen", "StreamScreen", "WaitDisplay"]

_NEXT_LINE_AFTER_S: Final = 10.0
_CLEAR_TO_END: Final = "\x1b[K"


class Screen(Protocol):
    """Where lines are written."""

    @property
    def is_terminal(self) -> bool:
        """Whether a line can be rewritten."""

    @property
    def columns(self) -> int:
        """How many characters a line of a terminal has."""

    def begin(self) -> None:
        """Come to the beginning of a line."""

    def rewrite(self, text: str) -> None:
        """Replace the line on which the cursor is, and stay on it."""

    def end(self) -> None:
        """Go to the next line."""

    def line(self, text: str) -> None:
        """Write a line of its own."""


class StreamScreen:
    """A screen on a text stream that nobody else writes to meanwhile.

    Args:
        stream: a terminal or a file.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def is_terminal(self) -> bool:
        """Whether the stream is one."""
        return self._stream.isatty()

    @property
    def columns(self) -> int:
        """The terminal's own width."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            return shutil.get_terminal_size().columns

    def begin(self) -> None:
        """Stay: whatever is written here ends with its line."""

    def rewrite(self, text: str) -> None:
        """Replace the line."""
        self._write(f"\r{text}{_CLEAR_TO_END}")

    def end(self) -> None:
        """Go to the next line."""
        self._write("\n")

    def line(self, text: str) -> None:
        """Write a line."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class WaitDisplay:
    """Shows what is waited for.

    Theory of operation. A *showing* begins with the first :meth:`show` of a wait that is long
    enough and ends with :meth:`end`, or with a :meth:`show` of nothing. Within it, on a terminal,
    a line is *open* while the cursor stays on it; :meth:`pause` closes it for somebody else's
    output, and another one is opened no sooner than ten seconds after the last was.

    Args:
        screen: where to.
        prefix: how each line begins.
        now: seconds, by :func:`time.monotonic`.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        prefix: str = "",
        now: Callable[[], float] = unpatched.monotonic,
    ) -> None:
        self._screen = screen
        self._prefix = prefix
        self._now = now
        self._said = ""
        """What is waited for and how long, as it was shown last; empty between two showings."""
        self._is_open = False
        self._line_began_s = 0.0
        """When the last line was begun, within a showing."""

    def show(self, waits: Sequence[OpenWait]) -> None:
        """Show what is waited for now; nothing ends the showing."""
        now_s = self._now()
        parts = [
            f"{int(now_s - wait.since_s)} s for {wait.what}"
            for wait in waits
            if now_s - wait.since_s > SHOWN_AFTER_S
        ]
        if not parts:
            self.end()
            return
        was_said, self._said = self._said, " and ".join(parts)
        is_due = not was_said or now_s - self._line_began_s >= _NEXT_LINE_AFTER_S
        if self._is_open:
            if self._said != was_said:
                self._screen.rewrite(self._text("waiting"))
        elif is_due:
            self._line_began_s = now_s
            self._screen.begin()
            if self._screen.is_terminal:
                self._is_open = True
                self._screen.rewrite(self._text("waiting"))
            else:
                self._screen.line(self._text("waiting"))

    def pause(self) -> None:
        """Leave the line, because something else is about to be written."""
        if self._is_open:
            self._is_open = False
            self._screen.end()

    def end(self) -> None:
        """Nothing is waited for any more."""
        if self._is_open:
            self._screen.rewrite(self._text("waited"))
        self.pause()
        self._said = ""

    def _text(self, verb: str) -> str:
        text = f"{self._prefix}{verb} {self._said}"
        # A line that wraps could not be rewritten.
        return text[: self._screen.columns - 1] if self._screen.is_terminal else text
