"""Serves an ASGI application with uvicorn."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from ..listener import Listener
from .application import Application
from .errors import ServeError
from .event_loop import EventLoop
from .runner import GRACE_S

__all__ = ["UvicornRunner"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class _WatchedApp:
    """The application, with what it is doing.

    Attributes:
        requests: those that it is answering, and those that were cut off, as ``GET /path``, by a
            number.
        startup_error: what its start-up raised, or ``None``.
        startup_message: what it said when it refused to start, or an empty string.
    """

    def __init__(self, application: Application) -> None:
        self.requests: dict[int, str] = {}
        self.startup_error: BaseException | None = None
        self.startup_message = ""
        self._application = application
        self._count = 0

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        self._count += 1
        number = self._count
        self.requests[number] = f"{scope.get('method', 'WebSocket')} {scope['path']}"
        try:
            await self._call(scope, receive, send)
        except asyncio.CancelledError:
            raise  # it was cut off, and goes on to be named
        except BaseException:
            del self.requests[number]
            raise
        del self.requests[number]

    async def _call(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if self._application.interface == "asgi2":
            await self._application.call(scope)(receive, send)
        else:
            await self._application.call(scope, receive, send)

    async def _lifespan(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        async def watched_send(message: _Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                self.startup_message = message.get("message", "")
            await send(message)

        try:
            await self._call(scope, receive, watched_send)
        except BaseException as error:
            self.startup_error = error
            raise


class _UvicornServer(uvicorn.Server):
    """Tells when it accepts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.on_start: Callable[[], None] = lambda: None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.on_start()


class UvicornRunner:
    """A :class:`~.runner.Runner` of an ASGI application.

    Args:
        application: what to serve.
    """

    def __init__(self, application: Application) -> None:
        self._app = _WatchedApp(application)
        self._name = application.name
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            # Handlers of its own would write past pytest's capture.
            log_config=None,
            timeout_graceful_shutdown=int(GRACE_S),
            # The other implementation warns of its own age.
            ws="websockets-sansio",
            # Not from $WEB_CONCURRENCY.
            workers=1,
        )
        self._server = _UvicornServer(config)

    def run(self, listener: Listener, on_start: Callable[[], None]) -> None:
        """See :meth:`.runner.Runner.run`."""
        self._server.on_start = on_start
        try:
            with asyncio.Runner(loop_factory=EventLoop) as runner:
                runner.run(self._server.serve(sockets=[listener]))
        except SystemExit:
            if self._app.startup_error is not None:
                raise self._app.startup_error from None
            message = self._app.startup_message or "its lifespan start-up failed"
            raise ServeError("SERVE_START_FAILED", f"{self._name}: {message}") from None

    def stop(self) -> None:
        """See :meth:`.runner.Runner.stop`."""
        self._server.should_exit = True

    def requests(self) -> list[str]:
        """See :meth:`.runner.Runner.requests`."""
        return list(self._app.requests.values())
