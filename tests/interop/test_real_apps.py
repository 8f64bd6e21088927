"""Apps that people use, in an environment of their own: directly, at a root, and below a path.

The suite is ``benchmarks/real_apps``; ``python benchmarks/real_apps.py`` runs those too that take
longer to install.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import IN_CI

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(sys.platform == "win32", reason="the suite ends processes by signals"),
]

NOT_POSSIBLE = {("test_webdav.py::test_curl_digest", "path")}
"""Digest authentication hashes the path, which the app sees without its prefix."""

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def real_apps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("real_apps")


@pytest.fixture
def python(real_apps: ModuleType, python_of: Callable[..., Path]) -> Path:
    """The interpreter of an environment with the apps that install quickly."""
    return python_of(*real_apps.QUICK_REQUIREMENTS, *real_apps.own_requirements())


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    "workers",
    [
        pytest.param("0", marks=pytest.mark.skipif(not IN_CI, reason="tells little beside -n 2")),
        "2",
    ],
)
def test_all_work_in_every_way(real_apps: ModuleType, python: Path, workers: str) -> None:
    code, found = real_apps.run(python, list(real_apps.QUICK), "-n", workers)

    assert code == 0
    files = {test.partition(".py")[0].removeprefix("test_") for test in found}
    assert files == set(real_apps.QUICK)
    if IN_CI:  # git and curl may be missing elsewhere
        passed = {
            (test, way) for test in found for way in found[test] if "passed" in found[test][way]
        }
        # A test that makes no difference between the ways has one outcome, without a way.
        wanted = {
            (test, way) for test in found for way in ([""] if "" in found[test] else real_apps.WAYS)
        }
        assert wanted - passed == NOT_POSSIBLE


def test_what_failed_is_in_the_table(real_apps: ModuleType) -> None:
    found = {
        "test_x.py::test_it": {
            "direct": {"passed"},
            "root": {"passed", "failed"},
            "path": {"skipped"},
        }
    }

    assert real_apps.table(found).splitlines()[-1] == (
        "| test_x.py::test_it | passed | failed | skipped |"
    )
