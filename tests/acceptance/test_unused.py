"""A suite that uses no tunnel pays next to nothing, and nothing of ours runs in it."""

import pytest

from .conftest import RuntimeDirectory

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("unmeasured")]

HEAVY = ("asyncio", "filelock", "httptools", "httpx", "msgspec", "websockets")

LOADED = f"""
import sys

def test_loaded():
    assert [name for name in {HEAVY!r} if name in sys.modules] == []

def test_threads():
    import threading
    assert threading.active_count() == 1
"""


def test_nothing_is_loaded(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(LOADED)

    # Other plugins of this environment may load asyncio themselves.
    result = pytester.runpytest_subprocess(
        "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:timeout", "-p", "no:xdist"
    )

    result.assert_outcomes(passed=2)
    runtime.assert_nothing_left()


def test_the_fixture_loads_none_of_it_into_the_test_process(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile(
        LOADED + "\n\ndef test_used(synth_lease):\n    test_loaded(), test_threads()\n"
    )

    result = pytester.runpytest_subprocess(
        "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:timeout", "-p", "no:xdist"
    )

    result.assert_outcomes(passed=3)
    runtime.assert_nothing_left()


@pytest.mark.parametrize("arguments", [["--collect-only"], ["-k", "nothing"], ["--fixtures"]])
def test_no_keeper_without_a_test_that_needs_it(
    suite: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    suite.runpytest_subprocess(*arguments)

    runtime.assert_nothing_left()


def test_help_documents_every_option(pytester: pytest.Pytester) -> None:
    from pytest_synth_tunnels.options import OPTIONS

    result = pytester.runpytest_subprocess("--help")

    text = result.stdout.str()
    assert [o.name for o in OPTIONS if o.flag not in text or o.ini not in text] == []
