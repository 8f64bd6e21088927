"""The applications that one pytest process serves."""

from collections.abc import Callable

from .._unpatched import unpatched
from ..listener import Listener, listen
from ..run_waits import AppWaits
from .application import find_application
from .errors import ServeError
from .server import Server

__all__ = ["AppServers"]


class AppServers:
    """Starts applications, and stops those that nobody has stopped. Safe to use from any thread.

    Args:
        root_path: where modules are looked for beside ``sys.path``.
        start_timeout_s: how long an application's start-up may take, in seconds.
        exposed_port: returns the port that the run's lease exposes, or raises :class:`ServeError`
            where something else serves it.
        waits: told while an application starts; ``None`` to tell nobody.
    """

    def __init__(
        self,
        *,
        root_path: str,
        start_timeout_s: float,
        exposed_port: Callable[[], int],
        waits: AppWaits | None = None,
    ) -> None:
        self._root_path = root_path
        self._start_timeout_s = start_timeout_s
        self._exposed_port = exposed_port
        self._waits = waits
        self._lock = unpatched.allocate_lock()
        """Guards ``_servers``."""
        self._servers: list[Server] = []
        """Those that nobody has stopped, the first one first."""

    def serve(self, app: object, *, port: int | None = None) -> Server:
        """Serve an ASGI or WSGI application in a thread of this process, and return when it
        accepts.

        It is stopped by :meth:`Server.stop`, at the end of a ``with`` block, or with the run.

        Args:
            app: the application; a function without arguments that returns it; or
                ``"module:attribute"``, found from pytest's rootdir or ``sys.path``.
            port: the local port; 0 for a free one; by default the one that ``synth_lease``
                exposes.

        Raises:
            ServeError: it cannot be served; if its start-up failed, the cause is its exception.
            ValueError: ``port`` is no port.
            KeeperError: the exposed port cannot be had.
        """
        __tracebackhide__ = True
        if port is not None and not (type(port) is int and 0 <= port <= 65_535):
            raise ValueError(f"port must be a port (int) from 0 to 65535, not {port!r}")
        application = find_application(app, self._root_path)
        listener = self._listen(application.name, port)
        try:
            server = Server(application, listener)
        except BaseException:
            listener.close()
            raise
        server.start(self._start_timeout_s, self._waits)
        with self._lock:
            self._servers = [*filter(_is_serving, self._servers), server]
        return server

    def _listen(self, name: str, port: int | None) -> Listener:
        __tracebackhide__ = True
        number = self._exposed_port() if port is None else port
        try:
            return listen(number)
        except OSError as error:
            with self._lock:
                ours = [one for one in self._servers if one.port == number and one.is_serving]
            if ours:
                hint = (
                    f"{ours[0].app} is being served there: call stop() of what synth_serve "
                    "returned, or use it in a with block"
                )
            elif port is None:
                hint = (
                    "The fixture exposed_socket may listen there, or, with synth_tunnels_port, "
                    "another process, such as a pytest-xdist worker"
                )
            else:
                hint = "Another socket listens there"
            raise ServeError(
                "SERVE_PORT_TAKEN",
                f"{name} cannot listen on 127.0.0.1:{number}: {error.strerror}",
                hint,
            ) from None

    def stop(self) -> None:
        """Stop all that are being served, the last one first."""
        with self._lock:
            servers, self._servers = self._servers, []
        for server in reversed(servers):
            server.stop()


def _is_serving(server: Server) -> bool:
    return server.is_serving
