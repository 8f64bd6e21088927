"""Who shares the run's lease, in the unusual ways of running."""

import pytest

from .conftest import CountingBackend, RuntimeDirectory

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("unmeasured")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", "8"],
        ["-n", "4", "--maxprocesses=1"],
        ["-n", "2", "--basetemp=base"],
        ["-n", "2", "-x"],
        ["-n", "2", "--dist=loadfile", "--maxfail=1"],
    ],
    ids=" ".join,
)
def test_one_lease(
    suite: pytest.Pytester,
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    arguments: list[str],
) -> None:
    suite.runpytest_subprocess(*arguments).assert_outcomes(passed=12)

    assert (hosted.creates, hosted.releases) == (1, 1)
    runtime.assert_nothing_left()


def test_a_worker_elsewhere_is_a_run_of_its_own(
    suite: pytest.Pytester, runtime: RuntimeDirectory, hosted: CountingBackend
) -> None:
    # For execnet a worker behind another gateway may be anywhere; this one is next door.
    result = suite.runpytest_subprocess(
        "--dist=each", "--px", "popen//id=near", "--tx", "popen", "--tx", "popen//via=near"
    )

    result.assert_outcomes(passed=24)
    assert (hosted.creates, hosted.releases) == (2, 2)
    runtime.assert_nothing_left()


def test_a_lease_that_cannot_be_had_is_asked_for_once(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", "sk-wrong")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(16))
        def test_uses_it(synth_lease, n):
            pass
        """
    )

    result = pytester.runpytest_subprocess("-n", "4")

    result.assert_outcomes(errors=16)
    causes = {line for line in result.outlines if "gave no lease" in line and "ERROR" not in line}
    assert len(causes) == 1
    assert hosted.creates == 1
    runtime.assert_nothing_left()
