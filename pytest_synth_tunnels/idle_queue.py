"""Time for the controller of pytest-xdist, which does nothing but wait for its workers' events."""

from collections.abc import Callable
from queue import Empty, Queue
from typing import Any, Final

__all__ = ["IdleQueue"]

_TICK_S: Final = 0.5


class IdleQueue:
    """A queue that calls somebody while its reader waits, and before it hands something out.

    pytest-xdist has no hook for that, and a thread could not write to the terminal that the
    controller writes to.

    Args:
        queue: the queue itself.
        on_tick: called twice a second while nothing comes, on the reader's thread.
        on_item: called before the reader gets something.
    """

    def __init__(
        self,
        queue: "Queue[Any]",
        on_tick: Callable[[], None],
        on_item: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._on_tick = on_tick
        self._on_item = on_item

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next item, as a queue does.

        Args:
            block: whether to wait for it.
            timeout: how long, in seconds; ``None`` for ever.

        Raises:
            Empty: none came.
        """
        left_s = timeout
        while True:
            part_s = _TICK_S if left_s is None else min(_TICK_S, left_s)
            try:
                item = self._queue.get(block, part_s)
            except Empty:
                self._on_tick()
                if left_s is not None:
                    left_s -= part_s
                if not block or (left_s is not None and left_s <= 0):
                    raise
            else:
                self._on_item()
                return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)
