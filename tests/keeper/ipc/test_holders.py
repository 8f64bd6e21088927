import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.ipc.holders import Holder, Holders
from pytest_synth_tunnels.keeper.ipc.messages import Event


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


class Connection:
    def __init__(self) -> None:
        self.aborted = False

        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def abort(self) -> None:
        self.aborted = True


def test_the_last_connection_ends_the_hold() -> None:
    async def main() -> None:
        gone: list[Holder] = []
        holders = Holders(gone.append)
        one, other = Connection(), Connection()
        holder = holders.join(os.getpid(), "gw1", one)
        assert holders.join(os.getpid(), "gw1", other) is holder
        assert len(holders) == 1
        assert holders.has_address("gw1")
        assert not holders.has_address("gw2")
        event = Event(kind="lost", lease_id="lease_1", shared=True, message="gone")
        holder.tell(event)
        assert one.events == other.events == [event]

        holders.leave(holder, one)
        assert gone == []
        holders.leave(holder, other)
        holders.leave(holder, other)
        assert gone == [holder]
        assert list(holders) == []
        assert not holders.has_address("gw1")

    run(main())


def test_death_ends_the_hold_although_a_child_has_the_connection(sleeper) -> None:
    async def main() -> None:
        gone: asyncio.Queue[Holder] = asyncio.Queue()
        holders = Holders(gone.put_nowait)
        connection = Connection()
        holder = holders.join(sleeper.pid, "", connection)

        sleeper.kill()

        assert await gone.get() is holder
        assert connection.aborted
        holders.leave(holder, connection)
        assert gone.empty()

    run(main())


def test_a_later_process_with_the_same_id_is_another_holder() -> None:
    async def main() -> None:
        gone: list[Holder] = []
        holders = Holders(gone.append)
        first = holders.join(os.getpid(), "gw1", connection := Connection())
        holders.leave(first, connection)

        second = holders.join(os.getpid(), "gw4", Connection())
        holders.leave(first, connection)

        assert gone == [first]
        assert list(holders) == [second]
        holders.close()
        assert len(holders) == 0

    run(main())
