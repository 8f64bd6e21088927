"""One application that is being served."""

import socket
import threading
import warnings
from contextlib import suppress
from types import TracebackType
from typing import Self

import pytest

from .._unpatched import unpatched
from ..listener import Listener
from ..run_waits import AppWaits
from .application import Application
from .errors import ServeError
from .runner import GRACE_S, Runner

__all__ = ["STOP_TIMEOUT_S", "Server"]

STOP_TIMEOUT_S = 10.0
"""How long a server may take to end, in seconds: :data:`.runner.GRACE_S`, and its lifespan's
shutdown."""

_TICK_S = 0.5
"""How often whoever waits for a start is told."""

_MAX_NAMED = 5
"""Requests that a warning names."""


class Server:
    """An application that is being served, from ``synth_serve``. Also a context manager that stops
    it.

    Theory of operation. The server runs in one thread of its own. It is *starting* until the
    application accepts or its start-up fails, then *serving*, then *stopped*; only :meth:`stop`
    moves it there. The caller's threads wait for the thread, never the reverse, and each wait is
    bounded. A thread that does not end is told of and left behind, as a daemon that does not keep
    the process.

    Attributes:
        app: the application's name.
        port: the local port where it answers.
        url: the same as a URL, ``http://127.0.0.1:8000``, without a trailing slash.
    """

    def __init__(self, application: Application, listener: Listener) -> None:
        __tracebackhide__ = True
        self.app = application.name
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._listener = listener
        self._runner = _runner(application)
        self._has_started = threading.Event()
        """Set when the application accepts, or its start-up has failed."""
        self._error: BaseException | None = None
        """What ended the thread, if it was not :meth:`stop`."""
        self._lock = unpatched.allocate_lock()
        """Guards ``_is_stopped``."""
        self._is_stopped = False
        self._thread = unpatched.thread(
            target=self._run, name=f"synth_serve {application.name}", daemon=True
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.app} {self.url}>"

    @property
    def is_serving(self) -> bool:
        """Whether it has not been stopped."""
        return not self._is_stopped

    def start(self, timeout_s: float, waits: AppWaits | None = None) -> None:
        """Serve, and return when the application accepts.

        Args:
            timeout_s: how long its start-up may take, in seconds.
            waits: told while it takes long.

        Raises:
            ServeError: it took longer, or it failed: then the cause is the application's own
                exception.
        """
        __tracebackhide__ = True
        try:
            self._thread.start()
            has_started = self._wait_for_start(timeout_s, waits)
        except BaseException:  # there can be no more threads, or the user gives up waiting
            self.abandon()
            raise
        if not has_started:
            self.abandon()
            raise ServeError(
                "SERVE_START_TIMEOUT",
                f"{self.app} did not start within {timeout_s:g} s",
                "Its start-up (the lifespan of an ASGI application) goes on in a thread that is "
                "left behind; synth_tunnels_start_timeout_s is the time that it may take",
            )
        if self._error is not None:
            self.abandon()
            if isinstance(self._error, ServeError):
                raise self._error
            raise ServeError(
                "SERVE_START_FAILED",
                f"{self.app} did not start: {type(self._error).__name__}: {self._error}",
            ) from self._error

    def _wait_for_start(self, timeout_s: float, waits: AppWaits | None) -> bool:
        """Return whether the application accepts, or has failed, in time."""
        if waits is None:
            return self._has_started.wait(timeout_s)
        waited_s = 0.0
        try:
            while not self._has_started.wait(part_s := min(_TICK_S, timeout_s - waited_s)):
                waited_s += part_s
                if waited_s >= timeout_s:
                    return False
                waits.waiting_for(f"{self.app} to start", waited_s)
        finally:
            if waited_s:
                waits.over()
        return True

    def _run(self) -> None:
        try:
            self._runner.run(self._listener, self._has_started.set)
        except BaseException as error:  # told by start(), not by the thread's death
            self._error = error
        finally:
            self._listener.close()
            self._has_started.set()

    def stop(self) -> None:
        """Stop serving, and return when the port is free again. A second time is harmless.

        Requests that are being answered may go on for five seconds; then they are cut off, and a
        warning names them. What does not end within ten seconds is named in a warning, and left
        behind.
        """
        with self._lock:
            was_stopped, self._is_stopped = self._is_stopped, True
        self._runner.stop()
        if was_stopped or threading.current_thread() is self._thread:
            return
        self._thread.join(STOP_TIMEOUT_S)
        requests = ", ".join(self._runner.requests()[:_MAX_NAMED])
        if self._thread.is_alive():
            self._free_port()
            end = f"has not ended {STOP_TIMEOUT_S:g} s after it was stopped, and is left behind"
        elif requests:
            end = f"was cut off {GRACE_S:g} s after it was stopped"
        else:
            return
        doing = f" while it was answering {requests}" if requests else ""
        warnings.warn(pytest.PytestWarning(f"synth_serve: {self.app} {end}{doing}"), stacklevel=2)

    def abandon(self) -> None:
        """Free the port without waiting for the application."""
        self._is_stopped = True
        self._runner.stop()
        self._free_port()

    def _free_port(self) -> None:
        """Let nobody connect any more, though a thread may still be using the listener."""
        with suppress(OSError):  # it is closed, or this system knows no such thing for listeners
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _runner(application: Application) -> Runner:
    """Return what serves an application, by the library for its interface."""
    __tracebackhide__ = True
    library = "waitress" if application.interface == "wsgi" else "uvicorn"
    try:
        if application.interface == "wsgi":
            from .waitress_runner import WaitressRunner

            return WaitressRunner(application)
        from .uvicorn_runner import UvicornRunner

        return UvicornRunner(application)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        kind = "a WSGI" if application.interface == "wsgi" else "an ASGI"
        raise ServeError(
            "SERVE_EXTRA_MISSING",
            f"{application.name} is {kind} application, and {library}, which serves it, is not "
            "installed",
            "Install the extra: python -m pip install 'pytest-synth-tunnels[serve]'",
        ) from None
