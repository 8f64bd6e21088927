"""What the plugin costs a run: one that does not use it, and one with eight workers that does."""

import resource
import subprocess
from pathlib import Path

from bench import Bench
from cache import MissingError
from ours import project_python
from processes import BenchmarkError
from report import Figures, Table, median, spread
from suite import ALONE, run_pytest_s

TITLE = "plugin"

_PAIRS_A_ROUND = 12
_WITH, _WITHOUT = "installed, unused", "-p no:synth_tunnels"
_LEASE, _PLAIN = "synth_lease", "a plain session fixture"

_SUITE = """
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import pytest


class App(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


def serve(port):
    server = ThreadingHTTPServer(("127.0.0.1", port), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

{fixture}

@pytest.mark.parametrize("n", range(32))
def test_callback(n, app):
    url, headers = app
    assert urlopen(Request(url, headers=headers), timeout=20).read() == b"ok"
"""
_FIXTURES = {
    _LEASE: """
@pytest.fixture(scope="session")
def app(synth_lease, exposed_port):
    server = serve(exposed_port)
    yield synth_lease.url("/"), synth_lease.headers
    server.shutdown()
""",
    _PLAIN: """
@pytest.fixture(scope="session")
def app():
    server = serve(0)
    yield f"http://127.0.0.1:{server.server_port}/", {}
    server.shutdown()
""",
}


def measure(bench: Bench, figures: Figures) -> None:
    """Run pytest with and without, in pairs, the first of a pair in turn."""
    try:
        python = project_python(bench.cache)
    except MissingError as error:
        bench.missing["the plugin's cost"] = str(error)
        return
    empty = bench.folder / "empty"
    empty.mkdir()
    for name, fixture in _FIXTURES.items():
        folder = bench.folder / name.replace(" ", "-")
        folder.mkdir()
        (folder / "test_callbacks.py").write_text(_SUITE.replace("{fixture}", fixture))

    def unused(round_: int) -> None:
        for pair in range(_PAIRS_A_ROUND):
            both = [(_WITH, ()), (_WITHOUT, ("-p", "no:synth_tunnels"))]
            for name, options in both if pair % 2 else reversed(both):
                cpu_s, wall_s = _pytest(python, empty, 5, "--co", "-q", *ALONE, *options)
                figures.add(name, "CPU", round_ * _PAIRS_A_ROUND + pair, cpu_s * 1000)
                figures.add(name, "wall", round_ * _PAIRS_A_ROUND + pair, wall_s * 1000)

    def in_use(round_: int) -> None:
        names = [_LEASE, _PLAIN]
        for name in names if round_ % 2 else reversed(names):
            folder = bench.folder / name.replace(" ", "-")
            cpu_s, wall_s = _pytest(python, folder, 0, "-q", "-n", "8")
            figures.add(name, "wall", round_, wall_s)
            figures.add(name, "CPU", round_, cpu_s)

    try:
        # What is measured is not the compiler, nor the disk.
        _pytest(python, empty, 5, "--co", "-q", *ALONE)
        for name in _FIXTURES:
            _pytest(python, bench.folder / name.replace(" ", "-"), 0, "-q", "-n", "2")
        bench.in_rounds(f"{TITLE}, unused", unused)
        bench.in_rounds(f"{TITLE}, in use", in_use)
    except (BenchmarkError, subprocess.TimeoutExpired) as error:
        figures.fail("pytest", TITLE, error)


def _pytest(python: Path, folder: Path, expected: int, *options: str) -> tuple[float, float]:
    """Run pytest; return its CPU time with that of its workers, and the wall time, in seconds."""
    before_s = _children_cpu_s()
    took_s = run_pytest_s(python, folder, "-p", "no:cacheprovider", *options, expected=expected)
    return _children_cpu_s() - before_s, took_s


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def unused_cpu_ms(figures: Figures) -> float | None:
    """Return what the unused plugin costs, in milliseconds of CPU time."""
    return median(figures.differences(_WITH, _WITHOUT, "CPU"))


def in_use_wall_s(figures: Figures) -> float | None:
    """Return how much longer a run with a lease takes, in seconds."""
    return median(figures.differences(_LEASE, _PLAIN, "wall"))


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return the two tables."""
    unused = Table(
        "The plugin, installed and unused: pytest --co -q on an empty suite",
        ("", "CPU ms", "wall ms"),
    )
    in_use = Table(
        "The plugin in use: 32 tests with -n 8, each calling an app of its worker",
        ("", "wall s", "CPU s, without the keeper's"),
    )
    for table, one, other in ((unused, _WITH, _WITHOUT), (in_use, _LEASE, _PLAIN)):
        measures = ("CPU", "wall") if table is unused else ("wall", "CPU")
        for name in (one, other):
            table.rows.append((name, *(spread(figures.get(name, m), _plain) for m in measures)))
        table.rows.append(
            (
                "difference in pairs",
                *(_cost(figures.differences(one, other, m)) for m in measures),
            )
        )
    least = [min(figures.get(name, "CPU"), default=0) for name in (_WITH, _WITHOUT)]
    unused.notes.append(
        "A difference is the median of pairs, with its quartiles. Between the lowest CPU times it "
        f"is {_signed(least[0] - least[1])} ms. The plugins of anyio and xdist are off in both."
    )
    return [unused, in_use]


def _cost(differences: list[float]) -> str:
    if len(differences) < 4:
        return spread(differences, _signed)
    ordered = sorted(differences)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{_signed(median(ordered) or 0)} ({_signed(low)} to {_signed(high)})"


def _plain(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}" if abs(value) >= 10 else f"{value:+.2f}"
