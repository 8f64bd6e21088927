"""What every part is given, and how contenders are taken in turn."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cache import Cache, MissingError
from load import Endpoint
from origin import Origin
from peers import Contender, wait_open
from processes import BenchmarkError, Processes
from report import Figures

__all__ = ["Bench", "OpenTunnel"]


@dataclass(frozen=True)
class OpenTunnel:
    """A contender whose tunnel carries requests."""

    contender: Contender
    endpoint: Endpoint


@dataclass
class Bench:
    """One run.

    Attributes:
        cache: the peers' folder.
        origin: the app.
        rounds: how often everything is measured.
        duration_s: of each load of many requests, in seconds.
        bulk_bytes: of each large body.
        ends_at: when no new round begins any more, on the monotonic clock.
        folder: for temporary files.
        only: which contenders, by key; all by default.
        missing: which contenders cannot be had, and why.
    """

    cache: Cache
    origin: Origin
    rounds: int
    duration_s: int
    bulk_bytes: int
    ends_at: float
    folder: Path
    only: list[str] | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def tunnels(self, contenders: list[Contender], figures: Figures) -> Iterator[list[OpenTunnel]]:
        """Open a tunnel of each contender, and close all of them in the end."""
        with Processes() as processes:
            opened: list[OpenTunnel] = []
            try:
                for contender in self.prepared(contenders, processes, figures):
                    try:
                        endpoint = contender.open()
                        wait_open(contender, endpoint)
                        opened.append(OpenTunnel(contender, endpoint))
                    except BenchmarkError as error:
                        figures.fail(contender.name, "opening", error)
                yield opened
            finally:
                for tunnel in reversed(opened):
                    tunnel.contender.close()

    def prepared(
        self, contenders: list[Contender], processes: Processes, figures: Figures
    ) -> list[Contender]:
        """Find contenders and start their servers; return those with which that worked."""
        ready = []
        for contender in contenders:
            try:
                contender.find(self.cache)
                contender.prepare(processes, self.origin.endpoint)
                ready.append(contender)
            except MissingError as error:
                self.missing[contender.name] = str(error)
            except BenchmarkError as error:
                figures.fail(contender.name, "starting", error)
        return ready

    def in_rounds(self, title: str, once: Callable[[int], None], rounds: int = 0) -> None:
        """Measure round after round, as long as there is time."""
        for round_ in range(rounds or self.rounds):
            if round_ and time.monotonic() > self.ends_at:
                say(f"{title}: time is up after {round_} rounds")
                break
            say(f"{title}: round {round_ + 1}")
            once(round_)


def say(line: str) -> None:
    """Tell whoever watches."""
    print(f"  {line}", file=sys.stderr, flush=True)
