"""The connector of the embedded backend, which is its own edge: nothing leaves this machine.

It is a process like any provider's, so that what holds for theirs holds for it: it can be killed,
it is started again, and it carries real traffic. Inside, it is an agent that dials the backend's
relay and has one target, the gateway.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from typing import ClassVar, Final, TypedDict

from ..relay.agent import Agent
from ..relay.dial import Dialer
from ..relay.target import Target
from .program import Kind, ProgramConnector, Sign

__all__ = ["Config", "LoopbackConnector", "main"]

_MAX_INFLIGHT: Final = 1024
_BACKOFF_S: Final = (0.05, 1.0)
"""The relay is on this machine, so that trying costs nothing."""

_BOOTSTRAP: Final = """\
import sys, json
config = json.loads(sys.stdin.buffer.readline())
sys.path[:] = config.pop("sys_path")
from pytest_synth_tunnels.connectors.loopback import main
main(config)
"""
"""All that matters comes through the standard input: arguments and environment can be read by
others."""


class Config(TypedDict):
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


class LoopbackConnector(ProgramConnector):
    """Dials ``edge_url`` of the lease with its ``tunnel_token``, and serves its
    ``managed_tunnel_id``."""

    name: ClassVar[str] = "the loopback connector"
    is_public: ClassVar[bool] = False
    signs: ClassVar[tuple[Sign, ...]] = (
        Sign(Kind.UP, r"^connected$"),
        Sign(Kind.OVER, r"^refused: "),
        Sign(Kind.REFUSED, r"^offline: the relay answered 40[13]\b"),
        Sign(Kind.DOWN, r"^offline: "),
    )

    def arguments(self) -> list[str]:
        """Return the interpreter of the keeper, with a program of a few lines."""
        return [sys.executable, "-I", "-c", _BOOTSTRAP]

    def given(self) -> bytes:
        """Return the configuration."""
        need = self.assignment.need
        config = Config(
            url=need("edge_url"),
            token=need("tunnel_token"),
            lease_id=need("managed_tunnel_id"),
            public_url=_origin(need("public_url")),
            target=self.assignment.gateway_url,
        )
        return json.dumps(config | {"sys_path": sys.path}).encode() + b"\n"


async def serve(config: Config, say: Callable[[str], None], ended: asyncio.Event) -> None:
    """Carry the traffic.

    Args:
        config: of which traffic.
        say: takes a line whenever something changes: ``connected``, ``offline: why``, and
            ``refused: why`` when trying again cannot help.
        ended: set when it is to end.
    """
    agent = Agent()
    agent.serve(config["lease_id"], config["public_url"], max_inflight=_MAX_INFLIGHT)
    agent.set_target(config["lease_id"], "", Target.from_url(config["target"]))
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


def main(config: Config) -> None:
    """Run the process, until its standard input ends."""
    asyncio.run(_until_input_ends(config))


async def _until_input_ends(config: Config) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    # A thread, since not every event loop can wait for a pipe.
    threading.Thread(target=wait, daemon=True).start()
    await serve(config, _say, ended)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])
