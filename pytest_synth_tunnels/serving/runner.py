"""What a server library does for :class:`~.server.Server`."""

from collections.abc import Callable
from typing import Protocol

from ..listener import Listener

__all__ = ["GRACE_S", "Runner"]

GRACE_S = 5.0
"""How long the requests that are being answered when a server is stopped may go on, in seconds."""


class Runner(Protocol):
    """Serves one application, once."""

    def run(self, listener: Listener, on_start: Callable[[], None]) -> None:
        """Serve until :meth:`stop` is called; blocks.

        Args:
            listener: where callers connect; closed in the end.
            on_start: called when the application accepts requests.

        Raises:
            BaseException: what the application's start-up raised.
        """

    def stop(self) -> None:
        """End :meth:`run`, soon. Safe to call from any thread, and before :meth:`run`."""

    def requests(self) -> list[str]:
        """Return the requests that the application is answering, as ``GET /path``; once the server
        has ended, those that it cut off."""
