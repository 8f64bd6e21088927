"""What recording costs where bodies are as long as it keeps them: GET of 64 KiB."""

from bench import Bench, OpenTunnel
from load import wrk
from ours import (
    Embedded,
    EmbeddedCompiledUnrecorded,
    EmbeddedCompiledUvloop,
    EmbeddedUnrecorded,
)
from processes import BenchmarkError, memory_kib
from report import NOTHING, Figures, Table, median, number, spread

TITLE = "recording"

_BODY_BYTES = 65_536
_CONNECTIONS = 16
_RATE, _MEMORY = "requests/s", "MiB"
_PAIRS = (
    (Embedded, EmbeddedUnrecorded),
    (EmbeddedCompiledUvloop, EmbeddedCompiledUnrecorded),
)
"""With recording and without."""


def measure(bench: Bench, figures: Figures) -> None:
    """Load each in turn, in every round."""
    kinds = [kind() for pair in _PAIRS for kind in pair]
    with bench.tunnels(kinds, figures) as tunnels:

        def once(round_: int) -> None:
            for tunnel in tunnels:
                _load(bench, figures, tunnel, round_)

        bench.in_rounds(TITLE, once)


def _load(bench: Bench, figures: Figures, tunnel: OpenTunnel, round_: int) -> None:
    name = tunnel.contender.name
    try:
        load = wrk(
            tunnel.endpoint,
            post=False,
            connections=_CONNECTIONS,
            duration_s=bench.duration_s,
            path=f"/bytes/{_BODY_BYTES}",
        )
    except BenchmarkError as error:
        figures.fail(name, _RATE, error)
        return
    if load.failed:
        figures.fail(name, _RATE, f"{load.failed} of {load.requests} requests failed")
        return
    figures.add(name, _RATE, round_, load.per_s)
    held_kib = sum(memory_kib(pid) for pid in tunnel.contender.pids())
    figures.add(name, _MEMORY, round_, held_kib / 1024)


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table."""
    table = Table(
        "Recording bodies of 64 KiB: GET through 16 connections",
        ("", "requests/s", "recording off", "a part of that", "MiB held", "recording off"),
    )
    for one, other in _PAIRS:
        rates = [median(figures.get(kind.name, _RATE)) for kind in (one, other)]
        table.rows.append(
            (
                one.name,
                *(NOTHING if rate is None else number(rate) for rate in rates),
                spread(figures.ratios(one.name, other.name, _RATE)),
                *(spread(figures.get(kind.name, _MEMORY)) for kind in (one, other)),
            )
        )
    table.notes.append(
        "MiB: of the keeper's process, with all that it holds of the traffic. Half of what it "
        "costs is to receive into memory that is in no cache of the processor's, since the last "
        "bodies are kept; the rest is to record an answer that comes in more than one piece."
    )
    return [table]
