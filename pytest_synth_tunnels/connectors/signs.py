"""The lines by which a program tells how it fares, and what follows from them. No I/O."""

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Kind", "Reading", "Sign"]

_STAMP: Final = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z?\s+(?:[A-Z]{3}\s+)?")
"""Time and level, which say nothing to whoever reads an error."""
_MAX_ERROR: Final = 300


class Kind(enum.Enum):
    """What a line means."""

    UP = "a connection is there"
    DOWN = "a connection is gone or was not had; the program itself tries again"
    REFUSED = "turned away: OVER if there has been no connection yet, else DOWN"
    OVER = "trying again cannot help"


@dataclass(frozen=True, slots=True)
class Sign:
    """A line of a program that means something.

    Attributes:
        kind: what it means.
        pattern: a regular expression that is searched in the line, whatever its case. A group
            ``link`` names the connection, if the program has several; a group ``origin`` is the
            public origin.
        hint: what people can do about it.
    """

    kind: Kind
    pattern: str
    hint: str = ""


class Reading:
    """What a program's lines amount to.

    Args:
        signs: the first one that matches a line counts.
        needs_origin: a connection counts only once the public origin is known.

    Attributes:
        origin: the public origin, once a line has named it.
        error: the last line that told of a failure, until there is a connection again.
        hint: what to do about it.
        is_over: the program cannot be of use any more.
        was_connected: there has been a connection at some time.
    """

    def __init__(self, signs: Iterable[Sign], *, needs_origin: bool = False) -> None:
        self.origin: str | None = None
        self.error = ""
        self.hint = ""
        self.is_over = False
        self.was_connected = False
        self._signs: Sequence[tuple[Sign, re.Pattern[str]]] = [
            (sign, re.compile(sign.pattern, re.IGNORECASE)) for sign in signs
        ]
        self._needs_origin = needs_origin
        self._links: set[str] = set()
        self._told = ""
        """The last failure of which the program told, since it runs."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return bool(self._links) and (self.origin is not None or not self._needs_origin)

    def take(self, line: str) -> bool:
        """Read a line; return whether it means anything."""
        for sign, pattern in self._signs:
            found = pattern.search(line)
            if found is not None:
                groups = found.groupdict()
                self._origin(groups.get("origin"))
                self._apply(sign, groups.get("link") or "", line)
                return True
        return False

    def started(self) -> None:
        """Take it that the program runs, for the first time or again."""
        self._told = ""

    def ended(self, error: str) -> None:
        """Take it that the program has ended; a failure that it told of itself explains more."""
        self._links.clear()
        self.origin = None
        self.error = f"{error}: {self._told}" if self._told else error
        if not self.was_connected:
            self.is_over = True

    def _origin(self, origin: str | None) -> None:
        if origin:
            self.origin = origin.rstrip("/")

    def _apply(self, sign: Sign, link: str, line: str) -> None:
        if sign.kind is Kind.UP:
            self._links.add(link)
            if self.connected:
                self.was_connected = True
                self.error = self.hint = self._told = ""
            return
        self._links.discard(link)
        self.error = self._told = _STAMP.sub("", line)[:_MAX_ERROR]
        self.hint = sign.hint
        if sign.kind is Kind.OVER or (sign.kind is Kind.REFUSED and not self.was_connected):
            self._links.clear()
            self.is_over = True
