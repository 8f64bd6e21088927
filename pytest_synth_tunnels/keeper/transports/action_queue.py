"""The actions that the backend asks for in heartbeats' answers: done one at a time, each once.

Theory of operation. An action is *waiting*, *being done* or done. A backend repeats an action
until it sees it done, so one that is waiting or being done is not taken again. One task at a time
does what is waiting, in the order of arrival, and ends when nothing is left; the next action
starts another. After :meth:`ActionQueue.end` nothing is taken, and what was being done is broken
off.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ...aio.tasks import spawn
from ...sdk.hinted_error import HintedError

__all__ = ["CHECK_URL", "ActionQueue"]

_log = logging.getLogger(__name__)

CHECK_URL = "none"
"""The action of a backend that asks for nothing: only look whether the public URL has changed."""


class ActionQueue:
    """The actions of one lease. For the event loop; other threads may read its attributes.

    Args:
        timeout_s: how long each action may take, in seconds.
        on_done: called with each action that was done.

    Attributes:
        doing: the action that is being done; empty if there is none.
        last_error: why the last action was not done; empty if it was.
        task: does the waiting actions; ``None`` before the first one.
    """

    def __init__(self, timeout_s: float, on_done: Callable[[str], None]) -> None:
        self.doing = ""
        self.last_error = ""
        self.task: asyncio.Task[None] | None = None
        self._timeout_s = timeout_s
        self._on_done = on_done
        self._waiting: dict[str, Callable[[], Awaitable[None]]] = {}
        self._ended = False

    def put(self, action: str, work: Callable[[], Awaitable[None]]) -> None:
        """Have an action done after those before it, unless the same is waiting or being done.

        Args:
            action: its name.
            work: does it.
        """
        if self._ended or action == self.doing:
            return
        self._waiting.setdefault(action, work)
        if self.task is None or self.task.done():
            self.task = spawn(self._do_all())

    def end(self) -> None:
        """Forget the waiting actions, break off the one that is being done, and take no other."""
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

    async def _do(self, action: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await work()
        except HintedError as error:
            self._failed(action, error.message)
        except TimeoutError as error:
            self._failed(action, str(error) or f"it took over {self._timeout_s:g} s")
        except Exception as error:  # whatever a connector of somebody else's does
            _log.exception("%s failed", action)
            self._failed(action, f"{type(error).__name__}: {error}")
        else:
            self.last_error = ""
            self._on_done(action)

    def _failed(self, action: str, reason: str) -> None:
        self.last_error = reason if action == CHECK_URL else f"{action} failed: {reason}"
        _log.warning("%s", self.last_error)
