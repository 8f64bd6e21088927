"""What a unit costs when there are more of them: leases, workers, requests in flight, bytes."""

import json
import subprocess

from bench import Bench, OpenTunnel
from cache import MissingError, child_environment
from load import bulk_down, bulk_up, wrk
from ours import Embedded, EmbeddedCompiled, project_python
from peers import AGENTS
from processes import BenchmarkError, Processes, cpu_s
from report import Figures, Table, median, number, spread
from suite import ALONE, run_pytest_s

TITLE = "growth"

LEASES = (1, 10, 100, 1_000)
WORKERS = (1, 4, 16, 64)
IN_FLIGHT = (1, 4, 16, 64, 256, 1_024)
BODIES_BYTES = tuple(1 << power for power in (10, 16, 20, 24, 28, 30))

_LEASE_COSTS = ("opening (µs)", "releasing (µs)", "memory (KiB)")
_WAYS = {"down": bulk_down, "up": bulk_up}
_TIMEOUT_S = 60.0
_TESTS = """
import pytest

@pytest.fixture(scope="session")
def plain():
    return 1

@pytest.mark.parametrize("n", range(256))
def test_it({fixture}, n): pass
"""


def measure(bench: Bench, figures: Figures) -> None:
    """Measure all sizes in turn, in every round; at most three rounds."""
    try:
        python = project_python(bench.cache)
    except MissingError as error:
        bench.missing["growth"] = str(error)
        return
    suites = {}
    for fixture in ("synth_lease", "plain"):
        suites[fixture] = bench.folder / f"growth-{fixture}"
        suites[fixture].mkdir()
        (suites[fixture] / "test_it.py").write_text(_TESTS.format(fixture=fixture))

    with bench.tunnels([Embedded(), EmbeddedCompiled()], figures) as tunnels:

        def once(round_: int) -> None:
            for count in LEASES:
                _leases(figures, python, count, round_)
            for tunnel in tunnels:
                for count in IN_FLIGHT:
                    _in_flight(bench, figures, tunnel, count, round_)
                for size in BODIES_BYTES if bench.origin.whole else ():
                    # A short run leaves the largest out.
                    if size <= 4 * bench.bulk_bytes:
                        _body(figures, tunnel, size, round_)
            for count in WORKERS:
                took_s = {}
                for fixture, folder in suites.items():
                    try:
                        options = ("-q", "-n", str(count), *ALONE[:2])
                        took_s[fixture] = run_pytest_s(python, folder, *options)
                    except (BenchmarkError, subprocess.TimeoutExpired) as error:
                        figures.fail(f"{count} workers", fixture, error)
                if len(took_s) == len(suites):
                    more_s = took_s["synth_lease"] - took_s["plain"]
                    figures.add("workers", f"{count} plain", round_, took_s["plain"])
                    figures.add("workers", f"{count} more", round_, more_s)

        bench.in_rounds(TITLE, once, min(bench.rounds, 3))


def _leases(figures: Figures, python: object, count: int, round_: int) -> None:
    with Processes() as processes:
        try:
            process = processes.start(
                *(str(python), AGENTS / "many_leases.py", str(count)), env=child_environment()
            )
            for cost, value in json.loads(process.line()).items():
                figures.add("leases", f"{count} {cost}", round_, value)
        except BenchmarkError as error:
            figures.fail(f"{count} leases", TITLE, error)


def _in_flight(bench: Bench, figures: Figures, tunnel: OpenTunnel, count: int, round_: int) -> None:
    pids = tunnel.contender.pids()
    before_s, _ = cpu_s(pids)
    try:
        load = wrk(
            tunnel.endpoint, post=False, connections=count, duration_s=min(bench.duration_s, 1)
        )
    except BenchmarkError as error:
        figures.fail(tunnel.contender.name, f"{count} in flight", error)
        return
    if load.failed:
        reason = f"{load.failed} of {load.requests} requests failed"
        figures.fail(tunnel.contender.name, f"{count} in flight", reason)
        return
    cpu_us = (cpu_s(pids)[0] - before_s) / load.requests * 1e6
    figures.add(tunnel.contender.name, f"{count} in flight", round_, load.per_s)
    figures.add(tunnel.contender.name, f"{count} in flight, CPU", round_, cpu_us)


def _body(figures: Figures, tunnel: OpenTunnel, size: int, round_: int) -> None:
    name = tunnel.contender.name
    for way, send in _WAYS.items():
        # Of what takes no time the shortest of several, since a round's first is slower.
        for _ in range(5 if size <= 1 << 24 else 1):
            try:
                took_s = send(tunnel.endpoint, size, _TIMEOUT_S)
            except (OSError, BenchmarkError) as error:
                figures.fail(name, f"{size} bytes {way}", error)
                return
            known = figures.value(name, f"{size} {way}", round_)
            figures.add(name, f"{size} {way}", round_, min(took_s, known or took_s))


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return a table for each thing that grows."""
    leases = Table("More leases: CPU and memory for each", ("leases", *_LEASE_COSTS))
    for count in LEASES:
        costs = [spread(figures.get("leases", f"{count} {cost}")) for cost in _LEASE_COSTS]
        leases.rows.append((f"{count:,}", *costs))
    leases.notes.append(
        "Each with an agent and an origin of its own, in one process, as in the keeper. What is "
        "allocated with the first few hundred is shared by them."
    )
    workers = Table(
        "More workers: what a lease adds to a run (s)",
        ("workers", "a plain session fixture", "more with `synth_lease`", "for each worker"),
    )
    for count in WORKERS:
        more = median(figures.get("workers", f"{count} more"))
        workers.rows.append(
            (
                f"{count}",
                spread(figures.get("workers", f"{count} plain")),
                spread(figures.get("workers", f"{count} more"), _seconds),
                "-" if more is None else _seconds(more / count),
            )
        )
    workers.notes.append(
        "256 tests that do nothing. Starting the workers takes most of the time, and far more of "
        "them than there are processors make it vary by more than a lease adds."
    )
    found = [leases, workers]
    names = [
        name for name in (Embedded.name, EmbeddedCompiled.name) if name in figures.contenders()
    ]
    in_flight = Table(
        "More requests in flight: GET 1 KiB",
        ("in flight", *(f"{name}: {what}" for name in names for what in ("requests/s", "CPU µs"))),
    )
    for count in IN_FLIGHT:
        measures = (f"{count} in flight", f"{count} in flight, CPU")
        cells = [spread(figures.get(name, measure)) for name in names for measure in measures]
        in_flight.rows.append((f"{count:,}", *cells))
    in_flight.notes.append(
        "A lone request is told as soon as it is answered. From a few on, what is due in one turn "
        "of the event loop goes out in one write, so that a request costs less."
    )
    bodies = Table(
        "Larger bodies",
        (
            "bytes",
            *(
                f"{name}: {what}"
                for name in names
                for what in ("ms down", "MiB/s", "ms up", "MiB/s")
            ),
        ),
    )
    for size in BODIES_BYTES:
        cells = []
        for name in names:
            for way in _WAYS:
                took_s = median(figures.get(name, f"{size} {way}"))
                cells += (
                    ("-", "-")
                    if took_s is None
                    else (number(took_s * 1000), number(size / (1 << 20) / took_s))
                )
        bodies.rows.append((f"{size:,}", *cells))
    bodies.notes.append("Each on a connection of its own, which is most of what a short one takes.")
    return [*found, in_flight, bodies]


def _seconds(value: float) -> str:
    return f"{value:.3f}"
