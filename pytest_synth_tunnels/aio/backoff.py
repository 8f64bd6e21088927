"""How long to wait before something that failed is tried again. No clock and no I/O."""

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """The pauses between attempts: each is twice as long as the one before, up to a limit.

    Args:
        first_s: the first pause, in seconds.
        longest_s: the limit, in seconds.
        spread: the part of a pause that is left to chance, from 0 to 1, so that many that failed
            together do not try again together. A pause of ``p`` seconds is then drawn between
            ``p * (1 - spread)`` and ``p``.
        uniform: draws a number between two others.
    """

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        *,
        spread: float = 0.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._spread = spread
        self._uniform = uniform
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the pause before the next attempt, in seconds, and make the one after it
        longer."""
        pause_s = min(self._next_s, self._longest_s)
        self._next_s = min(2 * pause_s, self._longest_s)
        if not self._spread:
            return pause_s
        return self._uniform(pause_s * (1 - self._spread), pause_s)

    def reset(self) -> None:
        """Begin with the first pause again, because an attempt has succeeded."""
        self._next_s = self._first_s
