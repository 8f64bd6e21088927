"""A run whose last run used tunnels starts its keeper beside collection, and the keeper's process
before that."""

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

CONFTEST = """
import os
from pathlib import Path

import pytest

def claims():
    return len(list(Path(os.environ["XDG_RUNTIME_DIR"]).glob("*/*/claim")))

def has_child():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 1

with Path("importing").open("a") as file:
    file.write(f"{has_child()} ")
if Path("broken").exists():
    raise RuntimeError("this conftest is broken")

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

    def importing(self) -> str:
        """Return, for each process of the runs since the last call, whether it had started another
        process before it imported its conftest."""
        file = self._pytester.path / "importing"
        return file.rename(f"{file}.read").read_text()


@pytest.fixture
def both(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> Suite:
    return Suite(pytester, runtime)


def test_the_last_run_decides(both: Suite) -> None:
    assert both.run("lease")[0] == "0 1"
    assert both.importing() == "0 "
    assert both.run("lease")[0] == "1 1"
    assert both.importing() == "1 "

    claims, text = both.run("plain")
    assert claims == "1 0", "no collected test needs it, so it has ended before the tests"
    assert "tunnel" not in text
    assert both.importing() == "1 "
    assert both.run("plain")[0] == "0 0"
    assert both.importing() == "0 "


def test_workers_say_whether_they_needed_it(both: Suite) -> None:
    assert both.run("lease", "-n2")[0] == "0 1"

    both.importing()
    claims, text = both.run("plain", "-n2")
    assert both.importing() == "1 0 0 ", "the controller has one for all"
    assert claims == "1 1"
    assert "tunnel" not in text
    assert both.run("plain", "-n2")[0] == "0 0"


def test_without_a_cache_and_for_a_command_nothing_is_started(both: Suite) -> None:
    both.run("lease")

    both.importing()
    assert both.run("plain", "-p", "no:cacheprovider")[0] == "0 0"
    assert both.importing() == "0 "
    assert both.run("plain", "--synth-tunnels-command=no-such-program")[0] == "0 0"
    assert both.importing() == "1 ", "conftests may still say what makes it a keeper's"

    both.run("lease")
    assert both.run("plain", "--synth-tunnels-bind=0.0.0.0")[0] == "0 0"


def test_where_no_tests_run_nothing_is_left_of_it(
    both: Suite, pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    both.run("lease")

    both.importing()
    pytester.runpytest_subprocess("--collect-only", "-q")
    assert both.importing() == "0 "
    pytester.path.joinpath("broken").touch()
    result = pytester.runpytest_subprocess()
    assert "this conftest is broken" in result.stderr.str()
    assert both.importing() == "1 "
    runtime.assert_nothing_left()
