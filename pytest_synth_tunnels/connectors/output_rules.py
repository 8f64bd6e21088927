"""The lines by which a program tells how it fares, and what follows from them. No I/O."""

import enum
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Outcome", "OutputRule", "OutputState"]

_STAMP: Final = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z?\s+(?:[A-Z]{3}\s+)?")
"""Time and level, which say nothing to whoever reads an error."""
_MAX_ERROR: Final = 300


class Outcome(enum.Enum):
    """What a line means."""

    NOTHING = "nothing, whatever words are in it"
    UP = "a connection is there"
    LOST = "a connection is gone, or was not had; the program itself tries again"
    FAILED = "as LOST, and the line says why"
    REFUSED = "as FAILED, and if there has been no connection yet, there will be none"
    OVER = "as FAILED, and trying again cannot help"


@dataclass(frozen=True, slots=True)
class OutputRule:
    """A line of a program that means something.

    Attributes:
        kind: what it means.
        pattern: a regular expression that is searched in the line, whatever its case. A group
            ``link`` names the connection, if the program has several; a group ``origin`` is the
            public origin.
        hint: what people can do about it.
        times: how often it must be seen, with no connection in between, to mean that; before, it
            is FAILED.
    """

    kind: Outcome
    pattern: str
    hint: str = ""
    times: int = 1


class OutputState:
    """What a program's lines amount to.

    Args:
        signs: the first one that matches a line counts.
        needs_origin: a connection counts only once the public origin is known.

    Attributes:
        origin: the public origin, once a line has named it.
        error: why there is no connection, as far as that is known.
        told: the last line that told of a failure, of the program that runs or ran last.
        hint: what to do about it.
        is_over: the program cannot be of use any more.
        was_connected: there has been a connection at some time.
    """

    def __init__(self, signs: Iterable[OutputRule], *, needs_origin: bool = False) -> None:
        self.origin: str | None = None
        self.error = ""
        self.told = ""
        self.hint = ""
        self.is_over = False
        self.was_connected = False
        self._signs: Sequence[tuple[OutputRule, re.Pattern[str]]] = [
            (sign, re.compile(sign.pattern, re.IGNORECASE)) for sign in signs
        ]
        self._needs_origin = needs_origin
        self._links: set[str] = set()
        self._seen: Counter[OutputRule] = Counter()
        """How often, since there was a connection."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return bool(self._links) and (self.origin is not None or not self._needs_origin)

    def take(self, line: str) -> None:
        """Read a line. Once it is over, what follows from that changes nothing."""
        if self.is_over:
            return
        for sign, pattern in self._signs:
            found = pattern.search(line)
            if found is not None:
                groups = found.groupdict()
                self.origin = (groups.get("origin") or self.origin or "").rstrip("/") or None
                self._apply(sign, groups.get("link") or "", _STAMP.sub("", line)[:_MAX_ERROR])
                return

    def started(self) -> None:
        """Take it that the program runs, for the first time or again."""
        self.told = ""

    def ended(self, error: str) -> None:
        """Take it that the program has ended; a failure that it told of itself explains more."""
        self._links.clear()
        self.origin = None
        self.error = f"{error}: {self.told}" if self.told else error
        if not self.was_connected:
            self.is_over = True

    def _apply(self, sign: OutputRule, link: str, line: str) -> None:
        if sign.kind is Outcome.UP:
            self._links.add(link)
            self._seen.clear()
        elif sign.kind is not Outcome.NOTHING:
            self._fail(sign, link, line)
            return
        if self.connected:
            self.was_connected = True
            self.error = self.hint = self.told = ""

    def _fail(self, sign: OutputRule, link: str, line: str) -> None:
        self._links.discard(link)
        if sign.kind is not Outcome.LOST:
            self.error = self.told = line
            self.hint = sign.hint
        elif not self.told:
            self.error = line
        self._seen[sign] += 1
        final = sign.kind is Outcome.OVER or (
            sign.kind is Outcome.REFUSED and not self.was_connected
        )
        # As long as another connection is there, it is of use.
        if final and self._seen[sign] >= sign.times and not self.connected:
            self.is_over = True
