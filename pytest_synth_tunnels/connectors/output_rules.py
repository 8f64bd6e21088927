"""The lines by which a program tells its state, and what follows from them. No I/O.

:class:`OutputState` reads a program's lines. It is *connected* while at least one of the program's
connections (links) is up and, where that is needed, the public origin is known. Three methods move
it: ``take`` (a line), ``started`` and ``ended`` (the process). It becomes *over* when a line says
that trying again cannot help, or when the program ends without ever having been connected; it
stays over, and no later line changes it.
"""

import enum
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Outcome", "OutputRule", "OutputState"]

_STAMP: Final = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z?\s+(?:[A-Z]{3}\s+)?")
"""Time and level, which do not help the reader of an error."""
_MAX_ERROR: Final = 300


class Outcome(enum.Enum):
    """What a line means."""

    NOTHING = "nothing, whatever words are in it"
    UP = "a connection is up"
    LOST = "a connection was lost or could not be made; the program itself tries again"
    FAILED = "as LOST, and the line says why"
    REFUSED = "as FAILED; without an earlier connection it means that there will be none"
    OVER = "as FAILED, and trying again cannot help"


@dataclass(frozen=True, slots=True)
class OutputRule:
    """A line of a program that means something.

    Attributes:
        outcome: what it means.
        pattern: a regular expression that is searched in the line, whatever its case. A group
            ``link`` names the connection, if the program has several; a group ``origin`` is the
            public origin.
        hint: what people can do about it.
        times: how often it must be seen, with no connection in between, to mean that; before, it
            is FAILED.
    """

    outcome: Outcome
    pattern: str
    hint: str = ""
    times: int = 1


class OutputState:
    """What a program's lines amount to.

    Args:
        rules: the first one that matches a line counts.
        needs_origin: a connection counts only once the public origin is known.

    Attributes:
        origin: the public origin, once a line has named it.
        error: why there is no connection, as far as that is known.
        told: the last failure that the program itself reported, if it reported one since its
            last start.
        hint: what to do about the failure.
        is_over: the program will not be of use again.
        was_connected: there has been a connection at some time.
    """

    def __init__(self, rules: Iterable[OutputRule], *, needs_origin: bool = False) -> None:
        self.origin: str | None = None
        self.error = ""
        self.told = ""
        self.hint = ""
        self.is_over = False
        self.was_connected = False
        self._rules: Sequence[tuple[OutputRule, re.Pattern[str]]] = [
            (rule, re.compile(rule.pattern, re.IGNORECASE)) for rule in rules
        ]
        self._needs_origin = needs_origin
        self._links: set[str] = set()
        self._seen: Counter[OutputRule] = Counter()
        """How often each rule has matched since there was a connection."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return bool(self._links) and (self.origin is not None or not self._needs_origin)

    def take(self, line: str) -> None:
        """Read a line. Once the state is over, no line changes it."""
        if self.is_over:
            return
        for rule, pattern in self._rules:
            found = pattern.search(line)
            if found is not None:
                groups = found.groupdict()
                self.origin = (groups.get("origin") or self.origin or "").rstrip("/") or None
                self._apply(rule, groups.get("link") or "", _STAMP.sub("", line)[:_MAX_ERROR])
                return

    def started(self) -> None:
        """Note that the program runs, for the first time or again."""
        self.told = ""

    def ended(self, error: str) -> None:
        """Note that the program has ended; a failure that it reported is added to ``error``."""
        self._links.clear()
        self.origin = None
        self.error = f"{error}: {self.told}" if self.told else error
        if not self.was_connected:
            self.is_over = True

    def _apply(self, rule: OutputRule, link: str, line: str) -> None:
        if rule.outcome is Outcome.UP:
            self._links.add(link)
            self._seen.clear()
        elif rule.outcome is not Outcome.NOTHING:
            self._fail(rule, link, line)
            return
        if self.connected:
            self.was_connected = True
            self.error = self.hint = self.told = ""

    def _fail(self, rule: OutputRule, link: str, line: str) -> None:
        self._links.discard(link)
        if rule.outcome is not Outcome.LOST:
            self.error = self.told = line
            self.hint = rule.hint
        elif not self.told:
            self.error = line
        self._seen[rule] += 1
        final = rule.outcome is Outcome.OVER or (
            rule.outcome is Outcome.REFUSED and not self.was_connected
        )
        # As long as another connection is up, the program is of use.
        if final and self._seen[rule] >= rule.times and not self.connected:
            self.is_over = True
