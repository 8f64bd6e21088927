"""Who holds this run's tunnels.

A process holds by having a connection open. A forked child inherits its parent's connection and
would hold on for ever, so the process itself is watched too (:mod:`..process.process_watch`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ..process.process_watch import ProcessWatch, watch_process
from .messages import Event

__all__ = ["Holder", "Holders", "HoldingConnection"]


class HoldingConnection(Protocol):
    """A connection, as far as its holder is concerned."""

    def tell(self, event: Event) -> None:
        """Tell the process something that it did not ask."""

    def abort(self) -> None:
        """Close it at once."""


@dataclass(eq=False)
class Holder:
    """One process that holds this run's tunnels.

    Attributes:
        pid: its process id.
        address: its part of a shared URL; a forked child has its parent's.
        connections: by which it holds; it may have several.
    """

    pid: int
    address: str
    connections: set[HoldingConnection] = field(default_factory=set)
    watch: ProcessWatch | None = None

    def tell(self, event: Event) -> None:
        """Tell the process something, on each of its lines."""
        for connection in list(self.connections):
            connection.tell(event)


class Holders:
    """All processes that hold, in the order in which they came.

    Args:
        gone: called once for each holder when its last connection closed or it died.
    """

    def __init__(self, gone: Callable[[Holder], None]) -> None:
        self._gone = gone
        self._by_pid: dict[int, Holder] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def __iter__(self) -> Iterator[Holder]:
        return iter(list(self._by_pid.values()))

    def has_address(self, address: str) -> bool:
        """Whether any holder has this address."""
        return any(holder.address == address for holder in self._by_pid.values())

    def join(self, pid: int, address: str, connection: HoldingConnection) -> Holder:
        """Count a connection; its process holds from now on."""
        holder = self._by_pid.get(pid)
        if holder is None:
            holder = self._by_pid[pid] = Holder(pid, address)
            holder.watch = watch_process(pid, lambda: self._end(holder))
        holder.connections.add(connection)
        return holder

    def leave(self, holder: Holder, connection: HoldingConnection) -> None:
        """Take a closed connection off; the last one ends the hold."""
        holder.connections.discard(connection)
        if not holder.connections:
            self._end(holder)

    def _end(self, holder: Holder) -> None:
        if self._by_pid.get(holder.pid) is not holder:
            return
        del self._by_pid[holder.pid]
        if holder.watch is not None:
            holder.watch.close()
        for connection in list(holder.connections):
            connection.abort()
        self._gone(holder)

    def close(self) -> None:
        """Stop watching, and tell nothing any more."""
        for holder in self:
            if holder.watch is not None:
                holder.watch.close()
        self._by_pid.clear()
