"""A keeper that answers what a test says, in a thread of the test's process."""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_synth_tunnels.keeper.ipc.client_session import ClientSession
from pytest_synth_tunnels.keeper.ipc.holders import Holder, Holders
from pytest_synth_tunnels.keeper.ipc.messages import Event, Message
from pytest_synth_tunnels.keeper.process.launch import Run
from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory
from pytest_synth_tunnels.settings import Settings

__all__ = ["KeeperServer", "run_in", "serving_keeper"]

SECRET = "5ec7e7" * 10

Answer = Callable[[Holder, Message], Awaitable[Any]]


def run_in(directory: Path, **settings: Any) -> Run:
    """Return a run whose keeper is there already, as far as its processes are concerned."""
    for path in (directory.parent, directory):
        path.mkdir(mode=0o700, exist_ok=True)
    (directory / "claim").mkdir(exist_ok=True)
    return Run(
        run_id="r",
        directory=RunDirectory(str(directory)),
        owner_pid=os.getpid(),
        address="gw1",
        settings=Settings(**settings),
        environ={},
        cwd=str(directory),
        sys_path=[],
    )


class KeeperServer:
    """The keeper's end of the connections of one run.

    Attributes:
        sessions: the open connections, oldest first.
        opened: how many there have been.
        most_at_once: how many requests have waited for their answers at the same time.
    """

    def __init__(self, run: Run, answer: Answer) -> None:
        self.sessions: list[ClientSession] = []
        self.opened = 0
        self.most_at_once = 0
        self._at_once = 0
        self._run = run
        self._answer = answer
        self._holders = Holders(lambda _: None)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def call(self, function: Callable[..., object], *arguments: object) -> Any:
        """Call a function in the keeper's thread and return what it returns."""

        async def call() -> object:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(20)

    def tell(self, event: Event) -> None:
        """Tell all processes an event."""
        self.call(lambda: [holder.tell(event) for holder in self._holders])

    def cut(self, *, holding: bool) -> None:
        """Cut the connections that hold and hear events, or all others."""
        self.call(
            lambda: [
                session.abort() for session in self.sessions if session._wants_events is holding
            ]
        )

    async def _respond(self, holder: Holder, message: Message) -> Any:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(holder, message)
        finally:
            self._at_once -= 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = ClientSession(
            reader,
            writer,
            pid=os.getpid(),
            secret=SECRET,
            holders=self._holders,
            answer=self._respond,
        )
        self.opened += 1
        self.sessions.append(session)
        try:
            await session.run()
        finally:
            self.sessions.remove(session)

    async def _start(self) -> None:
        path = self._run.directory.socket
        self._server = await asyncio.start_unix_server(self._accept, path)
        content = {"pid": os.getpid(), "address": ["unix", path], "secret": SECRET}
        with open(self._run.directory.run_file, "w") as file:  # noqa: ASYNC230 - a few bytes
            json.dump(content, file)

    async def _stop(self) -> None:
        self._server.close()
        for session in list(self.sessions):
            session.abort()
        await asyncio.gather(
            *(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True
        )
        self._holders.close()

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)

    def stop(self) -> None:
        """End, which cuts all connections; a second time is harmless."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(20)
            self._loop.close()


@contextmanager
def serving_keeper(run: Run, answer: Answer) -> Iterator[KeeperServer]:
    """Serve the keeper of a run."""
    server = KeeperServer(run, answer)
    server.start()
    try:
        yield server
    finally:
        server.stop()
