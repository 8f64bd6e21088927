"""The keeper process: one for a run, elected by a lock, ended by the run's owner or its death.

Theory of operation. A keeper process is a *candidate*, *serving*, *finishing* or gone:

- Candidate: it tries to take the lock of the run directory, once and without waiting. One that
  does not get it ends at once; another process of the run has been faster.
- Serving: it listens, writes where into the run file, and answers requests (:mod:`..service`).
- Finishing begins when ``_stop_requested`` is set, and that has one of four causes: the run's
  owner asks for it (:class:`~..ipc.messages.Finish`); a signal; the owner is dead and no process
  holds a lease; or the owner has been dead for ten seconds. Everything is then released once,
  however many causes there are, and the owner gets the report if it is still there.
- Gone: once everything is released the run directory is removed, while the lock is held, so that
  nobody ever finds a run directory without a keeper that is on its way out or has crashed. Then
  the owner gets the report, and the process ends at once; nobody waits for that. After a crash
  the directory stays, for its log says why; :mod:`.stale_runs` removes it later.
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
from ...compiled import build_name
from ...settings import Settings
from ...traffic.recorder import Recorder
from ..backend_client import BackendClient, EmbeddedBackendClient, HostedBackendClient
from ..errors import KeeperRequestError
from ..ipc.client_session import Answer, ClientSession
from ..ipc.holders import Holder
from ..ipc.messages import MAX_LINE_BYTES, Finish, LeaseEvents, Message, Report, TakeLeaseEvents
from ..service import KeeperService
from ..traffic import RunTraffic
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
    run(_keep(config, directory))
    lock.release()


async def _keep(config: dict[str, Any], directory: RunDirectory) -> None:
    await KeeperProcess(config, directory).run()


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(name)s: %(message)s",
    )
    # It writes a line for each request, with its URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _choose_backend(
    settings: Settings, directory: RunDirectory, recorder: Recorder | None
) -> "tuple[BackendClient, LedgerRecorder | None]":
    """Return the backend, and the ledger of its leases if it outlives this process."""
    if settings.backend_url is None:
        return EmbeddedBackendClient.of(settings, recorder, directory.path), None
    from ..ledger.ledger import Ledger, state_folder
    from ..ledger.recorder import LedgerRecorder

    backend_client = HostedBackendClient(settings.backend_url)
    return backend_client, LedgerRecorder(
        Ledger(state_folder(os.environ)), backend_client, directory.lock
    )


class KeeperProcess:
    """The process around a :class:`~..service.KeeperService`: its listener and its end. Made on
    the event loop.

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
        self._sessions: set[ClientSession] = set()
        self._owner_died = False
        self._stop_requested = asyncio.Event()
        """Set when finishing is to begin."""
        self._finished: asyncio.Task[Report] | None = None
        settings = Settings.from_json(config["settings"])
        traffic = RunTraffic.of(settings)
        backend_client, ledger_recorder = _choose_backend(settings, directory, traffic.recorder)
        self._service = KeeperService(
            run_id=config["run_id"],
            settings=settings,
            environ=config["environ"],
            cwd=config["cwd"],
            backend_client=backend_client,
            ledger_recorder=ledger_recorder,
            on_holder_left=self._stop_if_unused,
            traffic=traffic,
            directory=directory,
        )

    async def run(self) -> None:
        """Listen, serve, and finish."""
        listener = self._listen()
        server = await asyncio.start_server(self._accept, sock=listener, limit=MAX_LINE_BYTES)
        self._write_run_file(listener)
        self._catch_signals()
        _log.info("pytest-synth-tunnels %s", build_name())
        watch = watch_process(self._owner_pid, self._owner_is_dead, start=self._owner_start)
        started_at = time.monotonic()
        self._service.start()
        spawn(in_thread(functools.partial(remove_stale_runs, self._directory)))
        await self._stop_requested.wait()
        report = await self._finish()
        watch.close()
        server.close()
        _log.info(
            "ended after %.1f s: %d created, %d released",
            time.monotonic() - started_at,
            report.created,
            report.released,
        )
        await self._hand_over_report()

    async def _release(self) -> Report:
        """Release everything and remove the run directory, so that nothing but this process is left
        when the owner gets its report.

        The lock's file goes with the directory while the lock is held. A process that can take
        the lock, or finds it gone, so knows that this keeper holds nothing any more.
        """
        report = await self._service.finish()
        self._directory.remove()
        return report

    async def _hand_over_report(self) -> None:
        """Wait until the owner has its report."""
        owners = [
            session
            for session in self._sessions
            if session.holder is not None and session.holder.pid == self._owner_pid
        ]
        if owners:
            waits = [spawn(session.idle.wait()) for session in owners]
            await asyncio.wait(waits, timeout=_REPORT_TIMEOUT_S)
        for session in owners:
            session.keep_open_until_exit()

    # --- the listener

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
        if len(self._sessions) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        session = ClientSession(
            reader,
            writer,
            pid=os.getpid(),
            secret=self._secret,
            holders=self._service.holders,
            answer=self._answer,
        )
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def _answer(self, holder: Holder, message: Message) -> Answer:
        if not isinstance(message, (Finish, TakeLeaseEvents)):
            return await self._service.answer(holder, message)
        if holder.pid != self._owner_pid:
            raise KeeperRequestError("NOT_THE_OWNER", "only the run's owner can ask that")
        if isinstance(message, TakeLeaseEvents):
            return LeaseEvents(lease_events=self._service.journal.drain())
        _log.info("the run's owner has finished it")
        self._stop_requested.set()
        return await asyncio.shield(self._finish())

    # --- the end

    def _finish(self) -> "asyncio.Task[Report]":
        if self._finished is None:
            self._finished = spawn(self._release())
        return self._finished

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)):
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(
                    number, functools.partial(self._request_stop, f"caught {number.name}")
                )

    def _owner_is_dead(self) -> None:
        self._owner_died = True
        self._stop_if_unused()
        if not self._stop_requested.is_set():
            _log.info("the run's owner is dead; its workers get %.0f s", self._grace_s)
            loop = asyncio.get_running_loop()
            loop.call_later(self._grace_s, self._request_stop, "the run's owner is dead")

    def _stop_if_unused(self) -> None:
        if self._owner_died and not len(self._service.holders):
            self._request_stop("the run's owner is dead and nobody holds its tunnels")

    def _request_stop(self, reason: str) -> None:
        if not self._stop_requested.is_set():
            _log.info("ending: %s", reason)
            self._stop_requested.set()
