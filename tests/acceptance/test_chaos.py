"""Workers die at random while callbacks flow: whoever lives is answered, by its own app.

``SYNTH_TUNNELS_TEST_CHAOS_S`` sets how long; CI runs the short form.
"""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from .conftest import CountingBackend, RuntimeDirectory
from .test_endings import Running, ledger_lines, wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.usefixtures("unmeasured"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.name != "posix", reason="kills by SIGKILL"),
]

DURATION_S = float(os.environ.get("SYNTH_TUNNELS_TEST_CHAOS_S", "8"))
WORKERS = 8
CALLBACKS_PER_S = 50
KILL_INTERVAL_S = 1.0

WAITING_TESTS = """
import json, os, pathlib, time

import pytest

here = pathlib.Path(__file__).parent

@pytest.mark.parametrize("n", range(400))
def test_waits(synth_lease, app, n):
    known = {"url": synth_lease.url("/"), "headers": synth_lease.headers}
    new = here / f"{os.getpid()}.new"
    new.write_text(json.dumps(known))
    new.rename(here / f"{os.getpid()}.worker")
    while not (here / "go").exists():
        time.sleep(0.05)
"""


class Callers:
    """Threads that call every worker in turn, all of them together at a fixed rate."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]
        self.killed: set[int] = set()
        """Workers that were sent the signal, or are about to be."""
        self.answered = 0
        self.wrong: list[str] = []
        """Answers, or none, that a living worker's caller should not get."""

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._stop.wait(len(self._threads) / CALLBACKS_PER_S):
            try:
                file = random.choice(list(self._path.glob("*.worker")))
                pid, known = int(file.stem), json.loads(file.read_text())
            except (IndexError, FileNotFoundError):
                continue  # another thread found that this worker is dead
            try:
                with urlopen(Request(known["url"], headers=known["headers"]), timeout=20) as answer:
                    seen = json.load(answer)["pid"]
            except HTTPError as error:
                with error:
                    seen = f"{error} {error.read(1000)!r}"
            except (OSError, ValueError) as error:
                seen = repr(error)
            if seen == pid:
                self.answered += 1
            elif pid not in self.killed:
                self.wrong.append(f"worker {pid} lives, and its caller got {seen}")
            else:
                file.unlink(missing_ok=True)


def test_workers_die_at_random(
    suite: pytest.Pytester, runtime: RuntimeDirectory, hosted: CountingBackend
) -> None:
    suite.path.joinpath("test_app.py").unlink()
    suite.makepyfile(test_waiting=WAITING_TESTS)
    run = Running(suite.path, ["-q", "-n", str(WORKERS), "--max-worker-restart=1000"])
    kills = 0
    try:
        wait_until(lambda: len(list(suite.path.glob("*.worker"))) == WORKERS, 60)
        with Callers(suite.path) as callers:
            ends_at = time.monotonic() + DURATION_S
            while time.monotonic() < ends_at:
                time.sleep(KILL_INTERVAL_S)  # the rate of the kills, not a wait for something
                workers = {int(file.stem) for file in suite.path.glob("*.worker")}
                alive = sorted(workers - callers.killed)
                if alive:
                    victim = random.choice(alive)
                    callers.killed.add(victim)
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
        run.let_go()
        output = run.end()
    finally:
        run.close()

    print(f"{kills} kills, {callers.answered} requests answered")
    assert callers.wrong == []
    assert kills > 0
    assert callers.answered > kills
    assert f"{kills} failed, {400 - kills} passed" in output
    assert (hosted.creates, hosted.releases) == (1, 1)
    assert ledger_lines() == []
    wait_until(lambda: not runtime.processes())
    runtime.assert_nothing_left()
