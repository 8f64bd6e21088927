"""The run's connectors: started with the first lease that needs one, shared, and stopped.

A connector serves every lease of the same tunnel. When the last of them is gone, the connector is
kept for a while, in case there is another one, and then stopped.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from ...aio.tasks import spawn
from ...connectors.base import Assignment, Connector, ConnectorError, ConnectorStatus
from ...connectors.registry import known_names, load
from ..errors import KeeperRequestError
from ..leases.spec import SYNTHTUNNEL

__all__ = ["ConnectorPool", "SharedConnector"]

_log = logging.getLogger(__name__)

_IDLE_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 6.0
_SHOWN_LINES: Final = 12
_RANDOM: Final = re.compile(r"[0-9a-f]{32,}")
"""The part of a lease's path that nobody can guess."""


class SharedConnector:
    """A connector that several leases may use.

    Args:
        name: its provider, for people.
        kind: its class.
        assignment: the gateway and the lease that it connects.

    Attributes:
        name: its provider.
        kind: its class.
        users: how many leases use it.
        starts: how often it was started.
    """

    def __init__(self, name: str, kind: type[Connector], assignment: Assignment) -> None:
        self.name = name
        self.kind = kind
        self.users = 0
        self.starts = 0
        self._assignment = assignment
        self._connector: Connector | None = None
        self._opening: asyncio.Task[Connector] | None = None
        """The task of its last start."""
        self._stopped = False

    async def ready(self) -> str | None:
        """Start it unless it is started, and wait until it is connected.

        Returns:
            The public origin that it has now, if it makes one; after a restart of its own it may
            have another.

        Raises:
            KeeperRequestError: it cannot be connected, and why.
        """
        while not self._stopped:
            opening = self._opening
            if opening is None:
                opening = self._begin()
            await asyncio.wait([opening])
            if opening is not self._opening:
                continue  # it was restarted meanwhile
            if opening.cancelled():
                break
            try:
                return await opening.result().ready()
            except ConnectorError as error:
                if opening is self._opening:
                    raise self._failure(error) from None
        raise self._failure(ConnectorError("it was stopped"))

    def _failure(self, error: ConnectorError) -> KeeperRequestError:
        return KeeperRequestError(
            "CONNECTOR_FAILED",
            f"the {self.name} connector failed: {_without_paths(error.message)}"
            f"{self.quoted_lines(besides=error.message)}",
            error.hint,
        )

    def _begin(self) -> "asyncio.Task[Connector]":
        """Begin to start it, instead of the one that runs, if one does."""
        if self._opening is not None:
            self._opening.cancel()
        self.starts += 1
        self._opening = spawn(self._open(self._connector))
        return self._opening

    async def _open(self, former: Connector | None) -> Connector:
        if former is not None:
            await self._end(former)
        connector = self._connector = self.kind(self._assignment)
        await connector.start()
        await connector.ready()
        return connector

    async def restart(self, seen: int) -> str | None:
        """Stop it and start it anew, unless that was done meanwhile; then as :meth:`ready`.

        Several leases use a connector, and the backend may ask each of them to restart it.

        Args:
            seen: its :attr:`starts` when it did not work.
        """
        if self.starts == seen and not self._stopped:
            self._begin()
        return await self.ready()

    def status(self) -> ConnectorStatus:
        """Return its state. May be called from any thread."""
        connector = self._connector
        if connector is None:
            return ConnectorStatus(connected=False, error="it is not started")
        status = connector.status()
        return ConnectorStatus(status.connected, _without_paths(status.error))

    def quoted_lines(self, *, besides: str = "") -> str:
        """Return its last lines for an error message.

        Args:
            besides: the rest of the message; if it has the lines already, nothing is returned.
        """
        lines = self._connector.logs()[-_SHOWN_LINES:] if self._connector is not None else []
        if all(line.strip() in besides for line in lines):
            return ""
        return _without_paths("; its last lines:\n  " + "\n  ".join(lines)) if lines else ""

    async def stop(self) -> None:
        """Stop it for good, within some seconds."""
        self._stopped = True
        if self._opening is not None:
            self._opening.cancel()
        connector, self._connector = self._connector, None
        if connector is not None:
            await self._end(connector)

    async def _end(self, connector: Connector) -> None:
        stopping = spawn(connector.stop())
        await asyncio.wait([stopping], timeout=_STOP_TIMEOUT_S)
        if not stopping.done() or stopping.cancelled() or stopping.exception() is not None:
            _log.warning("the %s connector did not stop in time, or failed to", self.name)


