"""However a run ends, its lease is released once and nothing is left behind.

Real processes, real signals, and a backend in a process of its own that counts.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import CountingBackend, RuntimeDirectory

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.usefixtures("unmeasured"),
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and process groups"),
]

RELEASE_TIMEOUT_S = 12.0
"""Within which a lease is released after its run was killed."""


def wait_until(what: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until ``what()`` is true, or fail."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Running:
    """A pytest run in a process group of its own, whose tests wait until they are let go."""

    def __init__(self, path: Path, arguments: list[str]) -> None:
        self._output = (path / "output.txt").open("w+b")
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=path,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def waits_in(self, count: int = 1) -> None:
        """Wait until ``count`` tests hold the lease and wait."""
        wait_until(lambda: len(list(self.path.glob("waiting-*"))) >= count or self.is_over())
        assert not self.is_over(), self.output()

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def let_go(self) -> None:
        """Let the tests end."""
        (self.path / "go").touch()

    def signal_group(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def end(self) -> str:
        """Wait for the run's end, and return its output."""
        self.process.wait(40)
        return self.output()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal_group(signal.SIGKILL)
        self.process.wait(10)
        self._output.close()


WAITING_TESTS = """
import os, pathlib, time
from urllib.request import Request, urlopen

import pytest

here = pathlib.Path(__file__).parent

@pytest.mark.parametrize("n", range(2))
def test_waits(synth_lease, app, n):
    with urlopen(Request(synth_lease.url(), headers=synth_lease.headers), timeout=20) as answer:
        assert answer.status == 200
    (here / f"waiting-{os.getpid()}").touch()
    while not (here / "go").exists():
        time.sleep(0.01)

def test_later(synth_lease, app):
    pass
"""


@pytest.fixture
def start(suite: pytest.Pytester, hosted: CountingBackend) -> Iterator[Callable[..., Running]]:
    """Start a run of tests that wait."""
    suite.path.joinpath("test_app.py").unlink()
    suite.makepyfile(test_waiting=WAITING_TESTS)
    runs: list[Running] = []

    def start(*arguments: str) -> Running:
        runs.append(Running(suite.path, list(arguments)))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def keeper_pid(runtime: RuntimeDirectory) -> int:
    found = [json.loads(path.read_text())["pid"] for path in runtime.path.rglob("keeper.json")]
    assert len(found) == 1
    pid: int = found[0]
    return pid


def is_clean(runtime: RuntimeDirectory) -> bool:
    return not runtime.processes() and not runtime.files()


def ledger_lines() -> list[str]:
    state = Path(os.environ["XDG_STATE_HOME"])
    return [
        line for path in state.rglob("*.jsonl") for line in path.read_text().splitlines() if line
    ]


ENDINGS = {
    "failing test": ("def test_it(synth_lease): assert False", []),
    "-x": ("def test_it(synth_lease): assert False\ndef test_more(synth_lease): pass", ["-x"]),
    "erroring fixture": (
        "import pytest\n@pytest.fixture\ndef bad(synth_lease): 1 / 0\ndef test_it(bad): pass",
        [],
    ),
    "pytest.exit": ("import pytest\ndef test_it(synth_lease): pytest.exit('enough')", []),
    "collection error": ("def test_it(synth_lease): pass\n1 / 0", []),
    "sys.exit in a test": ("import sys\ndef test_it(synth_lease): sys.exit(3)", []),
}


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("code", "arguments"), ENDINGS.values(), ids=ENDINGS)
def test_a_run_that_goes_wrong(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    code: str,
    arguments: list[str],
    workers: str,
) -> None:
    pytester.makepyfile(code)

    result = pytester.runpytest_subprocess("-n", workers, *arguments)

    assert result.ret != 0
    assert hosted.creates == hosted.releases <= 1
    runtime.assert_nothing_left()
    assert ledger_lines() == []


