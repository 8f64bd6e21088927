"""A lease's life, in one table, for every kind of lease.

Everything that can change a lease's state is here: a state changes through
:meth:`LeaseStateMachine.move`, and :meth:`LeaseStateMachine.move` knows :data:`TRANSITIONS` and
nothing else. Pure.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["TRANSITIONS", "LeaseState", "LeaseStateMachine"]


class LeaseState(StrEnum):
    """Where a lease is in its life.

    ``pending``: being made, or waiting for its agent. ``active``: carries traffic. ``lost``: the
    backend took it away. ``expired``: its time is over. ``failed``: it never carried traffic.
    ``released``: given back, the end of every lease that the backend ever made.
    """

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
    """The state of one lease and why it is in it."""

    def __init__(self) -> None:
        self.state = LeaseState.PENDING
        self.reason = ""
        """Why the state is what it is, for people; the first cause wins."""

    @property
    def is_over(self) -> bool:
        """Whether it will carry no traffic any more."""
        return self.state not in (LeaseState.PENDING, LeaseState.ACTIVE)

    def move(self, to: LeaseState, reason: str = "") -> bool:
        """Change the state, if the table lets it.

        Args:
            to: the new state.
            reason: why, for people.

        Returns:
            Whether it changed. News that comes late (a heartbeat's answer after the release) or
            twice changes nothing, and so nothing is reported twice.
        """
        if to not in TRANSITIONS[self.state]:
            return False
        if not self.is_over or not self.reason:
            self.reason = reason
        self.state = to
        return True
