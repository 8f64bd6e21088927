"""The bounded log of a run's traffic, and who is told when it changes.

The log is a ring: it takes each request as it begins, in the order of arrival, and drops the
oldest when there are too many or too many bytes of them. A request belongs to a *place*: the lease
and the address on it by which it came. Each test has a place of its own, which has its name and
goes on being its own after the test; what arrives there then is late, and never another test's.

All times are seconds of one clock, which the caller chooses.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

__all__ = [
    "MAX_BYTES",
    "MAX_REQUESTS",
    "NOWHERE",
    "LateArrival",
    "Logged",
    "Place",
    "TrafficLog",
    "Watch",
]

MAX_REQUESTS: Final = 10_000
MAX_BYTES: Final = 32 << 20
_MAX_LATE: Final = 100


class Place(NamedTuple):
    """Where a request came.

    Attributes:
        lease_id: the lease.
        address: the part of the lease's URL that names a worker or a test; may be empty.
    """

    lease_id: str
    address: str


NOWHERE: Final = Place("", "")
"""The place of what the relay could not bring to any lease."""


class Logged(Protocol):
    """What the log holds of a request. The log sets ``sequence`` and ``dropped``.

    Attributes:
        place: where it came.
        arrived_s: when it came.
        size_bytes: what it takes of the log's memory.
        sequence: its number in the order of arrival; the first has 1, and 0 is not in the log.
        dropped: whether the log holds it no more.
    """

    place: Place
    arrived_s: float
    size_bytes: int
    sequence: int
    dropped: bool


class LateArrival(NamedTuple):
    """A request that came after the test to which its place belongs.

    Attributes:
        test: the test's name.
        after_s: how long after the test's end, in seconds.
        request: the request.
    """

    test: str
    after_s: float
    request: Logged


class Watch:
    """Is told of each request that is new or has changed at some places.

    Made by :meth:`TrafficLog.watch`; nothing is told any more after :meth:`close`.
    """

    def __init__(
        self, log: "TrafficLog", places: Mapping[Place, float], changed: Callable[[Logged], None]
    ) -> None:
        self._log = log
        self.places = places
        """Each with the time from which on requests count."""
        self.changed = changed

    def covers(self, request: Logged) -> bool:
        """Say whether a request came to one of the places, and not before its time."""
        since_s = self.places.get(request.place)
        return since_s is not None and request.arrived_s >= since_s

    def close(self) -> None:
        """Stop being told. Harmless if done already."""
        self._log.forget(self)


class TrafficLog:
    """The log.

    Args:
        max_requests: how many requests it holds.
        max_bytes: how many bytes of them.

    Attributes:
        dropped: how many requests were dropped so far.
        size_bytes: what is held now.
        watched: the places that somebody watches. Whoever changes a request looks here first, so
            that nothing is done for nobody.
    """

    def __init__(self, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> None:
        self.dropped = 0
        self.size_bytes = 0
        self.watched: dict[Place, set[Watch]] = {}
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._held: deque[Logged] = deque()
        self._last = 0
        """The latest sequence number."""
        self._tests: dict[Place, str] = {}
        """The test that each place belongs to, where it does."""
        self._ended: dict[Place, float] = {}
        """When it ended, where it has."""
        self._late: list[LateArrival] = []
        self._late_number = 0

    # --- requests

    def __len__(self) -> int:
        return len(self._held)

    def add(self, request: Logged) -> None:
        """Take a new request, and make room for it."""
        self._last = request.sequence = self._last + 1
        self._held.append(request)
        self.size_bytes += request.size_bytes
        if len(self._held) > self._max_requests or self.size_bytes > self._max_bytes:
            self._make_room()
        ended_s = self._ended.get(request.place)
        if ended_s is not None:
            self._late_number += 1
            if len(self._late) < _MAX_LATE:
                test = self._tests[request.place]
                self._late.append(LateArrival(test, request.arrived_s - ended_s, request))
        if self.watched:
            self.changed(request)

    def resize(self, request: Logged, size_bytes: int) -> None:
        """Count a request with another size than before, and make room for it."""
        if request.dropped:
            return
        self.size_bytes += size_bytes - request.size_bytes
        request.size_bytes = size_bytes
        if self.size_bytes > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        """Drop the oldest, but never the only one: its own bodies are bounded."""
        held = self._held
        while len(held) > 1 and (
            len(held) > self._max_requests or self.size_bytes > self._max_bytes
        ):
            oldest = held.popleft()
            oldest.dropped = True
            self.size_bytes -= oldest.size_bytes
            self.dropped += 1

    def find(self, sequence: int) -> Logged | None:
        """Return a request by its number; ``None`` if it is not held, or no more."""
        held = self._held
        index = sequence - held[0].sequence if held else -1
        # Requests are held in the order of their numbers, without gaps.
        return held[index] if 0 <= index < len(held) else None

    # --- watching

    def watch(
        self, places: Mapping[Place, float], changed: Callable[[Logged], None]
    ) -> tuple[Watch, list[Logged]]:
        """Tell of all changes at some places from now on.

        Args:
            places: each with the time from which on requests count.
            changed: told of each request that is new or has changed.

        Returns:
            The watch, and the requests that are there already, oldest first.
        """
        watch = Watch(self, places, changed)
        for place in places:
            self.watched.setdefault(place, set()).add(watch)
        return watch, [request for request in self._held if watch.covers(request)]

    def forget(self, watch: Watch) -> None:
        """Tell a watch nothing any more. Harmless if it is forgotten already."""
        for place in watch.places:
            watches = self.watched.get(place)
            if watches is not None:
                watches.discard(watch)
                if not watches:
                    del self.watched[place]

    def changed(self, request: Logged) -> None:
        """Tell those who watch its place that a request has changed."""
        for watch in list(self.watched.get(request.place, ())):
            if watch.covers(request):
                watch.changed(request)

    def __iter__(self) -> Iterator[Logged]:
        return iter(self._held)

    # --- the tests

    def begin_test(self, place: Place, test: str) -> None:
        """Have a place belong to a test."""
        self._tests[place] = test
        self._ended.pop(place, None)

    def end_test(self, place: Place, now_s: float) -> None:
        """Note that the test to which a place belongs is over. Harmless if it is no test's."""
        if place in self._tests:
            self._ended.setdefault(place, now_s)

    @property
    def late(self) -> list[LateArrival]:
        """What came after its test, oldest first; the first hundred."""
        return list(self._late)

    @property
    def late_number(self) -> int:
        """How much came after its test."""
        return self._late_number
