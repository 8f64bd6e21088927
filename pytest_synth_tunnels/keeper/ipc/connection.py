"""One connection from a pytest process to the keeper of its run.

Standard library only. Everything here works inside tests that block, fake or freeze things: the
socket is the C class (blockers replace the Python one), and every wait is a kernel timeout on a
socket, never a Python clock.
"""

import _socket
from contextlib import suppress
from json import loads
from typing import Any, Protocol, TypeVar

from ..._unpatched import unpatched
from ...sdk.models import Secret
from ..process.candidate import pause
from ..process.launch import Run
from .errors import KeeperError
from .messages import (
    MAX_LINE_BYTES,
    Challenge,
    Event,
    Failure,
    Hello,
    Message,
    Welcome,
    decode,
    encode,
    proof,
)

__all__ = ["SLACK_S", "KeeperConnection", "WaitListener"]

__tracebackhide__ = True  # pytest shows a failed request at the line of the test that made it

SLACK_S = 5.0
"""The keeper keeps each deadline itself; its silence counts this much later."""

_POLL_MS = 1
_TICK_MS = 500
"""How often a wait is told to its listener."""

_HANDSHAKE_TIMEOUT_S = 10.0

_M = TypeVar("_M", bound=Message)


class WaitListener(Protocol):
    """Told while a process waits for the keeper, on the thread that waits."""

    def waiting(self, waited_s: float) -> None:
        """Take that a thread has waited so far, in seconds; called twice a second."""

    def over(self) -> None:
        """Take that a wait of which it was told is over."""


