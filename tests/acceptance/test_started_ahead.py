"""A run whose last run used tunnels starts its keeper beside collection."""

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

CONFTEST = """
import os
from pathlib import Path

import pytest

def claims():
    return len(list(Path(os.environ["XDG_RUNTIME_DIR"]).glob("*/*/claim")))

class Watcher:
    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session):
        session.config.claims = claims()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        if not hasattr(session.config, "workerinput"):
            Path("claims").write_text(f"{session.config.claims} {claims()}")

def pytest_configure(config):
    config.pluginmanager.register(Watcher())
"""

TESTS = """
def test_lease(synth_lease):
    assert synth_lease.status()["state"] == "active"

def test_plain():
    pass
"""


class Suite:
    """A suite with a test that needs a tunnel and one that does not."""

    def __init__(self, pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
        self._pytester = pytester
        self._runtime = runtime
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile(test_both=TESTS)

    def run(self, test: str, *options: str) -> tuple[str, str]:
        """Run a test; return the keepers before collection and after the tests, and the output."""
        result = self._pytester.runpytest_subprocess("-q", "-k", test, *options)
        result.assert_outcomes(passed=1, deselected=0 if "-n2" in options else 1)
        self._runtime.assert_nothing_left()
        return (self._pytester.path / "claims").read_text(), result.stdout.str()


@pytest.fixture
def both(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> Suite:
    return Suite(pytester, runtime)


def test_the_last_run_decides(both: Suite) -> None:
    assert both.run("lease")[0] == "0 1"
    assert both.run("lease")[0] == "1 1"

    claims, text = both.run("plain")
    assert claims == "1 0", "no collected test needs it, so it has ended before the tests"
    assert "tunnel" not in text
    assert both.run("plain")[0] == "0 0"


def test_workers_say_whether_they_needed_it(both: Suite) -> None:
    assert both.run("lease", "-n2")[0] == "0 1"

    claims, text = both.run("plain", "-n2")
    assert claims == "1 1"
    assert "tunnel" not in text
    assert both.run("plain", "-n2")[0] == "0 0"


def test_without_a_cache_and_for_a_command_nothing_is_started(both: Suite) -> None:
    both.run("lease")

    assert both.run("plain", "-p", "no:cacheprovider")[0] == "0 0"
    assert both.run("plain", "--synth-tunnels-command=no-such-program")[0] == "0 0"
    assert both.run("plain", "--synth-tunnels-bind=0.0.0.0")[0] == "0 0"
