"""The keeper process: one for a run, decided by a lock, ended by its owner or by its owner's end.

A candidate that does not get the lock ends at once. The one that does listens, tells where in the
run file, and serves (:mod:`..service`) until the run's owner says :class:`~..ipc.messages.Finish`,
or is dead and nobody holds any more, or has been dead for ten seconds; or until it is asked to by
a signal. Then it releases everything, reports, and removes every trace of itself.
"""

import asyncio
import contextlib
import functools
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from ...aio.runtime import run
from ...aio.tasks import in_thread, spawn
from ...settings import Settings
from ..backend_client import BackendClient, EmbeddedBackendClient, HostedBackendClient
from ..errors import KeeperRequestError
from ..ipc.client_session import ClientSession
from ..ipc.holders import Holder
from ..ipc.messages import MAX_LINE_BYTES, Events, Finish, Message, News, Report
from ..service import KeeperService
from .process_watch import watch_process
from .run_directory import RunDirectory
from .stale_runs import remove_stale_runs

if TYPE_CHECKING:
    from ..ledger.recorder import LedgerRecorder

__all__ = ["KeeperProcess", "main"]

_log = logging.getLogger(__name__)

_GRACE_S: Final = 10.0
"""How long workers may go on after their controller has died; they need 5 to 6 seconds."""

_REPORT_TIMEOUT_S: Final = 2.0
_MAX_CONNECTIONS: Final = 1024


def main(config: dict[str, Any]) -> None:
    """Be the keeper of a run, or find that there is one already, and return.

    Args:
        config: ``run_dir``, ``run_id``, ``owner_pid``, ``owner_start`` (``None`` where the system
            does not say), ``settings``, ``environ`` and ``cwd`` of the command; ``grace_s`` if
            it is to differ from ten seconds.

    Raises:
        OSError: the run directory cannot be used.
    """
    directory = RunDirectory(config["run_dir"])
    lock = FileLock(directory.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return
    _log_to_stderr()
    run(KeeperProcess(config, directory).run())
    lock.release()


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(name)s: %(message)s",
    )
    # It writes a line for each request, with its URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _choose_backend(
    settings: Settings, directory: RunDirectory
) -> "tuple[BackendClient, LedgerRecorder | None]":
    """Return the backend, and the books for what it is owed if it outlives this process."""
    if settings.backend_url is None:
        return EmbeddedBackendClient(settings.request_timeout_s), None
    from ..ledger.ledger import Ledger, state_folder
    from ..ledger.recorder import LedgerRecorder

    plane = HostedBackendClient(settings.backend_url)
    return plane, LedgerRecorder(Ledger(state_folder(os.environ)), plane, directory.lock)


class KeeperProcess:
    """The process around a :class:`~..service.KeeperService`: who is heard, and when it is over.

    Args:
        config: see :func:`main`.
        directory: of the run.
    """

    def __init__(self, config: dict[str, Any], directory: RunDirectory) -> None:
        self._owner_pid: int = config["owner_pid"]
        self._owner_start: str | None = config["owner_start"]
        self._directory = directory
        self._grace_s: float = config.get("grace_s", _GRACE_S)
        self._secret = secrets.token_hex(32)
        self._conversations: set[ClientSession] = set()
        self._owner_died = False
        self._over = asyncio.Event()
        """Set when it is time to finish."""
        self._finished: asyncio.Task[Report] | None = None
        settings = Settings.from_json(config["settings"])
        plane, books = _choose_backend(settings, directory)
        self._service = KeeperService(
            run_id=config["run_id"],
            settings=settings,
            environ=config["environ"],
            cwd=config["cwd"],
            plane=plane,
            books=books,
            left=self._somebody_left,
        )

    async def run(self) -> None:
        """Listen, serve, and finish."""
        listener = self._listen()
        server = await asyncio.start_server(self._accept, sock=listener, limit=MAX_LINE_BYTES)
        self._write_run_file(listener)
        self._catch_signals()
        watch = watch_process(self._owner_pid, self._owner_is_dead, start=self._owner_start)
        started_at = time.monotonic()
        self._service.start()
        spawn(in_thread(functools.partial(remove_stale_runs, self._directory)))
        await self._over.wait()
        report = await self._finish()
        watch.close()
        server.close()
        _log.info(
            "ended after %.1f s: %d created, %d released",
            time.monotonic() - started_at,
            report.created,
            report.released,
        )
        await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        """See that the owner has its report, and remove every trace.

        The lock's file goes with the directory, while the lock is held: whoever can take it, or
        finds it gone, knows that this keeper has ended. After a crash all of it stays, for the log
        says why, and whoever finds that out cleans up.
        """
        owners = [
            conversation
            for conversation in self._conversations
            if conversation.holder is not None and conversation.holder.pid == self._owner_pid
        ]
        if owners:
            waits = [spawn(conversation.idle.wait()) for conversation in owners]
            await asyncio.wait(waits, timeout=_REPORT_TIMEOUT_S)
        for conversation in owners:
            conversation.outlive()
        self._directory.remove()

    # --- who is heard

    def _listen(self) -> socket.socket:
        if os.name != "posix":
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.bind(("127.0.0.1", 0))
            return listener
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory.socket)  # a keeper of this run was killed
        before = os.umask(0o177)
        try:
            listener.bind(self._directory.socket)
        finally:
            os.umask(before)
        return listener

    def _write_run_file(self, listener: socket.socket) -> None:
        address = (
            ["unix", self._directory.socket]
            if os.name == "posix"
            else ["tcp", listener.getsockname()[1]]
        )
        content = {
            "pid": os.getpid(),
            "address": address,
            "secret": self._secret,
            "owner_pid": self._owner_pid,
            "owner_start": self._owner_start,
        }
        temporary = f"{self._directory.run_file}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, self._directory.run_file)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._conversations) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        conversation = ClientSession(
            reader,
            writer,
            pid=os.getpid(),
            secret=self._secret,
            holders=self._service.holders,
            answer=self._answer,
        )
        self._conversations.add(conversation)
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)

    async def _answer(self, holder: Holder, message: Message) -> Message:
        if not isinstance(message, (Finish, News)):
            return await self._service.answer(holder, message)
        if holder.pid != self._owner_pid:
            raise KeeperRequestError("NOT_THE_OWNER", "only the run's owner can ask that")
        if isinstance(message, News):
            return Events(happenings=self._service.journal.drain())
        _log.info("the run's owner has finished it")
        self._over.set()
        return await asyncio.shield(self._finish())

    # --- when it is over

    def _finish(self) -> "asyncio.Task[Report]":
        if self._finished is None:
            self._finished = spawn(self._service.finish())
        return self._finished

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)):
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(
                    number, functools.partial(self._end, f"caught {number.name}")
                )

    def _owner_is_dead(self) -> None:
        self._owner_died = True
        self._somebody_left()
        if not self._over.is_set():
            _log.info("the run's owner is dead; its workers get %.0f s", self._grace_s)
            loop = asyncio.get_running_loop()
            loop.call_later(self._grace_s, self._end, "the run's owner is dead")

    def _somebody_left(self) -> None:
        if self._owner_died and not len(self._service.holders):
            self._end("the run's owner is dead and nobody holds its tunnels")

    def _end(self, reason: str) -> None:
        if not self._over.is_set():
            _log.info("ending: %s", reason)
            self._over.set()
