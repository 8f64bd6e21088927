"""Keeps a connector's program running.

A :class:`Supervisor` is idle, running, pausing before a restart, over, or stopped. ``start`` moves
it from idle to running. The end of the process moves it to running again (at once, if the program
was connected and had not failed lately), to pausing (for a time that doubles up to half a minute),
or to over: a program that was never connected, or that said that trying again cannot help, is not
started again. ``stop`` ends it from any state. ``status`` always says whether traffic comes
through now, and ``_settled`` is set exactly while waiting for a connection makes no sense, because
there is one or will never be one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from ..aio.backoff import Backoff
from .base import ConnectorError, ConnectorStatus
from .child import Tail
from .output_rules import OutputRule, OutputState

__all__ = ["Process", "Supervisor"]

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 60.0
"""A program that ran for this long counts as healthy: after it the pauses begin anew."""


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

    A program that ends without ever having been connected is not started again, so that those
    who wait for it learn of it now. Nor is one that says that trying again cannot help. Any other
    program is started again and again: at once if it was connected and had not failed lately, else
    after a pause, which doubles up to half a minute.

    Args:
        name: of the program, for people.
        make: makes the process, not yet started; each line of its output goes to the function
            that is given. May raise :class:`~.base.ConnectorError`.
        rules: what its lines mean.
        needs_origin: it is of use only once it has told the public origin.
        sleep: waits for some seconds.
        now: seconds of a clock that goes on steadily.
        uniform: draws a number between two others.

    Attributes:
        status: the state of the connection; replaced as a whole, so that other threads may read
            it.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Callable[[str], None]], Process],
        rules: Iterable[OutputRule],
        *,
        needs_origin: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.status = ConnectorStatus(False, f"{name} was not started")
        self._name = name
        self._make = make
        self._output = OutputState(rules, needs_origin=needs_origin)
        self._sleep = sleep
        self._now = now or asyncio.get_running_loop().time
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, spread=0.5, uniform=uniform)
        self._process: Process | None = None
        self._tail = Tail()
        """The output of the process that runs, or ran last."""
        self._before: list[str] = []
        """The last lines of the process before that."""
        self._ends = 0
        """How often the process ended in a row, each time before it counted as healthy."""
        self._settled = asyncio.Event()
        """Set while the program is connected, and when it will never be."""
        self._over = asyncio.Event()
        """Set when the program is not to be started again."""
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
            if self._output.is_over:
                message = self._explained()
                if not self._output.told:
                    message += f"; {self._tail.quoted()}"
                raise ConnectorError(message, self._output.hint)
            if self._output.connected:
                return self._output.origin

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
            was_connected = self._output.connected
            if not self._over.is_set():
                self._output.ended(f"{self._name} ended ({outcome})")
                self._changed()
            await process.stop()
            if self._over.is_set():
                return
            if self._now() - started_at >= _STEADY_S:
                self._ends = 0
                self._backoff.reset()
            process = await self._again(at_once=was_connected and not self._ends)

    async def _end_of(self, process: Process) -> str:
        """Return how the process ended, or ``""`` once it has said that it cannot be of use."""
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
                await self._sleep(self._backoff.next_s())
            at_once = False
            try:
                self._process = await self._spawn()
            except ConnectorError as error:
                self._output.ended(error.message)
                self._changed()
            else:
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
        self._output.started()
        self._changed()
        return process

    def _line(self, line: str) -> None:
        self._output.take(line)
        self._changed()

    def _changed(self) -> None:
        connected, is_over = self._output.connected, self._output.is_over
        self.status = ConnectorStatus(connected, "" if connected else self._explained())
        if is_over:
            self._over.set()
        if connected or is_over:
            self._settled.set()
        else:
            self._settled.clear()

    def _explained(self) -> str:
        """Return why it is not connected, in a line."""
        if self._output.error:
            return f"{self._name} is not connected: {self._output.error}"
        last = self._tail.lines(1)
        said = f"its last line: {last[0]}" if last else "it has printed nothing"
        return f"{self._name} has not said that it is connected; {said}"
