"""The connector of the embedded backend, which is its own edge: nothing leaves this machine.

It is a process like any provider's, so that what holds for theirs holds for it: it can be killed,
it is started again, and it carries real traffic. Inside, it is an agent that dials the backend's
relay and has one target, the gateway.
"""

import asyncio
from typing import ClassVar, Final, NoReturn, TypedDict
from urllib.parse import urlsplit

from ..agent.agent import Agent
from ..agent.dialer import Dialer
from ..agent.target import Target
from .output_rules import Outcome, OutputRule
from .python_process import PythonConnector, Say, run

__all__ = ["LoopbackConfig", "LoopbackConnector", "main", "serve"]

_MAX_INFLIGHT: Final = 1024
_BACKOFF_S: Final = (0.05, 1.0)
"""The relay is on this machine, so that trying costs nothing."""


class LoopbackConfig(TypedDict):
    """What the process is told.

    Attributes:
        url: of the relay's WebSocket.
        token: for it.
        lease_id: by which the relay knows the traffic.
        public_url: the origin under which callers come.
        target: the gateway's URL.
    """

    url: str
    token: str
    lease_id: str
    public_url: str
    target: str


class LoopbackConnector(PythonConnector):
    """Dials ``edge_url`` of the lease with its ``tunnel_token``, and serves its
    ``managed_tunnel_id``."""

    name: ClassVar[str] = "the loopback connector"
    brings_url: ClassVar[bool] = False
    is_public: ClassVar[bool] = False
    output_rules: ClassVar[tuple[OutputRule, ...]] = (
        OutputRule(Outcome.UP, r"^connected$"),
        OutputRule(Outcome.OVER, r"^refused: "),
        OutputRule(Outcome.REFUSED, r"^offline: the relay answered 40[13]\b"),
        OutputRule(Outcome.FAILED, r"^offline: "),
    )

    module: ClassVar[str] = __name__

    def config(self) -> LoopbackConfig:
        """Return where to dial, and what to serve there."""
        need = self.assignment.need
        public = urlsplit(need("public_url"))
        return LoopbackConfig(
            url=need("edge_url"),
            token=need("tunnel_token"),
            lease_id=need("managed_tunnel_id"),
            public_url=f"{public.scheme}://{public.netloc}",
            target=self.assignment.gateway_url,
        )


async def serve(config: LoopbackConfig, say: Say, ended: asyncio.Event) -> None:
    """Carry the traffic.

    Args:
        config: of which traffic.
        say: takes a line whenever something changes: ``connected``, ``offline: why``, and
            ``refused: why`` when trying again cannot help.
        ended: set when it is to end.
    """
    agent = Agent()
    agent.leases.serve(config["lease_id"], config["public_url"], max_inflight=_MAX_INFLIGHT)
    agent.leases.set_target(config["lease_id"], "", Target.from_url(config["target"]))
    dialer = Dialer(
        agent,
        config["url"],
        config["token"],
        on_change=lambda connected, why: say("connected" if connected else f"offline: {why}"),
        on_fatal=lambda why: say(f"refused: {why}"),
        backoff_s=_BACKOFF_S,
    )
    await dialer.start()
    await ended.wait()
    await dialer.close()
    await agent.close()


def main(config: LoopbackConfig) -> NoReturn:
    """Run the process."""
    run(lambda say, ended: serve(config, say, ended))
