"""Figures of interleaved rounds, as tables of ratios with their spread."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["NOTHING", "Figures", "Table", "median", "number", "spread"]


NOTHING = "-"
"""In a table, where there is no figure."""


class Figures:
    """What was measured: contender and measure → one value a round."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        self.problems: dict[str, str] = {}
        """What could not be measured, and why."""

    def add(self, contender: str, measure: str, round_: int, value: float) -> None:
        """Keep one value."""
        self._values.setdefault((contender, measure), {})[round_] = value

    def fail(self, contender: str, measure: str, reason: object) -> None:
        """Keep the reason why there is no value."""
        self.problems.setdefault(f"{contender}, {measure}", " ".join(str(reason).split())[:200])

    def get(self, contender: str, measure: str) -> list[float]:
        """Return the values, in the order of rounds."""
        return list(self._values.get((contender, measure), {}).values())

    def value(self, contender: str, measure: str, round_: int) -> float | None:
        """Return the value of one round, if there is one."""
        return self._values.get((contender, measure), {}).get(round_)

    def ratios(self, contender: str, to: str, measure: str) -> list[float]:
        """Return the ratios of values that are of the same round."""
        mine = self._values.get((contender, measure), {})
        theirs = self._values.get((to, measure), {})
        return [mine[n] / theirs[n] for n in mine if theirs.get(n)]

    def differences(self, contender: str, other: str, measure: str) -> list[float]:
        """Return the differences of values that are of the same round."""
        mine = self._values.get((contender, measure), {})
        theirs = self._values.get((other, measure), {})
        return [mine[n] - theirs[n] for n in mine if n in theirs]

    def contenders(self) -> list[str]:
        """Return who has values, in the order of their first."""
        return list(dict.fromkeys(contender for contender, _ in self._values))

    def as_json(self) -> dict[str, dict[str, list[float]]]:
        """Return all values."""
        found: dict[str, dict[str, list[float]]] = {}
        for (contender, measure), values in self._values.items():
            found.setdefault(contender, {})[measure] = list(values.values())
        return found


@dataclass
class Table:
    """A table with a heading and notes."""

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"## {self.title}", "", _line(self.header), _line("---" for _ in self.header)]
        lines += [_line(row) for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"


def median(values: Sequence[float]) -> float | None:
    """Return the median, or ``None`` of nothing."""
    return statistics.median(values) if values else None


def spread(values: Sequence[float], write: Callable[[float], str] | None = None) -> str:
    """Return median and range, such as ``0.23 (0.21..0.25)``."""
    if not values:
        return NOTHING
    write = write or number
    low, middle, high = (write(f(values)) for f in (min, statistics.median, max))
    return middle if low == high else f"{middle} ({low}..{high})"


def number(value: float) -> str:
    """Return a figure with as many digits as mean something."""
    if value >= 1000:
        return f"{round(value, -2):,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
