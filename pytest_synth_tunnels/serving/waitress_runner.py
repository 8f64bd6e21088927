"""Serves a WSGI application with waitress."""

from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from .._unpatched import unpatched
from ..listener import Listener
from .application import Application
from .runner import GRACE_S

__all__ = ["WaitressRunner"]

_THREADS = 8
"""Requests that are answered at the same time."""

_POLL_S = 0.1
"""How long the loop may take to see that it is to stop; uvicorn looks as often."""


class WaitressRunner:
    """A :class:`~.runner.Runner` of a WSGI application.

    Args:
        application: what to serve.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._sockets: dict[int, Any] = {}
        """waitress's own table of open sockets, by descriptor."""
        self._server: Any = None
        self._is_stopping = False
        self._cut_off: list[str] = []

    def run(self, listener: Listener, on_start: Callable[[], None]) -> None:
        """See :meth:`.runner.Runner.run`."""
        settings = Adjustments(
            listen="",  # else it looks a host up, which a test may block
            threads=_THREADS,
            # The application sees the headers that it would see behind any proxy.
            clear_untrusted_proxy_headers=False,
        )
        # Not with create_server(), which takes a listener for none while a test blocks sockets.
        server = self._server = TcpWSGIServer(
            self._application.call,
            map=self._sockets,
            _sock=listener,
            adj=settings,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            bind_socket=False,
        )
        try:
            on_start()
            while not self._is_stopping:
                self._poll()
        finally:
            server.del_channel()
            listener.close()
            self._end()

    def _end(self) -> None:
        """Let the requests that are being answered end, and cut the others off.

        Not with the methods that waitress has for it: they ask a clock that a test may have
        frozen, and close a pipe that the threads write to while a thread may still do so.
        """
        threads = self._server.task_dispatcher
        deadline = unpatched.monotonic() + GRACE_S
        while self.requests() and unpatched.monotonic() < deadline:
            self._poll()
        threads.set_thread_count(0)
        while threads.threads and unpatched.monotonic() < deadline:
            self._poll()
        self._cut_off = self.requests()
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        while threads.threads:  # an application that hangs: this thread is left behind, too
            self._poll()
        wasyncore.close_all(self._sockets, ignore_all=True)

    def _poll(self) -> None:
        wasyncore.loop(timeout=_POLL_S, use_poll=unpatched.is_posix, map=self._sockets, count=1)

    def stop(self) -> None:
        """See :meth:`.runner.Runner.stop`."""
        self._is_stopping = True

    def requests(self) -> list[str]:
        """See :meth:`.runner.Runner.requests`."""
        if self._server is None or self._cut_off:
            return self._cut_off
        return [
            f"{request.command} {request.path}"
            for channel in list(self._server.active_channels.values())
            for request in list(channel.requests)
        ]
