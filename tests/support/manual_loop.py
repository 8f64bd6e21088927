"""An event loop's clock, callbacks and transports without the loop."""

import asyncio
from collections.abc import Callable
from typing import Any


class Timer:
    """What ``call_at`` returns."""

    def __init__(self, when: float, callback: Callable[..., None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualLoop:
    """As much of an event loop as protocols need; time stands until :meth:`advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self._soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self._soon.append((callback, args))

    def call_at(self, when: float, callback: Callable[..., None]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def tick(self) -> None:
        """Run what was called soon, and what that calls soon."""
        while self._soon:
            callbacks, self._soon = self._soon, []
            for callback, args in callbacks:
                callback(*args)

    def advance(self, seconds: float) -> None:
        """Let time pass, and run what becomes due, in order."""
        end = self.now + seconds
        self.tick()
        while True:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            due = [timer for timer in self.timers if timer.when <= end]
            if not due:
                break
            timer = min(due, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
            self.tick()
        self.now = end


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and remembers what else it was told."""

    def __init__(self) -> None:
        self.extra: dict[str, Any] = {"peername": ("192.0.2.7", 5555)}
        super().__init__(self.extra)
        self.written = b""
        self.unread_bytes = 0
        """What the other end makes it hold back."""
        self.writes = 0
        self.reading = True
        self.closed = False
        self.aborted = False
        self.ended = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        self.writes += 1

    def take(self) -> bytes:
        """Return what was written since the last time."""
        written, self.written = self.written, b""
        return written

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True
