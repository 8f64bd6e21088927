"""A backend and its agents, for ``soak.py``: does what the lines of its stdin say, one by one.

The first line names the apps' ports. Each line is answered with one line of JSON.
"""

import asyncio
import gc
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.sdk import requests

OBJECTS_OF_A_LEASE = 5
"""As long as one that is over stays in the backend's history."""
BLOCKS_OF_A_LEASE = 25
"""Pieces of memory that it holds as long."""


class Subject:
    """Two leases for each kind of link: one for the app, one for the WebSocket app."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.backend = Backend(request_timeout_s=30)
        self.ports = ports
        self.agents: list[Agent] = []
        self.leases: list[dict[str, Any]] = []
        self.leases_over = 0
        self.dice = random.Random(3)

    async def start(self) -> dict[str, Any]:
        await self.backend.start()
        told = []
        for websocket in (False, True):
            web = await self.serve(self.ports["port"], websocket=websocket)
            socket = await self.serve(self.ports["socket_port"], websocket=websocket)
            told.append(
                {
                    "public_url": web["public_url"],
                    "worker_token": web["worker_token"],
                    "socket_url": socket["public_url"],
                    "socket_token": socket["worker_token"],
                }
            )
        return {"leases": told}

    async def serve(self, port: int, *, websocket: bool) -> dict[str, Any]:
        lease = self.lease(port)
        agent = Agent()
        agent.leases.serve(lease["lease_id"], lease["public_url"], max_inflight=1024)
        agent.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", port))
        self.agents.append(agent)
        self.leases.append(lease)
        if websocket:
            attached = asyncio.Event()
            connect = lease["agent_connect"]
            dialer = Dialer(
                agent,
                connect["url"],
                connect["agent_token"],
                on_change=lambda *_: attached.set(),
                backoff_s=(0.01, 0.05),
            )
            await dialer.start()
            await attached.wait()
        else:
            self.attach(lease, agent)
        return lease

    def lease(self, port: int) -> dict[str, Any]:
        lease: dict[str, Any] = self.backend.call(
            requests.create_synth_lease(
                client_instance_id="client-soaked",
                local_host="127.0.0.1",
                local_port=port,
                capabilities={"max_inflight": 1024},
            )
        )
        return lease

    def attach(self, lease: dict[str, Any], agent: Agent) -> None:
        self.backend.attach(lease["lease_id"], agent, lease["agent_connect"]["agent_token"])

    async def do(self, command: str) -> dict[str, Any]:
        if command == "sample":
            return self.sample()
        if command == "lose a link":
            nth = self.dice.randrange(len(self.agents))
            link: Any = self.agents[nth].uplink._link
            if hasattr(link, "_transport"):
                link._transport.abort()
            elif link is not None:
                self.attach(self.leases[nth], self.agents[nth])
        else:
            await self.turn_over()
        return {"done": command}

    async def turn_over(self) -> None:
        """Take a lease, serve it, and give it back."""
        lease, agent = self.lease(self.ports["port"]), Agent()
        agent.leases.serve(lease["lease_id"], lease["public_url"])
        agent.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", self.ports["port"]))
        self.attach(lease, agent)
        self.backend.call(requests.close_synth_lease(lease["lease_id"]))
        await agent.close()
        self.leases_over += 1

    def sample(self) -> dict[str, int]:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        (memory,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        leases = (requests.get_synth_lease(lease["lease_id"]) for lease in self.leases)
        under_way = sum(self.backend.call(lease)["inflight"] for lease in leases)
        return {
            "memory_kib": int(memory.split()[1]),
            "objects": len(gc.get_objects()) - OBJECTS_OF_A_LEASE * self.leases_over,
            "blocks": sys.getallocatedblocks() - BLOCKS_OF_A_LEASE * self.leases_over,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "tasks": len(asyncio.all_tasks()),
            "under_way": under_way + sum(agent.inflight for agent in self.agents),
        }


async def main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    subject = Subject(json.loads(await reader.readline()))
    answer = await subject.start()
    while True:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        line = await reader.readline()
        if not line:
            return
        answer = await subject.do(json.loads(line)["do"])


if __name__ == "__main__":
    asyncio.run(main())
