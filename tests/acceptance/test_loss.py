"""A lease that is lost in the middle of a run is told once, where it matters."""

import pytest

from .conftest import CountingBackend, RuntimeDirectory

pytestmark = pytest.mark.acceptance

LOSES_LEASE = """
import time

import pytest

def test_loses_it(synth_lease, synth_tunnels):
    synth_tunnels.close_synth_lease(synth_lease.lease_id)
    deadline = time.monotonic() + 20
    while synth_lease.status()["state"] == "active":
        assert time.monotonic() < deadline
        time.sleep(0.05)

@pytest.mark.parametrize("n", range(3))
def test_later(synth_lease, n):
    pass

def test_without():
    pass
"""

LOSES_ANOTHER = """
import time

def test_loses_another(synth_lease, synth_expose, exposed_port, synth_tunnels):
    other = synth_expose(exposed_port)
    synth_tunnels.close_synth_lease(other.lease_id)
    deadline = time.monotonic() + 20
    while other.status()["state"] == "active":
        assert time.monotonic() < deadline
        time.sleep(0.05)

def test_later(synth_lease):
    assert synth_lease.status()["state"] == "active"
"""


def test_the_run_s_lease(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, hosted: CountingBackend
) -> None:
    hosted.heartbeat_interval_s = 1.0
    pytester.makepyfile(LOSES_LEASE)

    result = pytester.runpytest_subprocess("-rP")

    result.assert_outcomes(passed=2, errors=3)
    lost = [line for line in result.outlines if line.startswith("lease ") and "is lost" in line]
    # In the report of the test that was running, as the cause of the three, and in the summary.
    assert len(lost) == 1 + 3 + 1
    assert len(set(lost)) == 1
    assert hosted.creates == 1
    runtime.assert_nothing_left()


def test_another_lease(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, hosted: CountingBackend
) -> None:
    hosted.heartbeat_interval_s = 1.0
    pytester.makepyfile(LOSES_ANOTHER)

    pytester.runpytest_subprocess().assert_outcomes(passed=2)
    runtime.assert_nothing_left()
