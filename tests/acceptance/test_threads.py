"""Tests that use the fixtures' objects from several threads at once."""

import os

import pytest

from .conftest import OTHER_PLUGINS, RuntimeDirectory

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("unmeasured")]

THREADED_TESTS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

import pytest

from test_app import ask
from pytest_synth_tunnels import KeeperError

def test_url_and_headers(synth_lease, app):
    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda n: ask(synth_lease, f"/{n}")["path"], range(200)))
    assert seen == [f"/{n}" for n in range(200)]

@pytest.mark.parametrize("count", [2, 8])
def test_headers(synth_lease, count):
    with ThreadPoolExecutor(count) as threads:
        seen = list(threads.map(lambda _: dict(synth_lease.headers), range(2000)))
    assert len({frozenset(headers.items()) for headers in seen}) == 1

def test_expose(synth_expose, app, exposed_port):
    def call(number):
        with synth_expose(exposed_port, name=str(number)) as lease:
            return lease.lease_id, ask(lease, f"/{number}")["path"]

    with ThreadPoolExecutor(2) as threads:
        seen = list(threads.map(call, range(20)))
    assert [path for _, path in seen] == [f"/{number}" for number in range(20)]
    assert len({lease_id for lease_id, _ in seen}) == 20

def test_a_slow_question_holds_up_no_other(synth_lease, synth_expose):
    # Nobody answers on a port that is bound and does not listen.
    import socket
    with socket.socket() as bound, ThreadPoolExecutor(8) as threads:
        bound.bind(("127.0.0.1", 0))
        with synth_expose(bound.getsockname()[1]) as lease:
            waits = [threads.submit(lease.wait_ready, 5) for _ in range(8)]
            for _ in range(200):
                synth_lease.headers
            assert synth_lease.status()["state"] == "active"
            assert not any(wait.done() for wait in waits)
            for wait in waits:
                with pytest.raises(KeeperError):
                    wait.result(30)
    assert synth_lease.status()["state"] == "active"

def test_tunnels_client(synth_tunnels):
    def call(number):
        lease = synth_tunnels.create_synth_lease(
            client_instance_id=f"thread-{number}", local_host="127.0.0.1", local_port=8000
        )
        synth_tunnels.close_synth_lease(lease["lease_id"])
        return lease["lease_id"]

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(call, range(40)))) == 40

def test_later(synth_lease, app):
    assert ask(synth_lease, "/later")["path"] == "/later"
"""


@pytest.mark.parametrize("arguments", [["-p", "no:xdist"], ["-n", "2"]], ids=" ".join)
def test_threads_share_the_fixtures(
    suite: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    suite.makepyfile(test_threads=THREADED_TESTS)

    result = suite.runpytest_subprocess(*arguments, "test_threads.py")

    result.assert_outcomes(passed=7)
    runtime.assert_nothing_left()


def test_each_test_in_four_threads_at_once(
    suite: pytest.Pytester, runtime: RuntimeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pytest_run_parallel")
    others = [name for name in OTHER_PLUGINS if name != "run-parallel"]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in others))
    suite.makepyfile(
        test_parallel="""
        from pytest_synth_tunnels import KeeperError
        from test_app import ask

        def test_headers(synth_lease, app):
            for number in range(20):
                assert ask(synth_lease, f"/{number}")["path"] == f"/{number}"

        def test_expose(synth_expose, app, exposed_port):
            with synth_expose(exposed_port) as lease:
                assert ask(lease, "/x")["path"] == "/x"

        def test_ready(synth_lease, app):
            synth_lease.wait_ready(20)
            assert synth_lease.status()["state"] == "active"
        """
    )

    result = suite.runpytest_subprocess(
        "-p", "no:xdist", "--parallel-threads=4", "test_parallel.py"
    )

    result.assert_outcomes(passed=3)
    runtime.assert_nothing_left()


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_dead_keeper_fails_all_threads_with_one_cause(
    suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    suite.makepyfile(
        test_death="""
        import json, os, signal
        from concurrent.futures import ThreadPoolExecutor

        import pytest

        from pytest_synth_tunnels import KeeperError
        from pytest_synth_tunnels.session import SESSION

        def test_death(synth_lease, pytestconfig):
            with open(pytestconfig.stash[SESSION].directory_path + "/keeper.json") as file:
                pid = json.load(file)["pid"]

            def ask(number):
                if number == 8:
                    os.kill(pid, signal.SIGKILL)
                with pytest.raises(KeeperError, match="the tunnel keeper of this run is gone"):
                    while True:
                        synth_lease.headers

            with ThreadPoolExecutor(9) as threads:
                list(threads.map(ask, range(9)))

        def test_later(synth_lease):
            pass
        """
    )

    # Without the short summary, which in CI has the whole message again.
    result = suite.runpytest_subprocess("-p", "no:xdist", "-rN", "test_death.py")

    result.assert_outcomes(passed=1, errors=1)
    assert result.stdout.str().count("the tunnel keeper of this run is gone") == 2
