"""A pytest process's hold on the keeper of its run: start or find it, hold it, ask it.

A process has one *holding* connection, which is open as long as the process uses tunnels and on
which the keeper tells events, and a pool of connections for requests (:mod:`.question_pool`). Any
number of threads may ask at the same time.

Only two things make every later request fail at once with the same cause: no keeper could be
started, or the keeper died. That it died shows at the holding connection, which nothing but the
end of the keeper closes; a request that timed out, was refused or lost its own connection fails
alone.

A forked child inherits its parent's connections, which are its parent's to use: it closes its
copies and opens its own when it asks for the first time.
"""

from typing import Any, TypeVar

from ..._unpatched import unpatched
from ...settings import find_missing_key
from ..process.candidate import Candidate
from ..process.launch import Run, launch
from ..process.run_directory import RunDirectoryError
from .connection import KeeperConnection, WaitListener
from .errors import KeeperError
from .messages import (
    MAX_LINE_BYTES,
    BackendInfo,
    Event,
    Finish,
    InspectorAddress,
    LeaseEvents,
    LeaseInfo,
    Message,
    OpenInspector,
    Report,
    TakeLeaseEvents,
)
from .question_pool import QuestionPool

__all__ = ["KeeperClient"]

__tracebackhide__ = True  # pytest shows a failed request at the line of the test that made it

_FATAL_CODES = ("KEEPER_NOT_STARTED", "KEEPER_DIED")

_DEATH_TIMEOUT_S = 1.0
"""The kernel closes a dead process's connections one after the other, this much apart at most."""


_M = TypeVar("_M", bound=Message)


class _Connections:
    """The connections of one process.

    Attributes:
        lock: guards ``holding``; held while the keeper starts, and while it is asked whether it
            has died.
        holding: keeps this process's leases; ``None`` until the first request.
        questions: carry the requests.
    """

    def __init__(self, run: Run, listener: WaitListener | None) -> None:
        self.lock = unpatched.allocate_lock()
        self.holding: KeeperConnection | None = None
        self.questions = QuestionPool(
            lambda: KeeperConnection(run, run.settings.start_timeout_s, listener=listener)
        )

    def abandon(self) -> None:
        """In a forked child: close the descriptors that it inherited."""
        if self.holding is not None:
            self.holding.close()
        self.questions.abandon()


