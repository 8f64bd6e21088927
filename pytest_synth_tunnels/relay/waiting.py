"""A request at the relay while there is no agent for it."""

from math import inf
from typing import TYPE_CHECKING, Final

from .failures import Failure, offline, too_large
from .relay import Relay
from .route import Route

if TYPE_CHECKING:
    from .agent_session import AgentSession
    from .proxied_request import ProxiedRequest

__all__ = ["Waiting"]

_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""What may wait, in the whole relay, of bodies that were read before there was an agent."""


class Waiting:
    """One request's wait for an agent (a :class:`~.route.Held` and an
    :class:`~..aio.deadlines.Expiring`).

    Args:
        call: the request.
        relay: where it is under way.
        route: its lease, by whose ``held`` the agent finds it.
        hold_s: how long it waits, in seconds.
    """

    __slots__ = ("_body", "_call", "_relay", "_route", "_since", "due_at")

    def __init__(self, call: "ProxiedRequest", relay: Relay, route: Route, hold_s: float) -> None:
        self.due_at = inf
        self._call = call
        self._relay = relay
        self._route = route
        self._since = relay.loop.time()
        self._body = b""
        """What was read of the body before the caller could be stopped."""
        route.held[self] = None
        relay.deadlines.set(self, self._since + hold_s)

    def release(self, session: "AgentSession") -> None:
        """Go on with the agent that has come."""
        body = self._body
        self.leave()
        self._call.begin_again(session, body, self._relay.loop.time() - self._since)

    def fail(self, failure: Failure) -> None:
        """End the request with an error."""
        self._call.fail(failure)

    def expire(self) -> None:
        """Give up."""
        self.fail(offline("waited for one in vain"))

    def leave(self) -> None:
        """Wait no more."""
        self._route.held.pop(self, None)
        self._relay.held_bytes -= len(self._body)
        self._body = b""
        self._relay.deadlines.forget(self)

    def keep(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._relay.held_bytes += len(data)
        self._body += data
        limit_bytes = self._route.limits.max_request_bytes
        if len(self._body) > limit_bytes:
            self.fail(too_large("request", limit_bytes))
        elif self._relay.held_bytes > _MAX_HELD_BYTES:
            self.fail(offline("and too much waits for one already"))
