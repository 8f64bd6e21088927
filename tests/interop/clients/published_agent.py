"""Serves an app through a published agent until stdin ends. Runs where synth-containers is.

Usage: ``published_agent.py BACKEND_URL API_KEY APP_URL``. Prints the lease as one JSON line once
the app answers through it, and another line once it is closed.
"""

import json
import sys
from typing import Any
from urllib.request import Request, urlopen

from synth_containers.tunnels import SynthTunnelProvider


class ControlPlane:
    """The two calls that the provider makes."""

    def __init__(self, url: str, key: str) -> None:
        self._leases = f"{url}/api/v1/synthtunnel/leases"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def create_synth_lease(self, *, local_host: str, local_port: int, **body: Any) -> Any:
        body["local_target"] = {"host": local_host, "port": local_port}
        return self._send("POST", self._leases, json.dumps(body).encode())

    def close_synth_lease(self, lease_id: str) -> Any:
        return self._send("DELETE", f"{self._leases}/{lease_id}")

    def _send(self, method: str, url: str, body: bytes | None = None) -> Any:
        request = Request(url, body, self._headers, method=method)
        with urlopen(request, timeout=10) as response:
            return json.load(response)


def main(url: str, key: str, app_url: str) -> None:
    provider = SynthTunnelProvider(control_plane=ControlPlane(url, key))
    lease = provider.open_synth_tunnel(
        app_url, requested_ttl_seconds=600, metadata={}, capabilities={}
    )
    about = {
        "lease_id": lease.lease_id,
        "public_url": lease.public_url,
        "worker_token": lease.worker_token,
    }
    sys.stdout.write(json.dumps(about) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    lease.close()
    sys.stdout.write("closed\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