class KeeperConnection:
    """One open connection, for one thread at a time.

    By being open it holds what its process uses.

    Args:
        run: whose keeper is meant.
        timeout_s: how long to wait for a keeper that is starting, in seconds.
        wants_events: whether the keeper tells events on this connection.
        max_line_bytes: the longest line that the keeper may send.
        listener: told while the keeper starts, and while :meth:`ask` waits for its answer.

    Attributes:
        events: what the keeper told unasked and nobody has taken yet.
        is_free: whether the answers to all requests have arrived. Only then the connection can
            carry another request: an answer that comes later would be taken for the next one's.

    Raises:
        KeeperError: there is no keeper.
        ConnectionError: the keeper closed the connection, or broke the protocol.
        TimeoutError: it does not answer.
    """

    def __init__(
        self,
        run: Run,
        timeout_s: float,
        *,
        wants_events: bool = False,
        max_line_bytes: int = MAX_LINE_BYTES,
        listener: WaitListener | None = None,
    ) -> None:
        self.events: list[Event] = []
        self.is_free = True
        self._listener = listener
        self._run = run
        self._max_line_bytes = max_line_bytes
        self._buffer = bytearray()
        """What has arrived of lines that are not complete, or that nobody has read."""
        run_file = _wait_for_run_file(run, timeout_s, listener)
        family, address = run_file["address"]
        if family == "unix":
            self._socket = unpatched.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        else:
            self._socket = unpatched.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            address = ("127.0.0.1", address)
        try:
            self._socket.settimeout(_HANDSHAKE_TIMEOUT_S)
            self._socket.connect(address)
            self._greet(run_file["secret"], wants_events)
        except BaseException as error:
            self._socket.close()
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise self.keeper_died("it does not listen any more") from None
            raise

    def _greet(self, secret: str, wants_events: bool) -> None:
        """Prove to each other that both know the run's secret."""
        challenge = self._receive(Challenge)
        nonce = unpatched.urandom(16).hex()
        hello = Hello(
            proof=proof(secret, "process", challenge.nonce),
            nonce=nonce,
            pid=unpatched.getpid(),
            address=self._run.address,
            wants_events=wants_events,
        )
        self._socket.sendall(encode(hello))
        if self._receive(Welcome).proof != proof(secret, "keeper", nonce):
            raise ConnectionError("what listens there does not know this run's secret")

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a request, without waiting for its answer.

        Raises:
            ConnectionError: the keeper closed the connection.
            TimeoutError: the keeper does not read.
        """
        self.is_free = False
        self._socket.settimeout(_HANDSHAKE_TIMEOUT_S)
        self._socket.sendall(encode(message))

    def ask(self, message: Message, answer: type[_M], timeout_s: float) -> _M:
        """Send a request and return its answer.

        Args:
            message: the request.
            answer: what the answer must be.
            timeout_s: how long the keeper may take, in seconds.

        Raises:
            KeeperError: the keeper refused the request.
            ConnectionError: the keeper closed the connection, or broke the protocol.
            TimeoutError: it did not answer in time.
        """
        self.send(message)
        if self._listener is not None:
            self._wait_for_data(self._listener, timeout_s + SLACK_S)
        self._socket.settimeout(timeout_s + SLACK_S)
        return self._receive(answer)

    def receive(self, kind: type[_M], timeout_s: float) -> _M:
        """Return the next answer to a request that has several.

        Args:
            kind: what the answer must be.
            timeout_s: how long the keeper may take, in seconds.

        Raises:
            KeeperError: the keeper refused the request.
            ConnectionError: the keeper closed the connection, or broke the protocol.
            TimeoutError: it did not answer in time.
        """
        self._socket.settimeout(timeout_s + SLACK_S)
        return self._receive(kind)

    def poll(self, kind: type[_M], timeout_s: float = 0.0) -> _M | None:
        """Take what arrives, and return the answer as soon as it is there.

        Args:
            kind: what the answer must be.
            timeout_s: how long to wait for it, in seconds; by default what has arrived must do.

        Raises:
            KeeperError: the keeper refused the request.
            ConnectionError: the keeper closed the connection, or broke the protocol.
        """
        self._socket.settimeout(timeout_s)
        try:
            return self._receive(kind)
        except (BlockingIOError, TimeoutError):
            return None

    def take_events(self) -> list[Event]:
        """Return the events that have arrived since the last call.

        Raises:
            ConnectionError: the keeper closed the connection, or broke the protocol.
        """
        self.read_events(0.0)
        taken, self.events = self.events, []
        return taken

    def read_events(self, timeout_s: float) -> None:
        """Keep the events that arrive, and learn whether the keeper is still there.

        Args:
            timeout_s: how long to wait for the keeper to say something or to end, in seconds.

        Raises:
            ConnectionError: the keeper closed the connection, or broke the protocol.
        """
        self._socket.settimeout(timeout_s)
        try:
            while (message := self._next()) is None:
                self._socket.settimeout(0)
        except (BlockingIOError, TimeoutError):
            return
        raise ConnectionError(f"expected Event, got {type(message).__name__}")

    def _wait_for_data(self, listener: WaitListener, timeout_s: float) -> None:
        """Wait until anything has arrived.

        Raises:
            ConnectionError: the keeper closed the connection.
            TimeoutError: nothing has arrived in time.
        """
        waited_s = 0.0
        try:
            while not self._buffer:
                part_s = min(_TICK_MS / 1000, timeout_s - waited_s)
                self._socket.settimeout(part_s)
                try:
                    self._read()
                except TimeoutError:
                    waited_s += part_s
                    if waited_s >= timeout_s:
                        raise
                    listener.waiting(waited_s)
        finally:
            if waited_s:
                listener.over()

    def _receive(self, kind: type[_M]) -> _M:
        """Return the next answer; keep the events that come before it."""
        while (message := self._next()) is None:
            pass
        self.is_free = True
        if isinstance(message, Failure):
            raise KeeperError(message.message, code=message.code, hint=message.hint)
        if not isinstance(message, kind):
            raise ConnectionError(f"expected {kind.__name__}, got {type(message).__name__}")
        return message

    def _next(self) -> Message | None:
        """Return the next message; ``None`` for an event, which is kept."""
        try:
            message = decode(self._line())
        except ValueError as error:
            raise ConnectionError(f"the keeper's line cannot be read: {error}") from None
        if isinstance(message, Event):
            self.events.append(message)
            return None
        return message

    def _line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._read()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _read(self) -> None:
        data = self._socket.recv(65_536)
        if not data or len(self._buffer) > self._max_line_bytes:
            raise ConnectionResetError("the keeper closed the connection")
        self._buffer += data

    def shut_down(self) -> None:
        """End the connection; a thread that waits for an answer learns it at once."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(_socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of everything that this connection holds."""
        self._socket.close()

    def keeper_died(self, what: str) -> KeeperError:
        """Return the error for a keeper that has died, with the end of its log."""
        log = self._run.directory.last_log_lines()
        said = "; its last log lines:\n  " + "\n  ".join(log) if log else ""
        return KeeperError(
            f"the tunnel keeper of this run is gone: {what}{said}", code="KEEPER_DIED"
        )


def _wait_for_run_file(run: Run, timeout_s: float, listener: WaitListener | None) -> dict[str, Any]:
    """Return the run file once the elected keeper has written it."""
    waited_ms = 0
    try:
        while waited_ms < timeout_s * 1000:
            data = run.directory.read(run.directory.run_file)
            if data:
                found: dict[str, Any] = loads(data)
                # In no traceback that shows local variables.
                return {**found, "secret": Secret(found["secret"])}
            if run.directory.has_failed():
                break
            pause(_POLL_MS)
            waited_ms += _POLL_MS
            if listener is not None and waited_ms % _TICK_MS == 0:
                listener.waiting(waited_ms / 1000)
    finally:
        if listener is not None and waited_ms >= _TICK_MS:
            listener.over()
    raise KeeperError(
        f"the tunnel keeper did not start{_why_not(run, timeout_s)}", code="KEEPER_NOT_STARTED"
    )


def _why_not(run: Run, timeout_s: float) -> str:
    """Return the end of a sentence: why a keeper did not start."""
    if log := run.directory.last_log_lines(12):
        return f"; its log ({run.directory.log}) ends with:\n  " + "\n  ".join(log)
    try:
        run.directory.check_space()
    except OSError as error:
        return f": {error}"
    if run.directory.has_failed():
        return ", and said nothing"
    return f" within {timeout_s:g} s, and said nothing"
