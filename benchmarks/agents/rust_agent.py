"""Serves a lease with synth-ai's Rust agent: one line of JSON on stdin says which."""

import json
import sys
from typing import Any

import synth_ai_py


def main(lease: dict[str, Any], port: int) -> None:
    """Run until stdin ends."""
    connect = lease["agent_connect"]
    agent = synth_ai_py.synth_tunnel_start(
        connect["url"],
        connect["agent_token"],
        lease["lease_id"],
        "127.0.0.1",
        port,
        lease["public_url"],
        lease["worker_token"],
        [],
        max_inflight=256,
    )
    sys.stdin.read()
    agent.stop()


if __name__ == "__main__":
    main(**json.loads(sys.stdin.readline()))
