"""The run's gateways: one for each port that a lease's connector brings its traffic to."""

import asyncio
import logging
from typing import TYPE_CHECKING

from ...traffic.recorder import Recorder
from ..errors import KeeperRequestError

if TYPE_CHECKING:
    from ...gateway import Gateway

__all__ = ["ANY_PORT", "GatewayPool"]

_log = logging.getLogger(__name__)

ANY_PORT = 0
"""Any free port, for a connector that can bring its traffic to any."""


class GatewayPool:
    """Starts a gateway when the first lease needs it; it lives as long as the keeper.

    Args:
        request_timeout_s: how long a caller waits for the app, in seconds.
        recorder: records what the gateways answer themselves; ``None`` to record nothing.
    """

    def __init__(self, request_timeout_s: float, recorder: Recorder | None = None) -> None:
        self._request_timeout_s = request_timeout_s
        self._recorder = recorder
        self._gateways: dict[int, Gateway] = {}
        """By the port that was asked for."""
        self._lock = asyncio.Lock()

    async def find(self, port: int) -> "Gateway":
        """Return the gateway on a port.

        Args:
            port: the one that the lease names, or :data:`ANY_PORT`.

        Raises:
            KeeperRequestError: somebody else has the port. They keep it.
        """
        from ...gateway import HOST, Gateway

        async with self._lock:
            if port not in self._gateways:
                gateway = Gateway(
                    request_timeout_s=self._request_timeout_s, recorder=self._recorder
                )
                try:
                    await gateway.start(port)
                except OSError as error:
                    raise KeeperRequestError(
                        "GATEWAY_PORT_TAKEN",
                        f"the gateway cannot listen on {HOST}:{port}, where the lease's connector "
                        f"brings its traffic: {error.strerror or error}",
                        "Stop what listens there (another test run with this provider does, until "
                        "it ends), or use another provider",
                    ) from None
                self._gateways[port] = gateway
                _log.info("the gateway listens on port %d", gateway.port)
            return self._gateways[port]

    async def close(self) -> None:
        """End all of them."""
        for gateway in self._gateways.values():
            await gateway.close()
