"""The run's gateways: one for each port that a lease's connector brings its traffic to."""

import asyncio
import logging
from typing import TYPE_CHECKING

from ...aio.tasks import spawn
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
        self._own: set[Gateway] = set()
        """Gateways of one lease alone."""
        self._closing: set[asyncio.Task[None]] = set()
        """Tasks that close such gateways."""
        self._lock = asyncio.Lock()

    async def find(self, port: int) -> "Gateway":
        """Return the gateway on a port.

        Args:
            port: the one that the lease names, or :data:`ANY_PORT`.

        Raises:
            KeeperRequestError: somebody else has the port. They keep it.
        """
        async with self._lock:
            if port not in self._gateways:
                self._gateways[port] = await self._start(port)
            return self._gateways[port]

    async def open_own(self) -> "Gateway":
        """Return a new gateway for one lease alone, which is at the root of it.

        Raises:
            KeeperRequestError: this machine lets nobody listen.
        """
        gateway = await self._start(ANY_PORT)
        self._own.add(gateway)
        return gateway

    def close_own(self, gateway: "Gateway") -> None:
        """Begin to end a gateway that :meth:`open_own` returned."""
        self._own.discard(gateway)
        closing = spawn(gateway.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _start(self, port: int) -> "Gateway":
        from ...gateway import HOST, Gateway

        gateway = Gateway(request_timeout_s=self._request_timeout_s, recorder=self._recorder)
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
        _log.info("the gateway listens on port %d", gateway.port)
        return gateway

    async def close(self) -> None:
        """End all of them."""
        for gateway in (*self._gateways.values(), *self._own):
            await gateway.close()
        await asyncio.gather(*self._closing)
