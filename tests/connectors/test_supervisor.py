"""Restarts, with processes that the test plays and a clock that it moves."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pytest_synth_tunnels.connectors.base import ConnectorError
from pytest_synth_tunnels.connectors.child import Tail
from pytest_synth_tunnels.connectors.output_rules import Outcome, OutputRule
from pytest_synth_tunnels.connectors.supervisor import Supervisor

SIGNS = (
    OutputRule(Outcome.UP, "^up"),
    OutputRule(Outcome.FAILED, "^failed"),
    OutputRule(Outcome.OVER, "^over", "Do something"),
)


class Played:
    """A process whose lines and end come from the test."""

    def __init__(self, on_line: Callable[[str], None], error: Exception | None = None) -> None:
        self.tail = Tail(on_line=on_line)
        self.stopped = False
        self._error = error
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        if self._error is not None:
            raise self._error

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        self.stopped = True
        self.end("SIGTERM")

    def say(self, *lines: str) -> None:
        for line in lines:
            self.tail.feed(f"{line}\n".encode())

    def end(self, outcome: str) -> None:
        if not self._ended.done():
            self._ended.set_result(outcome)


class World:
    """A supervisor, its processes, and its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.processes: list[Played] = []
        self.errors: list[Exception] = []
        """How the next starts fail."""
        self.supervisor = Supervisor(
            "bore",
            self.make,
            SIGNS,
            sleep=self.sleep,
            now=lambda: self.now,
            uniform=lambda low, high: high,
        )

    def make(self, on_line: Callable[[str], None]) -> Played:
        process = Played(on_line, self.errors.pop(0) if self.errors else None)
        self.processes.append(process)
        return process

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    @property
    def current(self) -> Played:
        return self.processes[-1]

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


def play(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            world = World()
            try:
                await scenario(world)
            finally:
                await world.supervisor.stop()
                assert world.processes[-1].stopped
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_one_that_dies_after_an_hour_is_started_again_at_once() -> None:
    async def scenario(world: World) -> None:
        assert "not started" in world.supervisor.status.error
        await world.supervisor.start()
        await world.supervisor.start()
        assert len(world.processes) == 1
        first = world.current
        first.say("up")
        assert await world.supervisor.up() is None
        assert world.supervisor.status.connected

        world.now += 3600
        first.say("something happened")
        first.end("SIGSEGV")
        await world.settle()

        assert world.pauses == []
        assert first.stopped
        assert world.current is not first
        status = world.supervisor.status
        assert (status.connected, status.error) == (
            False,
            "bore is not connected: bore ended (SIGSEGV)",
        )
        world.current.say("hello", "up")
        await world.supervisor.up()
        assert world.supervisor.status.connected
        assert len(world.processes) == 2
        assert world.supervisor.logs() == ["up", "something happened", "hello", "up"]

    play(scenario)


def test_one_that_keeps_dying_is_given_longer_and_longer_pauses() -> None:
    async def scenario(world: World) -> None:
        await world.supervisor.start()
        for _ in range(8):
            world.current.say("up")
            world.current.end("exit status 1")
            await world.settle()
        # The first one was at once.
        assert world.pauses == [1, 2, 4, 8, 16, 30, 30]

        world.current.say("up")
        world.now += 61
        world.current.end("exit status 1")
        await world.settle()
        assert len(world.pauses) == 7
        world.current.say("failed: no luck")
        world.current.end("exit status 2")
        await world.settle()
        assert world.pauses[7:] == [1]
        assert world.supervisor.status.error == (
            "bore is not connected: bore ended (exit status 2): failed: no luck"
        )

    play(scenario)


def test_a_program_that_has_disappeared_meanwhile() -> None:
    async def scenario(world: World) -> None:
        await world.supervisor.start()
        world.current.say("up")
        world.errors = [FileNotFoundError(2, "No such file"), PermissionError(13, "Denied")]
        world.current.end("SIGKILL")
        await world.settle()

        assert world.pauses == [1, 2]
        assert world.supervisor.status.error.endswith("bore cannot be started: Denied")
        world.current.say("up")
        await world.supervisor.up()

    play(scenario)


def test_one_that_cannot_be_started() -> None:
    async def scenario(world: World) -> None:
        world.errors = [PermissionError(13, "Permission denied")]
        with pytest.raises(ConnectorError, match=r"bore cannot be started: Permission denied"):
            await world.supervisor.start()
        world.errors = [ValueError("embedded null byte")]
        with pytest.raises(ConnectorError, match="embedded null byte"):
            await world.supervisor.start()
        await world.supervisor.start()

    play(scenario)


def test_one_that_ends_at_once_is_not_started_again() -> None:
    async def scenario(world: World) -> None:
        await world.supervisor.start()
        waiting = asyncio.create_task(world.supervisor.up())
        world.current.say("usage: bore [OPTIONS]")
        world.current.end("exit status 2")
        with pytest.raises(ConnectorError) as caught:
            await waiting
        assert caught.value.message == (
            "bore is not connected: bore ended (exit status 2); its last lines:\n"
            "  usage: bore [OPTIONS]"
        )
        await world.settle()
        assert len(world.processes) == 1
        with pytest.raises(ConnectorError):
            await world.supervisor.up()

    play(scenario)


def test_one_that_says_that_it_is_over_is_ended() -> None:
    async def scenario(world: World) -> None:
        await world.supervisor.start()
        waiting = asyncio.create_task(world.supervisor.up())
        await world.settle()
        world.current.say("over: no such account")
        with pytest.raises(ConnectorError) as caught:
            await waiting
        assert caught.value.hint == "Do something"
        assert str(caught.value) == ("bore is not connected: over: no such account. Do something")
        await world.settle()
        assert world.current.stopped
        assert len(world.processes) == 1
        assert not world.supervisor.status.connected

    play(scenario)


def test_one_that_hangs_says_its_last_line() -> None:
    async def scenario(world: World) -> None:
        await world.supervisor.start()
        assert world.supervisor.status.error == (
            "bore has not said that it is connected; it has printed nothing"
        )
        world.current.say("one", "dialling")
        assert world.supervisor.status.error == (
            "bore has not said that it is connected; its last line: dialling"
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await world.supervisor.up()
        assert world.supervisor.logs() == ["one", "dialling"]

    play(scenario)


def test_waiting_goes_on_when_a_connection_is_lost_before_the_waiter_ran() -> None:
    async def scenario(world: World) -> None:
        await world.supervisor.start()
        waiting = asyncio.create_task(world.supervisor.up())
        await world.settle()
        world.current.say("up", "failed again")
        await world.settle()
        assert not waiting.done()
        world.current.say("up")
        await waiting

    play(scenario)


def test_stopping_while_it_pauses() -> None:
    async def scenario(world: World) -> None:
        async def forever(seconds: float) -> None:
            await asyncio.Event().wait()

        await world.supervisor.start()
        world.supervisor._sleep = forever
        for _ in range(2):
            world.current.say("up")
            world.current.end("exit status 1")
            await world.settle()
        await world.supervisor.stop()
        assert world.supervisor.status.error == "bore was stopped"
        assert len(world.processes) == 2

    play(scenario)


def test_stopping_while_somebody_waits() -> None:
    async def scenario(world: World) -> None:
        await world.supervisor.start()
        waiting = asyncio.create_task(world.supervisor.up())
        await world.settle()
        await world.supervisor.stop()
        with pytest.raises(ConnectorError, match="bore was stopped"):
            await waiting

    play(scenario)
