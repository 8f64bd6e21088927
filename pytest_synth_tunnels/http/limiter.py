"""Which connections are open, and which one makes room for which when they are too many."""

from enum import Enum, auto
from typing import Final, Protocol

__all__ = ["Admission", "ConnectionLimiter", "Droppable"]

_SPARE_CONNECTIONS: Final = 64
"""How many connections beyond the limit are told why they are refused."""
_GRACE_S = 1.0
"""How long a new connection need not make room for another."""


class Droppable(Protocol):
    """A connection that can be ended to make room for others."""

    made_at: float
    """When it was made, in the loop's time."""

    def drop(self) -> None:
        """End at once, and call :meth:`ConnectionLimiter.discard`."""

    def shut_down(self) -> None:
        """End because the server ends."""


class Admission(Enum):
    """Whether there is room for one more connection."""

    FREE = auto()
    FULL = auto()
    """There is none, and the caller is to be told so."""
    FLOODED = auto()
    """There is not even room to tell the caller so."""


class ConnectionLimiter:
    """The open connections of one server.

    A connection is a stranger until the router has admitted a request of it. Strangers have a limit
    of their own, so that those who may not use the server cannot take it from those who may.

    Args:
        max_known: how many connections may be open whose callers the router has admitted.
        max_strangers: how many others may be open beside them.
    """

    def __init__(self, *, max_known: int, max_strangers: int) -> None:
        self.connections: set[Droppable] = set()
        """All open connections that still speak HTTP."""
        self.strangers: dict[Droppable, None] = {}
        """The strangers among them, oldest first."""
        self._max_known = max_known
        self._max_strangers = max_strangers

    def add(self, connection: Droppable) -> Admission:
        """Count a new connection, until :meth:`discard`. If there are many strangers, the one that
        has waited longest is dropped for it."""
        known = len(self.connections) - len(self.strangers)
        if len(self.strangers) >= self._max_strangers:
            oldest = next(iter(self.strangers))
            if connection.made_at - oldest.made_at >= _GRACE_S:
                oldest.drop()
        strangers = len(self.strangers)
        self.connections.add(connection)
        self.strangers[connection] = None
        if strangers >= self._max_strangers + _SPARE_CONNECTIONS:
            return Admission.FLOODED
        if strangers >= self._max_strangers or known >= self._max_known:
            return Admission.FULL
        return Admission.FREE

    def let_in(self, connection: Droppable) -> None:
        """Count a connection as a stranger no more."""
        self.strangers.pop(connection, None)

    def discard(self, connection: Droppable) -> None:
        """Count a connection no more, if it was counted."""
        self.connections.discard(connection)
        self.strangers.pop(connection, None)
