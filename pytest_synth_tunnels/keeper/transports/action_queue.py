"""What heartbeats' answers ask for: done one after the other, each once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ...aio.tasks import spawn
from ...sdk.errors import TunnelError
from ..errors import KeeperRequestError

__all__ = ["CHECK_URL", "ActionQueue"]

_log = logging.getLogger(__name__)

CHECK_URL = "none"
"""The backend asks for nothing: see only whether all is as it was."""


class ActionQueue:
    """The orders of one lease. For the event loop, but for its attributes.

    Args:
        timeout_s: how long each may take, in seconds.
        done: called after each that was done.

    Attributes:
        doing: what is being done; empty if nothing is.
        last_error: why the last one was not done; empty if it was.
        task: does what there is, if there was anything.
    """

    def __init__(self, timeout_s: float, done: Callable[[str], None]) -> None:
        self.doing = ""
        self.last_error = ""
        self.task: asyncio.Task[None] | None = None
        self._timeout_s = timeout_s
        self._done = done
        self._waiting: dict[str, Callable[[], Awaitable[None]]] = {}
        self._ended = False

    def take(self, action: str, step: Callable[[], Awaitable[None]]) -> None:
        """Have something done, after what is being done and unless that is the same."""
        if self._ended or action == self.doing:
            return
        self._waiting.setdefault(action, step)
        if self.task is None or self.task.done():
            self.task = spawn(self._do_all())

    def end(self) -> None:
        """Do nothing any more, and break off what is being done."""
        self._ended = True
        self._waiting.clear()
        if self.task is not None:
            self.task.cancel()

    async def _do_all(self) -> None:
        while self._waiting:
            action = self.doing = next(iter(self._waiting))
            try:
                await self._do(action, self._waiting.pop(action))
            finally:
                self.doing = ""

    async def _do(self, action: str, step: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await step()
        except (TunnelError, KeeperRequestError, TimeoutError) as error:
            reason = error.message if isinstance(error, TunnelError) else str(error)
            self._failed(action, reason or "it took too long")
        except Exception as error:  # whatever a connector of somebody else's does
            _log.exception("%s failed", action)
            self._failed(action, f"{type(error).__name__}: {error}")
        else:
            self.last_error = ""
            self._done(action)

    def _failed(self, action: str, reason: str) -> None:
        self.last_error = reason if action == CHECK_URL else f"{action} failed: {reason}"
        _log.warning("%s", self.last_error)
