import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.process import process_watch as module
from pytest_synth_tunnels.keeper.process.process_start import process_start
from pytest_synth_tunnels.keeper.process.process_watch import watch_process


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(bounded())


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


class Died(asyncio.Event):
    """An event that counts how often it was set."""

    count = 0

    def __call__(self) -> None:
        self.count += 1
        self.set()


@pytest.fixture(params=["kernel", "polling"])
def kind_of_watch(request, monkeypatch):
    if request.param == "polling":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.delattr(select, "kqueue", raising=False)
        monkeypatch.setattr(module, "_POLL_S", 0.01)
        if not os.path.exists("/proc/self/stat"):
            pytest.skip("nothing to poll here")


@pytest.mark.usefixtures("kind_of_watch")
def test_a_death_is_told_once_even_of_a_zombie(sleeper) -> None:
    async def main() -> None:
        died = Died()
        watch_process(sleeper.pid, died)
        await asyncio.sleep(0.02)
        assert not died.is_set()

        sleeper.send_signal(signal.SIGKILL)  # nobody waits for it: it stays a zombie
        await died.wait()
        await asyncio.sleep(0.02)
        assert died.count == 1

    run(main())


@pytest.mark.usefixtures("kind_of_watch")
def test_a_closed_watch_tells_nothing(sleeper) -> None:
    async def main() -> None:
        closed, died = Died(), Died()
        watch = watch_process(sleeper.pid, closed)
        watch_process(sleeper.pid, died)
        watch.close()
        watch.close()
        sleeper.kill()
        await died.wait()
        assert not closed.is_set()

    run(main())


@pytest.mark.usefixtures("kind_of_watch")
def test_a_process_that_is_gone_already(sleeper) -> None:
    sleeper.kill()
    sleeper.wait()

    async def main() -> None:
        died = Died()
        watch_process(sleeper.pid, died)
        assert not died.is_set()
        await died.wait()

    run(main())


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_another_process_with_the_same_id_is_not_the_one_meant() -> None:
    async def main() -> None:
        died, alive = Died(), Died()
        watch = watch_process(os.getpid(), alive, start=process_start(os.getpid()))
        watch_process(os.getpid(), died, start="1")
        await died.wait()
        assert not alive.is_set()
        watch.close()

    run(main())
