"""Whose connections are open, and who makes room for whom when they are too many."""

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .connection import ServerConnection

__all__ = ["Admission", "ConnectionLimiter"]

_SPARE_CONNECTIONS: Final = 64
"""How many connections beyond the limit are told why they are refused."""
_GRACE_S: Final = 1.0
"""How long a new connection need not make room for another."""


class Admission(Enum):
    """Whether there is room for one more."""

    FREE = auto()
    FULL = auto()
    """It is to be told so."""
    FLOODED = auto()
    """Not even for a word."""


class ConnectionLimiter:
    """The open connections of one server.

    Args:
        max_known: how many may be those of callers whom the router has let in.
        max_strangers: how many others there may be beside them.
    """

    def __init__(self, *, max_known: int, max_strangers: int) -> None:
        self.connections: set[ServerConnection] = set()
        """Those that are open and still speak HTTP."""
        self.strangers: dict[ServerConnection, None] = {}
        """Those among them on which the router has let nobody in, oldest first."""
        self._max_known = max_known
        self._max_strangers = max_strangers

    def add(self, connection: "ServerConnection") -> Admission:
        """Count a new connection, until :meth:`discard`. If they are many, the stranger that has
        waited longest is dropped for it."""
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

    def let_in(self, connection: "ServerConnection") -> None:
        """Count it as a stranger no more."""
        self.strangers.pop(connection, None)

    def discard(self, connection: "ServerConnection") -> None:
        """Count it no more, if it was counted."""
        self.connections.discard(connection)
        self.strangers.pop(connection, None)
