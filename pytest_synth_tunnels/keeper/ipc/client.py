"""Pytest's side of the keeper: start or find it, hold it by a connection, ask it.

Standard library only. Everything here works inside tests that block, fake or freeze things: the
socket is the C class (blockers replace the Python one), and every wait is a kernel timeout on a
socket, never a Python clock.
"""

import _socket
from json import loads
from typing import Any, TypeVar

from ..._unpatched import unpatched
from ...sdk.errors import TunnelError
from ...sdk.models import Secret
from ..process.launch import Run, launch, pause
from ..process.run_directory import RunDirectoryError
from .messages import (
    MAX_LINE_BYTES,
    BackendInfo,
    Challenge,
    Event,
    Events,
    Failure,
    Finish,
    Hello,
    LeaseInfo,
    Message,
    News,
    Report,
    Welcome,
    decode,
    encode,
    proof,
)

__all__ = ["KeeperClient", "KeeperError"]

_POLL_MS = 5
_SLACK_S = 5.0
"""The keeper keeps each deadline itself; this is how much later its silence is taken for death."""

_HANDSHAKE_TIMEOUT_S = 10.0

_SHORTEST_SECRET = 16
"""Less than this is an ordinary path, which reports need."""

_M = TypeVar("_M", bound=Message)


class KeeperError(TunnelError):
    """The keeper cannot be had, or it refused."""

    default_code = "KEEPER_UNAVAILABLE"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class KeeperConnection:
    """One open connection, which by being open holds what its process uses."""

    def __init__(self, run: Run, timeout_s: float) -> None:
        """Find the keeper, and prove to each other that both know the run's secret.

        Raises:
            KeeperError: there is none, or it does not answer.
        """
        self.pid = unpatched.getpid()
        self.events: list[Event] = []
        """What the keeper told unasked, not yet taken."""
        self._run = run
        self._buffer = bytearray()
        run_file = _wait_for_run_file(run, timeout_s)
        family, address = run_file["address"]
        if family == "unix":
            self._socket = unpatched.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        else:
            self._socket = unpatched.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            address = ("127.0.0.1", address)
        try:
            self._socket.settimeout(_HANDSHAKE_TIMEOUT_S)
            self._socket.connect(address)
            self._greet(run_file["secret"])
        except (OSError, ValueError) as error:
            self._socket.close()
            raise self._died(f"it does not answer ({error})") from None

    def _greet(self, secret: str) -> None:
        challenge = self._receive(Challenge)
        nonce = unpatched.urandom(16).hex()
        hello = Hello(
            proof=proof(secret, "process", challenge.nonce),
            nonce=nonce,
            pid=self.pid,
            address=self._run.address,
        )
        self._socket.sendall(encode(hello))
        if self._receive(Welcome).proof != proof(secret, "keeper", nonce):
            raise ValueError("whoever listens there does not know this run's secret")

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a request, without waiting for its answer."""
        self._socket.settimeout(_HANDSHAKE_TIMEOUT_S)
        try:
            self._socket.sendall(encode(message))
        except OSError:
            raise self._died("it ended while this run needed it") from None

    def ask(self, message: Message, answer: type[_M], timeout_s: float) -> _M:
        """Send a request and return its answer.

        Args:
            message: the request.
            answer: what the answer must be.
            timeout_s: how long the keeper may take, in seconds.

        Raises:
            KeeperError: the keeper refused, died, or did not answer in time.
        """
        self.send(message)
        self._socket.settimeout(timeout_s + _SLACK_S)
        try:
            return self._receive(answer)
        except TimeoutError:
            raise KeeperError(
                f"the keeper did not answer {type(message).__name__} within {timeout_s:g} s",
                code="KEEPER_TIMEOUT",
            ) from None
        except (OSError, ValueError):
            raise self._died("it ended while this run needed it") from None

    def _receive(self, kind: type[_M]) -> _M:
        while True:
            message = decode(self._line())
            if isinstance(message, Event):
                self.events.append(message)
            elif isinstance(message, Failure):
                raise KeeperError(message.message, code=message.code, hint=message.hint)
            elif isinstance(message, kind):
                return message
            else:
                raise ValueError(f"expected {kind.__name__}, got {type(message).__name__}")

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            data = self._socket.recv(65_536)
            if not data or len(self._buffer) > MAX_LINE_BYTES:
                raise ConnectionResetError("the keeper closed the connection")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def poll(self, kind: type[_M]) -> _M | None:
        """Take what has arrived, without waiting; return the answer if it is there.

        Events are kept in :attr:`events`.

        Raises:
            KeeperError: the keeper refused, or died.
        """
        self._socket.settimeout(0)
        try:
            return self._receive(kind)
        except BlockingIOError:
            return None
        except (OSError, ValueError):
            raise self._died("it ended while this run needed it") from None

    def wait_closed(self, timeout_s: float) -> None:
        """Wait until the keeper has gone, which closes its end."""
        self._socket.settimeout(timeout_s)
        try:
            while self._socket.recv(4096):
                pass
        except OSError:
            pass  # gone the hard way, or too slow: nothing depends on it

    def close(self) -> None:
        """Let go of everything that this connection holds."""
        self._socket.close()

    def _died(self, what: str) -> KeeperError:
        log = self._run.directory.last_log_lines()
        said = "; its last log lines:\n  " + "\n  ".join(log) if log else ""
        return KeeperError(
            f"the tunnel keeper of this run is gone: {what}{said}", code="KEEPER_DIED"
        )


def _wait_for_run_file(run: Run, timeout_s: float) -> dict[str, Any]:
    """Return the run file once the elected keeper has written it."""
    for _ in range(int(timeout_s * 1000 / _POLL_MS)):
        data = run.directory.read(run.directory.run_file)
        if data:
            found: dict[str, Any] = loads(data)
            # In no traceback that shows local variables.
            return {**found, "secret": Secret(found["secret"])}
        if run.directory.has_failed():
            break
        pause(_POLL_MS)
    log = "\n  ".join(run.directory.last_log_lines(12))
    raise KeeperError(
        f"the tunnel keeper did not start; its log ({run.directory.log}) ends with:\n  {log}"
        if log
        else f"the tunnel keeper did not start within {timeout_s:g} s and said nothing",
        code="KEEPER_NOT_STARTED",
    )


def _secret_part(public_url: str) -> str:
    """Return what nobody can guess of a URL that needs no token: its path, else its host."""
    origin, _, path = public_url.partition("://")[2].partition("/")
    prefix = path.partition("/~")[0]
    return prefix if len(prefix) >= _SHORTEST_SECRET else origin


class KeeperClient:
    """This process's hold on the keeper of its run. Makes no connection until it is needed."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._connection: KeeperConnection | None = None
        self._error: KeeperError | None = None
        """Why there is no keeper; the same cause at once for every later test."""
        self.secrets: set[str] = set()
        """The tokens, keys and secret paths that this process knows, for reports to leave out."""

    def start(self) -> None:
        """Start a candidate, unless a process of this run has; do not wait for it."""
        if self._error is not None:
            return
        try:
            self.run.directory.create()
            if self.run.directory.claim():
                launch(self.run)
        except (RunDirectoryError, OSError) as error:
            self._error = KeeperError(
                f"cannot start the tunnel keeper: {error}", code="KEEPER_NOT_STARTED"
            )

    def connect(self) -> KeeperConnection:
        """Return a new connection.

        Raises:
            KeeperError: there is no keeper to be had.
        """
        self.start()
        if self._error is not None:
            raise self._error
        return KeeperConnection(self.run, self.run.settings.start_timeout_s)

    def held(self) -> KeeperConnection:
        """Return the connection that holds this process's tunnels.

        Raises:
            KeeperError: there is no keeper to be had.
        """
        connection = self._connection
        if connection is not None and connection.pid != unpatched.getpid():
            # A forked child: the inherited connection is its parent's, to hold and to ask.
            connection.close()
            connection = None
        if connection is None:
            connection = self._connection = self.connect()
        return connection

    def ask(self, message: Message, answer: type[_M], timeout_s: float | None = None) -> _M:
        """Ask over the held connection; see :meth:`KeeperConnection.ask`."""
        if self._error is not None:
            raise self._error
        try:
            timeout_s = self.run.settings.start_timeout_s if timeout_s is None else timeout_s
            found = self.held().ask(message, answer, timeout_s)
        except KeeperError as error:
            if error.code.startswith("KEEPER_"):
                self._error = error
            raise
        if isinstance(found, LeaseInfo):
            self.secrets |= {found.worker_token or _secret_part(found.public_url)}
            self.secrets |= set(found.headers.values())
        elif isinstance(found, BackendInfo):
            self.secrets.add(found.api_key)
        return found

    def check(self) -> list[Event]:
        """Return what the keeper told since the last call; costs one system call.

        Raises:
            KeeperError: the keeper died.
        """
        connection = self._connection
        if connection is None or connection.pid != unpatched.getpid():
            return []
        if self._error is not None:
            raise self._error
        try:
            connection.poll(Event)
        except KeeperError as error:
            self._error = error
            raise
        events, connection.events = connection.events, []
        return events

    def news(self) -> list[dict[str, Any]]:
        """Return what happened to the run's leases since the last call, as its owner.

        Raises:
            KeeperError: the keeper died, or this process does not own the run.
        """
        connection = self._connection
        if connection is None or connection.pid != unpatched.getpid():
            return []
        return self.ask(News(), Events).happenings

    def finish(self, timeout_s: float) -> Report | None:
        """End the run, as its owner: release everything and wait until the keeper is gone.

        Returns:
            What the run did, or ``None`` if no process of it ever needed a keeper.

        Raises:
            KeeperError: the keeper died before, or does not end in time.
        """
        if not self.run.directory.is_claimed():
            return None
        try:
            connection = self.held()
            report = connection.ask(Finish(), Report, timeout_s)
            connection.wait_closed(_SLACK_S)
        except KeeperError:
            self.run.directory.remove()
            raise
        finally:
            self.close()
        return report

    def close(self) -> None:
        """Let go. Whoever else holds the lease keeps it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
