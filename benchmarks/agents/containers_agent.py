"""Serves a lease with synth-containers' agent: one line of JSON on stdin says which."""

import json
import sys
from typing import Any

from synth_containers.tunnels import SynthTunnelProvider


class ControlPlane:
    """Hands out the lease that is there."""

    def __init__(self, lease: dict[str, Any]) -> None:
        self._lease = lease

    def create_synth_lease(self, **_: Any) -> dict[str, Any]:
        """Return the lease."""
        return self._lease

    def close_synth_lease(self, lease_id: str) -> dict[str, Any]:
        """Leave the lease to whoever made it."""
        return {"lease_id": lease_id, "status": "EXPIRED"}


def main(lease: dict[str, Any], port: int) -> None:
    """Run until stdin ends."""
    provider = SynthTunnelProvider(
        control_plane=ControlPlane(lease), max_request_body_bytes=1 << 30
    )
    opened = provider.open_synth_tunnel(
        f"http://127.0.0.1:{port}", requested_ttl_seconds=3600, metadata={}, capabilities={}
    )
    sys.stdin.read()
    opened.close()


if __name__ == "__main__":
    main(**json.loads(sys.stdin.readline()))
