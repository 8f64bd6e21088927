"""One page's stream of server-sent events: the list of requests as it fills and changes.

The stream has a place in the log, up to which it has told all requests, and a set of those told
ones that have changed since. So the log itself is the queue of what is new, and a page that reads
slowly costs no more than a number for each request that it knows; it is told the latest state of
each, and misses what the log drops in the meantime, as the log's bound says.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from ...http.exchange import Exchange
from ...traffic.log import Logged, Watch
from ...traffic.place import EVERYWHERE
from ...traffic.recorder import RecordedRequest, Recorder
from .view import TrafficView

__all__ = ["EventStream"]

_COLLECT_S: Final = 0.05
"""What changes within this time is told together."""

_MAX_RECORDS: Final = 250
"""In one event."""

_ALIVE_S: Final = 15.0
"""A comment goes out so often, which shows whether the page is still there."""


class EventStream:
    """See the module's text. It is the request's handler, too.

    Args:
        exchange: the page's request for events; its answer is the stream.
        recorder: of the run.
        view: masks what is told.
        on_end: called once when the page is gone.
    """

    def __init__(
        self,
        exchange: Exchange,
        recorder: Recorder,
        view: TrafficView,
        on_end: Callable[["EventStream"], None],
    ) -> None:
        self._exchange = exchange
        self._log = recorder.log
        self._view = view
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._told = 0
        """The number up to which all requests have been told."""
        self._changed: set[int] = set()
        """The told ones that have changed since."""
        self._dropped = -1
        """How many the log had dropped when that was told last."""
        self._timer: asyncio.TimerHandle | None = None
        self._alive = self._loop.call_later(_ALIVE_S, self._say_alive)
        self._watch: Watch
        self._watch, _ = recorder.watch({EVERYWHERE: -inf}, self._note)

    def start(self) -> None:
        """Tell all that is there, which the answer's head has preceded."""
        self._tell()

    def _note(self, request: Logged) -> None:
        if 0 < request.sequence <= self._told:
            self._changed.add(request.sequence)
        if self._timer is None:
            self._timer = self._loop.call_later(_COLLECT_S, self._tell)

    def _tell(self) -> None:
        """Tell some of what the page does not know, and come back for the rest."""
        self._timer = None
        exchange, log = self._exchange, self._log
        if exchange.done or not exchange.writable:
            return
        numbers: list[int] = []
        while self._changed and len(numbers) < _MAX_RECORDS:
            numbers.append(self._changed.pop())
        if self._told < log.dropped:
            self._told = log.dropped
        ends = min(self._told + _MAX_RECORDS - len(numbers), log.last_sequence)
        numbers += range(self._told + 1, ends + 1)
        self._told = ends
        records = [
            self._view.summary(request)
            for request in map(log.find, numbers)
            if isinstance(request, RecordedRequest)
        ]
        if records or self._dropped != log.dropped:
            self._dropped = log.dropped
            self._send("records", self._view.encode({"dropped": log.dropped, "records": records}))
        if (self._changed or self._told < log.last_sequence) and self._timer is None:
            self._timer = self._loop.call_later(0, self._tell)

    def _send(self, event: str, data: bytes) -> None:
        self._exchange.write(b"event: %b\ndata: %b\n\n" % (event.encode(), data))

    def _say_alive(self) -> None:
        self._alive = self._loop.call_later(_ALIVE_S, self._say_alive)
        if self._exchange.writable:
            self._exchange.write(b": \n\n")

    def end(self) -> None:
        """Tell the page that the run is over."""
        if not self._exchange.done:
            self._send("ended", b"{}")
            self._exchange.end()
        self.aborted()

    # --- the request's handler

    def body_received(self, data: bytes) -> None: ...
    def body_ended(self) -> None: ...

    def aborted(self) -> None:
        self._watch.close()
        self._alive.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._on_end(self)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(0, self._tell)

    def half_closed(self) -> bool:
        return False
