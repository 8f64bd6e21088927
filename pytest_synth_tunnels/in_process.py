"""An agent in the relay's own process: attached over a link in memory."""

from collections.abc import Callable

from .agent.agent import Agent
from .relay.relay import Relay
from .wire.link import memory_links

__all__ = ["attach_in_process"]


def attach_in_process(
    relay: Relay,
    agent: Agent,
    agent_token: str,
    *,
    on_lost: Callable[[str], None] | None = None,
) -> list[str]:
    """Let an agent of this process serve its leases.

    Args:
        relay: it carries the leases.
        agent: it serves them already, and has no other link.
        agent_token: that of the leases' routes.
        on_lost: told why the relay lets the agent go, while it is at that.

    Returns:
        The ids of the leases that the relay lets it serve.
    """
    inner, outer = memory_links()
    session = inner.handler = relay.session(inner, agent_token)
    ack = session.attach(agent.attach_frame())
    if ack.accepted_leases:
        outer.handler = agent
        outer.on_lost = on_lost
        agent.connected(outer, ack.capabilities)
    return ack.accepted_leases
