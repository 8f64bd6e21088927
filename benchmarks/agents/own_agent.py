"""Serves a lease with this project's agent over WebSocket: one line of JSON on stdin says which."""

import asyncio
import json
import sys
from typing import Any

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.aio.runtime import run


async def main(lease: dict[str, Any], port: int) -> None:
    """Run until killed."""
    agent = Agent()
    agent.leases.serve(lease["lease_id"], lease["public_url"], max_inflight=1024)
    agent.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", port))
    connect = lease["agent_connect"]
    dialer = Dialer(
        agent, connect["url"], connect["agent_token"], on_change=lambda *news: print(*news)
    )
    await dialer.start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    run(main(**json.loads(sys.stdin.readline())))
