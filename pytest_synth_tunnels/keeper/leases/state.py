"""The states of a lease, in one table, for every kind of lease. Pure.

A lease is *pending* from the moment somebody wants it until it carries traffic, *active* while it
does, and then over: *lost* (the backend took it away), *expired* (its time has run out) or
*failed* (it never carried traffic). A lease in any state becomes *released* when the backend has
taken it back; nothing follows that.

Only :class:`~.lease.HeldLease` moves a state, on the keeper's event loop: by the outcome of
opening the lease, by a notice of its heartbeat or its transport, and by its release. What always
holds: the state changes through :meth:`LeaseStateMachine.transition` alone, which knows
:data:`TRANSITIONS` and nothing else; a lease that is over never becomes active again; and news
that come late or twice change nothing, so that nothing is reported twice.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["TRANSITIONS", "LeaseState", "LeaseStateMachine"]


class LeaseState(StrEnum):
    """What a lease is at the moment; the module's documentation says what each state means."""

    PENDING = "pending"
    ACTIVE = "active"
    LOST = "lost"
    EXPIRED = "expired"
    FAILED = "failed"
    RELEASED = "released"


_S = LeaseState

TRANSITIONS: Final[Mapping[LeaseState, frozenset[LeaseState]]] = {
    _S.PENDING: frozenset({_S.ACTIVE, _S.LOST, _S.EXPIRED, _S.FAILED, _S.RELEASED}),
    _S.ACTIVE: frozenset({_S.LOST, _S.EXPIRED, _S.RELEASED}),
    _S.LOST: frozenset({_S.RELEASED}),
    _S.EXPIRED: frozenset({_S.RELEASED}),
    _S.FAILED: frozenset({_S.RELEASED}),
    _S.RELEASED: frozenset(),
}
"""What may follow each state."""


class LeaseStateMachine:
    """The state of one lease, and the reason for it.

    Attributes:
        state: the state.
        reason: why the lease is in it, for people; the first cause wins.
    """

    def __init__(self) -> None:
        self.state = LeaseState.PENDING
        self.reason = ""

    @property
    def is_over(self) -> bool:
        """Whether the lease has carried its last traffic."""
        return self.state not in (LeaseState.PENDING, LeaseState.ACTIVE)

    def transition(self, to: LeaseState, reason: str = "") -> bool:
        """Change the state, if the table allows it.

        Args:
            to: the new state.
            reason: why, for people.

        Returns:
            Whether the state changed.
        """
        if to not in TRANSITIONS[self.state]:
            return False
        if not self.is_over or not self.reason:
            self.reason = reason
        self.state = to
        return True