def _without_paths(text: str) -> str:
    """Take the secret paths out of a text: programs print the URLs of requests that fail."""
    return _RANDOM.sub("…", text)


class ConnectorPool:
    """All connectors of a run.

    Args:
        environ: the environment of the run.
        cloudflared: name or path of the cloudflared program, if one is configured.
        registered: connectors of plugins, name → ``module:Class``.
        idle_s: how long a connector without leases is kept, in seconds.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        cloudflared: str | None,
        registered: Mapping[str, str],
        idle_s: float = _IDLE_S,
    ) -> None:
        self._environ = environ
        self._cloudflared = cloudflared
        self._registered = registered
        self._idle_s = idle_s
        self._connectors: dict[tuple[str, ...], SharedConnector] = {}
        self._idle: dict[SharedConnector, asyncio.TimerHandle] = {}
        """Connectors without leases, and the timer that will stop each."""
        self._retiring: set[asyncio.Task[None]] = set()
        """Tasks that stop connectors."""

    def kind(self, name: str) -> type[Connector]:
        """Return a provider's class.

        Raises:
            KeeperRequestError: there is none, or it cannot be used.
        """
        known = known_names(self._registered)
        if name not in known:
            raise KeeperRequestError(
                "TUNNEL_PROVIDER_INVALID",
                f"no provider is called {name!r}",
                f"Known are {', '.join([SYNTHTUNNEL, *known])}",
            )
        try:
            return load(name, self._registered)
        except ConnectorError as error:
            raise KeeperRequestError("TUNNEL_PROVIDER_INVALID", error.message, error.hint) from None

    def use(self, name: str, gateway_url: str, lease: Mapping[str, Any]) -> SharedConnector:
        """Count a lease as a user of the connector that serves it.

        Args:
            name: the provider whose connector it is.
            gateway_url: where it brings the traffic.
            lease: the backend's answer to the create.
        """
        kind = self.kind(name)
        # A connector belongs to a tunnel, and one that makes its own URL perhaps to a hostname too;
        # but a connector of the keeper's own backend serves all leases alike.
        fields = ["tunnel_token"]
        if kind.brings_url:
            fields = [] if lease.get("edge_url") else [*fields, "hostname"]
        key = (name, gateway_url, *(str(lease.get(field)) for field in fields))
        if key not in self._connectors:
            assignment = Assignment(gateway_url, lease, self._environ, self._cloudflared)
            self._connectors[key] = SharedConnector(name, kind, assignment)
        shared = self._connectors[key]
        shared.users += 1
        if shared in self._idle:
            self._idle.pop(shared).cancel()
        return shared

    def leave(self, shared: SharedConnector, *, keep: bool = True) -> None:
        """Count a lease as gone from its connector.

        Args:
            shared: the connector.
            keep: whether it may wait for another lease when its last one is gone.
        """
        shared.users -= 1
        if shared.users > 0:
            return
        if keep and shared.status().connected:
            loop = asyncio.get_running_loop()
            self._idle[shared] = loop.call_later(self._idle_s, self._retire, shared)
        else:  # another one may succeed to connect
            self._retire(shared)

    def _retire(self, shared: SharedConnector) -> None:
        self._idle.pop(shared, None)
        for key in [key for key, known in self._connectors.items() if known is shared]:
            del self._connectors[key]
        stopping = spawn(shared.stop())
        self._retiring.add(stopping)
        stopping.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Stop all connectors."""
        for timer in self._idle.values():
            timer.cancel()
        stopping = (shared.stop() for shared in self._connectors.values())
        await asyncio.gather(*stopping, *self._retiring)
