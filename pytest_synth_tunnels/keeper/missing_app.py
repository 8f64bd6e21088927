"""When it is certain that a test waits for requests which no app can get. No I/O.

An app may start late: the agent tries a refused connection again for a while, and a wait gives the
app's port as long. It is certain that no app is running once that time is over, no request is in
flight (the agent may still be trying it), and nothing listens. The time counts from the beginning
of the wait, or from an earlier request that found no app. A request that an app has answered since
then, or a port on which something listens, ends the question for this wait: what happens to that
app later is told when the time of the wait is up.
"""

from typing import Protocol

from ..http.pool import NOBODY_LISTENS, PATIENCE_S
from ..traffic.log import Logged

__all__ = ["MissingApp"]


class SeenRequest(Logged, Protocol):
    """What is looked at of a request.

    Attributes:
        arrived_s: when it came.
        answered_by: ``app`` or ``tunnel``, or ``None`` while nobody has answered.
        error: why the tunnel has answered.
        over: whether nothing more will come.
    """

    answered_by: str | None
    error: str
    over: bool


class MissingApp:
    """Decides for one wait whether there is an app.

    Args:
        began_s: when the wait began.
    """

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._in_flight: set[int] = set()
        self._refused_since_s: float | None = None
        """When the oldest request came that has found no app, with none answered after it."""
        self._is_settled = False

    def feed(self, request: SeenRequest) -> None:
        """Take a request that is new or has changed."""
        if not request.over:
            self._in_flight.add(request.sequence)
            return
        self._in_flight.discard(request.sequence)
        if request.answered_by == "app":
            self._refused_since_s = None
        elif NOBODY_LISTENS in request.error and self._refused_since_s is None:
            self._refused_since_s = request.arrived_s

    @property
    def was_refused(self) -> bool:
        """Whether a request has found that nothing listens, and none was answered after it."""
        return self._refused_since_s is not None

    def asks_at_s(self) -> float | None:
        """Return when to look whether something listens; ``None`` while a request is in flight,
        and when the question is settled."""
        if self._is_settled or self._in_flight:
            return None
        absent_since_s = self._began_s
        if self._refused_since_s is not None:
            absent_since_s = min(absent_since_s, self._refused_since_s)
        return absent_since_s + PATIENCE_S

    def settle(self) -> None:
        """Note that the question has been answered."""
        self._is_settled = True
