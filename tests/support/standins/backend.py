"""A backend in a process of its own that does what a test says: the embedded one, with managed
leases for a stand-in of cloudflared, and heartbeats whose answers ask for something.

``STANDIN_GATEWAY_PORT``
    what its leases name as the gateway's port.
``STANDIN_ACTIONS``
    what the heartbeats' answers ask for, in turn, separated by spaces; after that, ``none``.
``STANDIN_LOG``
    a file to which each heartbeat's body, with its lease, is added as a line of JSON, and each
    lease's end.
"""

import json
import os
from typing import Any

from cloudflared import tunnel_token

from pytest_synth_tunnels.backend import managed_leases, store
from pytest_synth_tunnels.backend.__main__ import main
from pytest_synth_tunnels.backend.common import make_token
from pytest_synth_tunnels.backend.managed_leases import ManagedLeases

_BEAT_S = 0.2


class _Tokens:
    """Makes tunnel tokens that name their tunnels, as the real ones do."""

    def __init__(self) -> None:
        self._tunnel_id = ""

    def __call__(self, prefix: str) -> str:
        if prefix == "tt":
            return tunnel_token(self._tunnel_id)
        token = make_token(prefix)
        if prefix == "mt":
            self._tunnel_id = token
        return token


class _Scripted(ManagedLeases):
    actions = os.environ.get("STANDIN_ACTIONS", "").split()

    def heartbeat(self, lease_id: str, **body: Any) -> dict[str, Any]:
        answer = super().heartbeat(lease_id, **body)
        action = self.actions.pop(0) if self.actions else "none"
        _note({"lease_id": lease_id, "action": action, **body})
        return answer | {"action": action, "next_heartbeat_seconds": _BEAT_S}

    def release(self, lease_id: str) -> dict[str, Any]:
        _note({"released": lease_id})
        return super().release(lease_id)


def _note(line: dict[str, Any]) -> None:
    with open(os.environ["STANDIN_LOG"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    managed_leases.GATEWAY_PORT = int(os.environ["STANDIN_GATEWAY_PORT"])  # type: ignore[misc]
    store.ManagedLeases = _Scripted  # type: ignore[misc]
    store.Store.__init__.__kwdefaults__["token"] = _Tokens()
    main()
