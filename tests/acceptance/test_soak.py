"""The short form of ``benchmarks/soak.py``: mixed traffic, and nothing grows."""

import importlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"),
]


def test_nothing_grows() -> None:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--duration-s", "15", "--interval-s", "1", "--callers", "16"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "nothing has grown" in done.stdout


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("soak")


STEADY = {
    "memory_kib": 30_000,
    "objects": 26_000,
    "blocks": 120_000,
    "descriptors": 12,
    "tasks": 3,
    "under_way": 0,
}


@pytest.mark.parametrize(
    ("name", "by"),
    [
        *[("memory_kib", 7000), ("objects", 400), ("blocks", 7000)],
        *[("descriptors", 4), ("tasks", 2), ("under_way", 1)],
    ],
)
def test_what_grows_is_named(soak: ModuleType, name: str, by: int) -> None:
    steady = [soak.Sample(at_s, **STEADY) for at_s in range(8)]
    assert soak.grown(steady) == []
    grown = [soak.Sample(6 + at_s, **STEADY | {name: STEADY[name] + by}) for at_s in range(2)]
    (found,) = soak.grown(steady[:6] + grown)
    assert found.startswith(f"{name} has grown from {STEADY[name]} to {STEADY[name] + by}")
    # What the first ones grow is the warm-up.
    assert soak.grown(steady[:2] + grown * 3) == []


def test_a_soak_that_is_too_short_says_nothing(soak: ModuleType) -> None:
    (found,) = soak.grown([soak.Sample(at_s, **STEADY) for at_s in range(3)])
    assert found.startswith("only 2 samples count")


def test_traffic_must_come_through(soak: ModuleType) -> None:
    outcomes = Counter({f"{kind}: {good}": 95 for kind, good in soak.SUCCESS.items()})
    outcomes["get: 503"] = outcomes["talk: interrupted"] = 5
    assert soak.too_few(outcomes) == []
    outcomes["get: 503"] = 20
    assert soak.too_few(outcomes) == ["get: only 95 of 115 came to '200'"]
    del outcomes["stream: 200"]
    assert "stream: only 0 of 0 came to '200'" in soak.too_few(outcomes)
    seldom = Counter({f"{kind}: {good}": 6 for kind, good in soak.SUCCESS.items()})
    seldom["talk: interrupted"] = 2
    assert soak.too_few(seldom) == []
    seldom["talk: interrupted"] = 3
    assert soak.too_few(seldom) == ["talk: only 6 of 9 came to 'talked'"]


def test_a_busy_machine_gets_longer(soak: ModuleType) -> None:
    assert soak.goes_on(14, 15, samples=9)
    assert not soak.goes_on(16, 15, samples=6)
    assert soak.goes_on(59, 15, samples=5)
    assert not soak.goes_on(61, 15, samples=5)
