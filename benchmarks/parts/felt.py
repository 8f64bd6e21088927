"""What a person feels of a lease: the smallest run, many tests, and waiting for the fixture."""

import subprocess
from pathlib import Path

from bench import Bench
from cache import MissingError
from ours import project_python
from processes import BenchmarkError
from report import Figures, Table, median, spread
from suite import ALONE, run_pytest_s

__all__ = ["measure", "per_test_ms", "small_run_ratio", "tables", "waited_ms"]

TITLE = "felt"

_LEASE, _PLAIN = "synth_lease", "a plain session fixture"
_WAIT = "synth_lease, after 200 ms of collection"
_SMALL, _MANY, _WAITED = "smallest run (ms)", "5,000 tests (ms)", "wait in the fixture (ms)"
_TESTS = 5_000

_FIXTURE = """
import pytest

@pytest.fixture(scope="session")
def plain():
    return 1
"""
_TIMED = """
import time
from pathlib import Path

import pytest

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    began_s = time.perf_counter()
    result = yield
    if fixturedef.argname == "synth_lease":
        Path("waited").write_text(str(time.perf_counter() - began_s))
    return result
"""


def measure(bench: Bench, figures: Figures) -> None:
    """Run the suites in turn, in every round."""
    try:
        python = project_python(bench.cache)
    except MissingError as error:
        bench.missing["what a person feels"] = str(error)
        return
    small = {
        _LEASE: _suite(bench, "small-lease", "def test_it(synth_lease): pass"),
        _PLAIN: _suite(bench, "small-plain", "def test_it(plain): pass"),
    }
    header = f"import pytest\n\n@pytest.mark.parametrize('n', range({_TESTS}))\n"
    many = {
        _LEASE: _suite(bench, "many-lease", f"{header}def test_it(synth_lease, n): pass"),
        _PLAIN: _suite(bench, "many-plain", f"{header}def test_it(plain, n): pass"),
    }
    wait = _suite(bench, "wait", "import time; time.sleep(0.2)\ndef test_it(synth_lease): pass")
    (wait / "conftest.py").write_text(_TIMED)

    def once(round_: int) -> None:
        for name in (_LEASE, _PLAIN) if round_ % 2 else (_PLAIN, _LEASE):
            figures.add(
                name, _SMALL, round_, run_pytest_s(python, small[name], "-q", *ALONE) * 1000
            )
            figures.add(name, _MANY, round_, run_pytest_s(python, many[name], "-q", *ALONE) * 1000)
        run_pytest_s(python, wait, "-q", *ALONE)
        figures.add(_WAIT, _WAITED, round_, float((wait / "waited").read_text()) * 1000)

    try:
        for folder in (*small.values(), *many.values(), wait):
            # It compiles, and pytest's cache remembers whether the run used tunnels.
            run_pytest_s(python, folder, "-q", *ALONE)
        bench.in_rounds(TITLE, once)
    except (BenchmarkError, OSError, subprocess.TimeoutExpired) as error:
        figures.fail("pytest", TITLE, error)


def _suite(bench: Bench, name: str, tests: str) -> Path:
    folder = bench.folder / name
    folder.mkdir()
    (folder / "conftest.py").write_text(_FIXTURE)
    (folder / "test_it.py").write_text(tests)
    return folder


def small_run_ratio(figures: Figures) -> float | None:
    """Return how often the smallest run without a lease fits into the one with it."""
    return median(figures.ratios(_LEASE, _PLAIN, _SMALL))


def per_test_ms(figures: Figures) -> float | None:
    """Return what a test costs more that uses the lease, in milliseconds."""
    many = median(figures.differences(_LEASE, _PLAIN, _MANY))
    small = median(figures.differences(_LEASE, _PLAIN, _SMALL))
    return None if many is None or small is None else (many - small) / _TESTS


def waited_ms(figures: Figures) -> float | None:
    """Return how long the first test waits for its lease after a collection of 200 ms."""
    return median(figures.get(_WAIT, _WAITED))


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table."""
    table = Table("What a person feels of a lease", ("", _SMALL, _MANY, _WAITED))
    for name in figures.contenders():
        measures = (_SMALL, _MANY, _WAITED)
        table.rows.append((name, *(spread(figures.get(name, measure)) for measure in measures)))
    table.notes.append(
        "Wall time of whole pytest runs whose last run used tunnels, so that the keeper's process "
        "starts before conftests are imported, and the keeper beside collection."
    )
    return [table]
