"""Makes all calls of the published client, and prints the answers. Runs where synth-ai is.

Usage: ``published_sdk.py (sync|async) BACKEND_URL API_KEY``.
"""

import asyncio
import inspect
import json
import sys
from typing import Any

import httpx
from synth_ai.sdk.tunnels import AsyncTunnelsClient, TunnelProvider, TunnelsClient

CLIENT = "client-published"


async def main(kind: str, url: str, key: str) -> None:
    client = {"sync": TunnelsClient, "async": AsyncTunnelsClient}[kind](
        api_key=key, backend_base=f"{url}/api/v1/"
    )
    answers: list[tuple[str, Any]] = []

    async def call(name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = getattr(client, name)(*args, **kwargs)
            if inspect.isawaitable(answer):
                answer = await answer
        except httpx.HTTPStatusError as error:
            answer = {"error": error.response.status_code, **error.response.json()}
        answers.append((name, answer))
        return answer

    subdomain = f"demo-{kind}"
    await call("health")
    tunnel = await call("create", subdomain=subdomain, local_port=8000)
    await call("create", subdomain=subdomain, local_port=8000)
    await call("rotate", local_port=9000, reason="moved")
    await call("list")
    await call("delete", tunnel["id"])
    await call("list", status_filter="deleted", include_deleted=True)

    lease = await call(
        "create_lease",
        client_instance_id=CLIENT,
        local_host="127.0.0.1",
        local_port=8000,
        app_name="demo",
        provider_preference=TunnelProvider.CLOUDFLARED,
        idempotency_key=kind,
    )
    await call(
        "create_lease",
        client_instance_id=CLIENT,
        local_host="127.0.0.1",
        local_port=8000,
        app_name="demo",
        provider_preference="cloudflared",
        idempotency_key=kind,
    )
    await call("heartbeat", lease["lease_id"], connected_to_edge=True, gateway_ready=True)
    await call("refresh_lease", lease["lease_id"], requested_ttl_seconds=7200)
    await call("list_leases", client_instance_id=CLIENT)
    await call("release_lease", lease["lease_id"])
    await call("heartbeat", lease["lease_id"])
    await call("list_leases", include_expired=True)
    await call("delete_lease", lease["lease_id"])
    await call("delete_lease", "unknown")

    synth = await call(
        "create_synth_lease",
        client_instance_id=CLIENT,
        local_host="127.0.0.1",
        local_port=8000,
        capabilities={"max_inflight": 300},
    )
    await call("get_synth_lease", synth["lease_id"])
    await call("refresh_synth_worker_token", synth["lease_id"])
    await call("close_synth_lease", synth["lease_id"])
    await call("create_synth_lease", client_instance_id="", local_host="h", local_port=0)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
