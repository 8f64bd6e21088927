"""The agent's WebSockets: which are open, and whose a frame is."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..http.errors import error_response
from ..http.refusal_log import log_refusal
from ..wire.frames import WsClose, WsFrame, WsOpen, WsOpenReject
from .served_leases import ServedLease

if TYPE_CHECKING:
    from ..websocket.tunnelled import TunnelledWebSocket
    from .agent import Agent
    from .websockets import AppWebSocket

__all__ = ["AppWebSockets"]

_MAX_OPEN: Final = 64
"""For each lease, as relays have it."""


class AppWebSockets:
    """Opens WebSockets to the apps of an agent's leases, and brings them what is theirs.

    Args:
        agent: whose they are.
        leases: what it serves, by id.
        timeout_s: for an app to answer, in seconds, where the relay sets no shorter time.

    Attributes:
        ends: those that still have a connection, closing ones included.
        under_way: those that the link knows, by rid.
    """

    def __init__(self, agent: "Agent", leases: Mapping[str, ServedLease], timeout_s: float) -> None:
        self.agent = agent
        self.loop = asyncio.get_running_loop()
        self.ends: set[TunnelledWebSocket] = set()
        self.under_way: dict[str, AppWebSocket] = {}
        self._leases = leases
        self._timeout_s = timeout_s

    def __len__(self) -> int:
        return len(self.under_way)

    def get(self, rid: str) -> "AppWebSocket | None":
        """Return one that is under way."""
        return self.under_way.get(rid)

    # --- frames

    def open(self, frame: WsOpen) -> None:
        """Open one, or refuse it."""
        rid, lease_id = frame.rid, frame.lease_id
        if not lease_id and len(self._leases) == 1:
            (lease_id,) = self._leases  # not every relay says it
        lease = self._leases.get(lease_id)
        if rid in self.under_way:
            self.under_way[rid].end(1002, "two WebSockets with the same rid")
        elif lease is None:
            message = "this agent does not serve the lease"
            self.refuse(rid, lease_id, 502, "LEASE_NOT_SERVED", message)
        elif (found := lease.resolve(frame.path)) is None:
            self.refuse(rid, lease_id, 404, "UNKNOWN_ADDRESS", lease.explain(frame.path))
        elif lease.websockets >= _MAX_OPEN:
            message = f"{lease.websockets} WebSockets are open, which is the lease's limit"
            self.refuse(rid, lease_id, 503, "TUNNEL_CAPACITY_EXCEEDED", message)
        else:
            # Most runs have none, and never need the library.
            from .websockets import AppWebSocket

            mount, origin, path = found
            timeout_s = self._timeout_s
            if frame.deadline_ms > 0:
                timeout_s = min(timeout_s, frame.deadline_ms / 1000)
            opening = AppWebSocket(self, frame, lease, mount, origin, path, timeout_s)
            self.under_way[rid] = opening
            opening.begin()

    def message(self, frame: WsFrame) -> None:
        """Bring a message to its WebSocket."""
        found = self.under_way.get(frame.rid)
        if found is not None:
            found.message(frame)

    def close(self, frame: WsClose) -> None:
        """Close one as the caller did."""
        found = self.under_way.get(frame.rid)
        if found is not None:
            found.closed(frame)

    # --- all of them

    def drop(self, lease_id: str) -> None:
        """Close those of a lease that is served no more."""
        for found in list(self.under_way.values()):
            if found.lease_id == lease_id:
                found.end(1001, "the lease is over")

    def lose(self) -> None:
        """Close all of them: the link is gone, and with it what was on the way."""
        for found in list(self.under_way.values()):
            found.end(1012, "the tunnel's agent lost its relay", tell=False)

    async def aclose(self) -> None:
        """End what is still closing."""
        for end in list(self.ends):
            end.abort()
        await asyncio.sleep(0)  # for the transports to take leave

    # --- for the WebSockets

    def refuse(self, rid: str, lease_id: str, status: int, code: str, message: str) -> None:
        """Answer an upgrade with an error of the agent's own."""
        log_refusal(status, code, rid)
        _, headers, body = error_response(status, code, message, rid)
        self.agent.send(WsOpenReject(rid, status, headers, body, lease_id))

    def forget(self, ended: "AppWebSocket") -> None:
        """Have it under way no more."""
        self.under_way.pop(ended.rid, None)
