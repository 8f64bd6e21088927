"""Serves an app through this project's agent, over WebSocket, until stdin ends.

Usage and output as in ``published_agent.py``.
"""

import asyncio
import json
import sys

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.sdk import AsyncTunnelsClient


async def main(url: str, key: str, app_url: str) -> None:
    port = int(app_url.rpartition(":")[2])
    async with AsyncTunnelsClient(api_key=key, backend_base=url) as client:
        lease = await client.create_synth_lease(
            client_instance_id="client-own", local_host="127.0.0.1", local_port=port
        )
        agent = Agent()
        agent.leases.serve(lease["lease_id"], lease["public_url"])
        agent.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", port))
        attached = asyncio.Event()
        connect = lease["agent_connect"]
        dialer = Dialer(
            agent, connect["url"], connect["agent_token"], on_change=lambda *_: attached.set()
        )
        await dialer.start()
        await attached.wait()
        about = {name: lease[name] for name in ("lease_id", "public_url", "worker_token")}
        sys.stdout.write(json.dumps(about) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        await dialer.close()
        await agent.close()
        await client.close_synth_lease(lease["lease_id"])
    sys.stdout.write("closed\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
