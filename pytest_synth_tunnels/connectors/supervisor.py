"""Keeps a connector's program running."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from .base import ConnectorError, ConnectorStatus
from .child import Tail
from .output_rules import OutputRule, OutputState

__all__ = ["Process", "Supervisor"]

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 60.0
"""A program that ran for so long is not one that ends at once: the pauses begin anew."""


class Process(Protocol):
    """What is supervised: a :class:`~.child.Child`."""

    tail: Tail

    async def start(self) -> None:
        """Start it.

        Raises:
            OSError: it cannot be run.
            ValueError: its arguments make no sense.
        """

    async def wait(self) -> str:
        """Wait for its end and return how it ended."""

    async def stop(self) -> None:
        """End it and everything it started."""


class Supervisor:
    """Starts a program, reads its lines, and starts it again when it ends.

    One that ends without ever having been connected is not started again: whoever waits for it
    must learn of that now. Neither is one that says that trying again cannot help. Any other is,
    forever: at once if it was connected and had not failed lately, else after a pause, which
    doubles up to half a minute.

    Args:
        name: of the program, for people.
        make: makes the process, not yet started; each line of its output goes to the function
            that is given. May raise :class:`~.base.ConnectorError`.
        signs: what its lines mean.
        needs_origin: it is of use only once it has told the public origin.
        sleep: waits for some seconds.
        now: seconds of a clock that goes on steadily.
        uniform: draws a number between two others.

    Attributes:
        status: how it fares; replaced as a whole, so that other threads may read it.
        restarts: how often it was started again.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Callable[[str], None]], Process],
        signs: Iterable[OutputRule],
        *,
        needs_origin: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.status = ConnectorStatus(False, f"{name} was not started")
        self.restarts = 0
        self._name = name
        self._make = make
        self._reading = OutputState(signs, needs_origin=needs_origin)
        self._sleep = sleep
        self._now = now or asyncio.get_running_loop().time
        self._uniform = uniform
        self._process: Process | None = None
        self._tail = Tail()
        """Of the process that runs, or ran last."""
        self._before: list[str] = []
        """The last lines of the one before."""
        self._ends = 0
        """In a row, none of them after a steady time."""
        self._pauses = 0
        """Likewise."""
        self._settled = asyncio.Event()
        """It is connected, or will never be."""
        self._over = asyncio.Event()
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the program, and keep it running.

        Raises:
            ConnectorError: it cannot be started.
        """
        if self._task is None:
            self._process = await self._spawn()
            self._task = asyncio.create_task(self._run(self._process))

    async def up(self) -> str | None:
        """Wait until it is connected.

        Returns:
            The public origin, if a line has told it.

        Raises:
            ConnectorError: it will never be, or was stopped meanwhile.
        """
        while True:
            await self._settled.wait()
            if self._stopped:
                raise ConnectorError(self.status.error)
            if self._reading.is_over:
                message = self._explained()
                if not self._reading.told:
                    message += f"; {self._tail.quoted()}"
                raise ConnectorError(message, self._reading.hint)
            if self._reading.connected:
                return self._reading.origin

    async def stop(self) -> None:
        """End the program, for good. Harmless when repeated."""
        self._stopped = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        process, self._process = self._process, None
        if process is not None:
            await process.stop()
        self.status = ConnectorStatus(False, f"{self._name} was stopped")
        self._settled.set()

    def logs(self) -> list[str]:
        """Return its last lines; after a restart, also those from before it."""
        return [*self._before, *self._tail.lines(100)]

    async def _run(self, process: Process) -> None:
        while True:
            started_at = self._now()
            outcome = await self._end_of(process)
            was_connected = self._reading.connected
            if not self._over.is_set():
                self._reading.ended(f"{self._name} ended ({outcome})")
                self._changed()
            await process.stop()
            if self._over.is_set():
                return
            if self._now() - started_at >= _STEADY_S:
                self._ends = self._pauses = 0
            process = await self._again(at_once=was_connected and not self._ends)

    async def _end_of(self, process: Process) -> str:
        """Return how the process ended, or ``""`` when it is of no use any more."""
        ending = asyncio.ensure_future(process.wait())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((ending, over), return_when=asyncio.FIRST_COMPLETED)
            return ending.result() if ending.done() else ""
        finally:
            ending.cancel()
            over.cancel()

    async def _again(self, *, at_once: bool) -> Process:
        """Start another process, after a pause, until that works."""
        self._ends += 1
        while True:
            if not at_once:
                longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._pauses, 10))
                self._pauses += 1
                await self._sleep(self._uniform(longest_s / 2, longest_s))
            at_once = False
            try:
                self._process = await self._spawn()
            except ConnectorError as error:
                self._reading.ended(error.message)
                self._changed()
            else:
                self.restarts += 1
                return self._process

    async def _spawn(self) -> Process:
        process = self._make(self._line)
        try:
            await process.start()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConnectorError(f"{self._name} cannot be started: {reason}") from None
        self._before = self._tail.lines()
        self._tail = process.tail
        self._reading.started()
        self._changed()
        return process

    def _line(self, line: str) -> None:
        self._reading.take(line)
        self._changed()

    def _changed(self) -> None:
        connected, is_over = self._reading.connected, self._reading.is_over
        self.status = ConnectorStatus(connected, "" if connected else self._explained())
        if is_over:
            self._over.set()
        if connected or is_over:
            self._settled.set()
        else:
            self._settled.clear()

    def _explained(self) -> str:
        """Return why it is not connected, in a line."""
        if self._reading.error:
            return f"{self._name} is not connected: {self._reading.error}"
        last = self._tail.lines(1)
        said = f"its last line: {last[0]}" if last else "it has printed nothing"
        return f"{self._name} has not said that it is connected; {said}"