DEATHS = {
    "os._exit": "os._exit(1)",
    "SIGSEGV": "os.kill(os.getpid(), signal.SIGSEGV)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_worker_dies_while_traffic_flows(
    suite: pytest.Pytester, runtime: RuntimeDirectory, hosted: CountingBackend, death: str
) -> None:
    suite.makepyfile(
        test_death=f"""
        import os, signal, threading
        from test_app import ask

        def test_dies(synth_lease, app):
            threading.Thread(target=ask, args=[synth_lease]).start()
            {death}
        """
    )

    result = suite.runpytest_subprocess("-n", "2", "-p", "no:faulthandler")

    result.assert_outcomes(passed=12, failed=1)
    assert (hosted.creates, hosted.releases) == (1, 1)
    runtime.assert_nothing_left()


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("target", ["group", "controller"])
@pytest.mark.parametrize("presses", [1, 2, 3])
def test_ctrl_c(
    start: Callable[..., Running],
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    workers: str,
    target: str,
    presses: int,
) -> None:
    run = start("-n", workers)
    run.waits_in()

    for press in range(presses):
        if press:
            time.sleep(0.04)  # three presses within 0.1 s
        if run.is_over():
            break
        (run.signal_group if target == "group" else run.process.send_signal)(signal.SIGINT)

    assert run.end()
    run.let_go()
    wait_until(lambda: is_clean(runtime), RELEASE_TIMEOUT_S)
    assert (hosted.creates, hosted.releases) == (1, 1)
    assert ledger_lines() == []


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_with_a_slow_teardown(
    suite: pytest.Pytester,
    start: Callable[..., Running],
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    workers: str,
) -> None:
    with suite.path.joinpath("conftest.py").open("a") as conftest:
        conftest.write(
            "\n@pytest.fixture(autouse=True, scope='session')\ndef slow(app):\n"
            "    yield\n    import time\n    time.sleep(8)\n"
        )
    run = start("-n", workers)
    run.waits_in()

    run.signal_group(signal.SIGINT)

    run.end()
    wait_until(lambda: is_clean(runtime), RELEASE_TIMEOUT_S)
    assert (hosted.creates, hosted.releases) == (1, 1)


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("target", ["group", "controller"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_killed(
    start: Callable[..., Running],
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    workers: str,
    target: str,
    number: signal.Signals,
) -> None:
    run = start("-n", workers)
    run.waits_in()

    (run.signal_group if target == "group" else run.process.send_signal)(number)

    # Not waited for before the lease is gone: the killed process is a zombie all the while.
    wait_until(lambda: hosted.releases == 1, RELEASE_TIMEOUT_S)
    run.let_go()
    run.end()
    wait_until(lambda: is_clean(runtime))
    assert (hosted.creates, hosted.releases) == (1, 1)
    assert ledger_lines() == []


def test_killed_while_a_forked_child_lives_on(
    suite: pytest.Pytester,
    start: Callable[..., Running],
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
) -> None:
    suite.makepyfile(
        test_waiting=WAITING_TESTS.replace(
            '    (here / f"waiting',
            """    if os.fork() == 0:
        while not (here / "go").exists():
            time.sleep(0.01)
        os._exit(0)
    (here / f\"waiting""",
        )
    )
    run = start()
    run.waits_in()

    run.process.kill()

    wait_until(lambda: hosted.releases == 1, RELEASE_TIMEOUT_S)
    assert runtime.processes() != [], "the child should still be there"
    run.let_go()
    wait_until(lambda: is_clean(runtime))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_keeper_is_killed(
    start: Callable[..., Running],
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    workers: str,
) -> None:
    run = start("-n", workers)
    run.waits_in()

    os.kill(keeper_pid(runtime), signal.SIGKILL)
    run.let_go()
    output = run.end()

    assert "the tunnel keeper of this run is gone" in output
    assert hosted.creates == 1
    assert hosted.releases == 0
    assert len(ledger_lines()) == 1
    assert is_clean(runtime)

    following = start("-n", workers)
    following.end()
    assert (hosted.creates, hosted.releases) == (2, 2)
    assert ledger_lines() == []
    assert is_clean(runtime)


def test_everything_is_killed(
    start: Callable[..., Running], runtime: RuntimeDirectory, hosted: CountingBackend
) -> None:
    run = start("-n", "2")
    run.waits_in()

    os.kill(keeper_pid(runtime), signal.SIGKILL)
    run.signal_group(signal.SIGKILL)
    run.end()
    assert len(ledger_lines()) == 1
    run.let_go()

    following = start()
    following.end()
    assert (hosted.creates, hosted.releases) == (2, 2)
    assert ledger_lines() == []
    assert is_clean(runtime)


def test_everything_is_killed_with_the_embedded_backend(
    start: Callable[..., Running], runtime: RuntimeDirectory
) -> None:
    run = start("--synth-tunnels-backend=embedded")
    run.waits_in()

    os.kill(keeper_pid(runtime), signal.SIGKILL)
    run.signal_group(signal.SIGKILL)
    run.end()
    run.let_go()
    assert not is_clean(runtime)

    start("--synth-tunnels-backend=embedded").end()
    assert is_clean(runtime)


def test_the_backend_is_down_at_the_end(
    start: Callable[..., Running], runtime: RuntimeDirectory, hosted: CountingBackend
) -> None:
    run = start()
    run.waits_in()

    hosted.is_down = True
    run.let_go()
    output = run.end()

    assert "python -m pytest_synth_tunnels leases --release-stale" in output
    assert hosted.releases == 0
    assert len(ledger_lines()) == 1
    assert is_clean(runtime)

    hosted.is_down = False
    following = start()
    following.end()
    assert (hosted.creates, hosted.releases) == (2, 2)
    assert ledger_lines() == []


def test_two_runs_at_once_do_not_meet(
    start: Callable[..., Running], runtime: RuntimeDirectory, hosted: CountingBackend
) -> None:
    runs = [start("-n", "2"), start()]
    runs[0].waits_in(3)

    runs[0].let_go()
    for run in runs:
        run.end()

    assert (hosted.creates, hosted.releases) == (2, 2)
    assert is_clean(runtime)
