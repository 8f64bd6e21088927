"""Opens and releases many leases in one process, as the keeper does, and prints what each cost.

python benchmarks/agents/many_leases.py COUNT
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.sdk import requests


def memory_kib() -> int:
    """Return the memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def main(count: int) -> None:
    """Open them, and release them."""
    backend = Backend()
    await backend.start()
    await open_lease(backend)  # what is imported and allocated once is no lease's
    before_kib = memory_kib()
    began_s = time.process_time()
    agents = [await open_lease(backend) for _ in range(count)]
    opened_s = time.process_time()
    used_kib = memory_kib() - before_kib
    for lease_id, agent in agents:
        await agent.close()
        backend.call(requests.close_synth_lease(lease_id))
    released_s = time.process_time()
    await backend.close()
    print(
        json.dumps(
            {
                "opening (µs)": (opened_s - began_s) / count * 1e6,
                "releasing (µs)": (released_s - opened_s) / count * 1e6,
                "memory (KiB)": used_kib / count,
            }
        )
    )


async def open_lease(backend: Backend) -> tuple[str, Agent]:
    """Open one, with an agent of its own and an origin."""
    lease = backend.call(
        requests.create_synth_lease(
            client_instance_id="client-benchmark", local_host="127.0.0.1", local_port=9
        )
    )
    lease_id = lease["lease_id"]
    agent = Agent()
    agent.leases.serve(lease_id, lease["public_url"])
    origin = (await backend.open_origin(lease_id)).public_url
    agent.leases.set_target(lease_id, "", Target("127.0.0.1", 9), origin=origin)
    backend.attach(lease_id, agent, lease["agent_connect"]["agent_token"])
    return lease_id, agent


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