class KeeperClient:
    """This process's hold on the keeper of its run. Safe to use from any thread.

    Args:
        run: whose keeper is meant; no connection is made until it is needed.
        listener: told while a thread waits for the keeper to start, or for an answer.

    Attributes:
        run: as above.
        secrets: the tokens, keys and secret paths that this process knows, for reports to leave
            out.
    """

    def __init__(self, run: Run, listener: WaitListener | None = None) -> None:
        self.run = run
        self._listener = listener
        self.secrets: set[str] = set()
        self._error: KeeperError | None = None
        """Why there is no keeper; the same cause at once for every later request."""
        self._by_pid: dict[int, _Connections] = {}
        """This process's own connections; in a forked child its parent's too, until it asks."""

    def start(self, candidate: Candidate | None = None) -> None:
        """Start a candidate, unless a process of this run has; do not wait for it.

        Args:
            candidate: one that was started ahead, and is told if it can stand for this run.
        """
        if self._error is not None:
            return
        if missing := find_missing_key(self.run.settings, self.run.environ):
            # Each lease would be refused with it; so no keeper is started.
            self._error = KeeperError(
                missing,
                code="TUNNEL_AUTH_REQUIRED",
                hint="Set it; or use synth_tunnels_backend = auto, which takes the embedded "
                "backend where there is no key, as in the CI of a fork",
            )
            return
        try:
            self.run.directory.create()
            if self.run.directory.claim():
                launch(self.run, candidate)
        except (RunDirectoryError, OSError) as error:
            self._error = KeeperError(
                f"cannot start the tunnel keeper: {error}", code="KEEPER_NOT_STARTED"
            )

    def connect(self, max_line_bytes: int = MAX_LINE_BYTES) -> KeeperConnection:
        """Return a connection of one's own, beside the ones that this object has.

        Args:
            max_line_bytes: the longest line that the keeper may send.

        Raises:
            KeeperError: there is no keeper to be had.
        """
        self._hold()
        try:
            return KeeperConnection(
                self.run, self.run.settings.start_timeout_s, max_line_bytes=max_line_bytes
            )
        except OSError as error:
            raise self.explain(error) from None

    def ask(self, message: Message, answer: type[_M], timeout_s: float | None = None) -> _M:
        """Send a request and return its answer.

        Args:
            message: the request.
            answer: what the answer must be.
            timeout_s: how long the keeper may take, in seconds; by default ``start_timeout_s``.

        Raises:
            KeeperError: the keeper refused, died, or did not answer in time.
        """
        if timeout_s is None:
            timeout_s = self.run.settings.start_timeout_s
        connections = self._hold()
        try:
            with connections.questions.connection(timeout_s) as connection:
                found = connection.ask(message, answer, timeout_s)
        except TimeoutError:
            raise KeeperError(
                f"the keeper did not answer {type(message).__name__} within {timeout_s:g} s",
                code="KEEPER_TIMEOUT",
            ) from None
        except OSError as error:
            raise self.explain(error) from None
        except KeeperError as error:
            self._remember(error)
            raise
        if isinstance(found, LeaseInfo):
            self.secrets |= {found.worker_token or "", found.url_secret} - {""}
            self.secrets.update(found.headers.values())
        elif isinstance(found, BackendInfo):
            self.secrets.add(found.api_key)
        return found

    def explain(self, error: OSError) -> KeeperError:
        """Return what a broken connection means: the keeper died, or this request alone failed.

        Args:
            error: what the connection raised.
        """
        connections = self._mine()
        with connections.lock:
            if connections.holding is not None:
                try:
                    connections.holding.read_events(_DEATH_TIMEOUT_S)
                except OSError:
                    return self._remember(
                        connections.holding.keeper_died("it ended while this run needed it")
                    )
        return KeeperError(f"the tunnel keeper broke off this request ({error})")

    def check(self) -> list[Event]:
        """Return what the keeper told since the last call; costs one system call.

        Raises:
            KeeperError: the keeper died.
        """
        connections = self._by_pid.get(unpatched.getpid())
        if connections is None or connections.holding is None:
            return []
        self._raise_remembered()
        with connections.lock:
            if connections.holding is None:
                return []  # another thread has finished the run
            try:
                return connections.holding.take_events()
            except OSError:
                raise self._remember(
                    connections.holding.keeper_died("it ended while this run needed it")
                ) from None

    def open_inspector(self) -> str:
        """Open the live page with the run's traffic, unless it is open, and return its URL.

        The URL is a secret, which reports leave out. The page ends with the run.

        Raises:
            KeeperError: there is no keeper, or it records nothing.
        """
        masked = list(self.run.settings.traffic_masked)
        url = self.ask(OpenInspector(masked=masked), InspectorAddress).url
        self.secrets.add(url.rstrip("/").rpartition("/")[2])
        return url

    def take_lease_events(self) -> list[dict[str, Any]]:
        """Return what happened to the run's leases since the last call, as its owner.

        Raises:
            KeeperError: the keeper died, or this process does not own the run.
        """
        connections = self._by_pid.get(unpatched.getpid())
        if connections is None or connections.holding is None:
            return []
        return self.ask(TakeLeaseEvents(), LeaseEvents).lease_events

    def finish(self, timeout_s: float) -> Report | None:
        """End the run, as its owner: have everything released and the run directory removed.

        The keeper sends its report after that, and ends by itself.

        Threads that still wait for an answer are told that the run is over.

        Returns:
            What the run did, or ``None`` if no process of it ever needed a keeper.

        Raises:
            KeeperError: the keeper died before, or does not end in time.
        """
        if not self.run.directory.is_claimed():
            return None
        connections = self._mine()
        connections.questions.close()
        try:
            holding = self._hold().holding
            assert holding is not None  # noqa: S101 - made by _hold, closed by this method alone
            with connections.lock:
                report = holding.ask(Finish(), Report, timeout_s)
        except TimeoutError:
            self.run.directory.remove()
            raise KeeperError(
                f"the keeper did not finish within {timeout_s:g} s", code="KEEPER_TIMEOUT"
            ) from None
        except OSError as error:
            died = self.explain(error)
            self.run.directory.remove()
            raise died from None
        except KeeperError:
            self.run.directory.remove()
            raise
        finally:
            self.close()
        return report

    def close(self) -> None:
        """Let go. Other processes that hold the lease keep it."""
        connections = self._by_pid.pop(unpatched.getpid(), None)
        if connections is None:
            return
        connections.questions.close()
        if connections.holding is not None:
            connections.holding.close()

    def _hold(self) -> _Connections:
        """Return this process's connections, once one of them holds.

        Raises:
            KeeperError: there is no keeper to be had.
        """
        self._raise_remembered()
        connections = self._mine()
        if connections.holding is None:
            with connections.lock:
                if connections.holding is None:
                    self.start()
                    self._raise_remembered()
                    try:
                        connections.holding = KeeperConnection(
                            self.run,
                            self.run.settings.start_timeout_s,
                            wants_events=True,
                            listener=self._listener,
                        )
                    except KeeperError as error:
                        self._remember(error)
                        raise
                    except OSError as error:
                        raise KeeperError(f"the tunnel keeper does not answer ({error})") from None
        return connections

    def _mine(self) -> _Connections:
        """Return the connections of the calling process, which may be a forked child."""
        pid = unpatched.getpid()
        mine = self._by_pid.get(pid)
        if mine is None:
            # Each step is atomic: two threads that come here get the same object.
            mine = self._by_pid.setdefault(pid, _Connections(self.run, self._listener))
            for other in list(self._by_pid):
                inherited = self._by_pid.pop(other, None) if other != pid else None
                if inherited is not None:
                    inherited.abandon()
        return mine

    def _remember(self, error: KeeperError) -> KeeperError:
        """Let every later request fail with an error that concerns them all."""
        if error.code in _FATAL_CODES and self._error is None:
            self._error = error
        return error

    def _raise_remembered(self) -> None:
        if (error := self._error) is not None:
            # A new one: threads that raise the same object write to the same traceback.
            raise KeeperError(error.message, code=error.code, hint=error.hint)
