"""The bounded log of a run's traffic, and who is told when it changes.

The log is a ring: it takes each request once, when it begins or, if nobody wants to know earlier,
when it is finished, and drops the oldest when there are too many or too many bytes of them. What
comes finished comes in batches, of which the last is collected elsewhere; the log asks for it
(:attr:`TrafficLog.flush`) before it tells anybody anything. It holds a batch as it is until
somebody looks at a request of it.

A request belongs to a *place*: the lease and the address on it by which it came. Each test has a
place of its own, which has its name and goes on being its own after the test; what arrives there
then is late, and never another test's.

All times are seconds of one clock, which the caller chooses.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from math import inf
from typing import Final, NamedTuple, Protocol

from .finished import Batch
from .place import EVERYWHERE, NOWHERE, Place

__all__ = [
    "MAX_BYTES",
    "MAX_REQUESTS",
    "LateArrival",
    "Logged",
    "Owner",
    "TrafficLog",
    "Watch",
]

MAX_REQUESTS: Final = 10_000
MAX_BYTES: Final = 32 << 20
_MAX_LATE: Final = 100
_MAX_TESTS = 16_384
"""The tests whose places are remembered."""

_ADDRESS = re.compile(r"/(?:~|%7[Ee])([^/]+)")


class Logged(Protocol):
    """What the log holds of a request.

    Attributes:
        place: where it came; the log may set it.
        arrived_s: when it came.
        size_bytes: what it takes of the log's memory; the log sets it.
        sequence: its number among all requests of the run; the log sets it, and 0 is not in the
            log.
        dropped: whether the log holds it no more; the log sets it.
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


class Owner(NamedTuple):
    """Whose a request is.

    Attributes:
        test: the test's name; empty for none.
        worker: the pytest-xdist worker that ran it, or whose address it is; empty for none.
        is_late: whether the request came after the test.
    """

    test: str
    worker: str
    is_late: bool


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
        since_s = self.places.get(request.place, self.places.get(EVERYWHERE))
        return since_s is not None and request.arrived_s >= since_s

    def may_cover(self, batch: Batch) -> bool:
        """Say whether a request of a batch can be one that is covered. It cannot if it went
        elsewhere, or if all of the batch was over before its time."""
        places, ended_s = self.places, batch.ended_s
        otherwise = places.get(EVERYWHERE, inf)
        return ended_s >= min(places.values(), default=inf) and any(
            ended_s >= places.get(app.place, otherwise) for app in batch.apps
        )

    def close(self) -> None:
        """Stop being told. Harmless if done already."""
        self._log.forget(self)


class TrafficLog:
    """The log.

    Args:
        max_requests: how many requests it holds.
        max_bytes: how many bytes of them.

    Attributes:
        watched: the places that somebody watches. The code that changes a request looks here
            first, so that nothing is done for nobody.
        flush: hands over, by :meth:`add_batch`, what is collected of finished requests.
        unfold: makes the requests of a batch.
    """

    def __init__(self, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> None:
        self.watched: dict[Place, set[Watch]] = {}
        self.flush: Callable[[], None] = _nothing_collected
        self.unfold: Callable[[Batch], Sequence[Logged]] = _no_batches
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._held: deque[Logged | Batch] = deque()
        """The requests in the order of their numbers, without gaps; instead of each at which
        nobody has looked its batch."""
        self._dropped = 0
        self._size_bytes = 0
        self._known: set[Place] = set()
        self._same_lease: dict[str, str] = {}
        """Later ids of leases that were made anew, each with the first one."""
        self._tests: dict[Place, tuple[str, str]] = {}
        """The test that each place belongs to, where it does, and the worker that runs it."""
        self._ended: dict[Place, float] = {}
        """When it ended, where it has."""
        self._late: list[LateArrival] = []
        self._late_number = 0

    # --- requests

    def __len__(self) -> int:
        self.flush()
        return len(self._held)

    @property
    def dropped(self) -> int:
        """How many requests were dropped so far."""
        self.flush()
        return self._dropped

    @property
    def size_bytes(self) -> int:
        """What is held now."""
        self.flush()
        return self._size_bytes

    @property
    def last_sequence(self) -> int:
        """The number of the youngest request; 0 if there has been none."""
        self.flush()
        return self._dropped + len(self._held)

    def add(self, request: Logged) -> None:
        """Take a new request, and make room for it."""
        self.flush()
        self._add(request)

    def _add(self, request: Logged) -> None:
        if self._same_lease:
            lease_id, address = request.place
            request.place = Place(self._same_lease.get(lease_id, lease_id), address)
        self._held.append(request)
        self._size_bytes += request.size_bytes
        request.sequence = self._dropped + len(self._held)
        self._make_room()
        if self._ended:
            self._note_if_late(request)
        if self.watched:
            self.changed(request)

    def add_batch(self, batch: Batch) -> None:
        """Take requests that change no more, and that nobody watches."""
        ended = self._ended
        if self._same_lease or (ended and any(app.place in ended for app in batch.apps)):
            for request in self.unfold(batch):
                self._add(request)
            return
        batch.first_sequence = self._dropped + len(self._held) + 1
        self._held.extend(repeat(batch, len(batch.apps)))
        self._size_bytes += batch.size_bytes
        self._make_room()

    def _note_if_late(self, request: Logged) -> None:
        ended_s = self._ended.get(request.place)
        if ended_s is not None and request.arrived_s >= ended_s:
            self._late_number += 1
            if len(self._late) < _MAX_LATE:
                test, _ = self._tests[request.place]
                self._late.append(LateArrival(test, request.arrived_s - ended_s, request))

    def resize(self, request: Logged, size_bytes: int) -> None:
        """Count a request with another size than before, and make room for it."""
        if request.dropped or not request.sequence:
            request.size_bytes = size_bytes
            return
        self._size_bytes += size_bytes - request.size_bytes
        request.size_bytes = size_bytes
        self._make_room()

    def _make_room(self) -> None:
        """Drop the oldest, but never the only one: its own bodies are bounded."""
        held = self._held
        number, size = len(held), self._size_bytes
        max_requests, max_bytes = self._max_requests, self._max_bytes
        if number <= max_requests and size <= max_bytes:
            return
        dropped = 0
        while number > 1 and (number > max_requests or size > max_bytes):
            oldest = held.popleft()
            number -= 1
            dropped += 1
            if isinstance(oldest, Batch):
                if held[0] is oldest:
                    continue  # its memory is free when the last of it is dropped
            else:
                oldest.dropped = True
            size -= oldest.size_bytes
        self._dropped += dropped
        self._size_bytes = size

    def find(self, sequence: int) -> Logged | None:
        """Return a request by its number; ``None`` if it is not held, or no more."""
        self.flush()
        index = sequence - self._dropped - 1
        return self._unfolded(index) if 0 <= index < len(self._held) else None

    def _unfolded(self, index: int) -> Logged:
        """Return the request at a place of the ring."""
        held = self._held[index]
        return self._unfold(held)[index] if isinstance(held, Batch) else held

    def _unfold(self, batch: Batch) -> dict[int, Logged]:
        """Hold the requests of a batch instead of it, and return them by their places in the
        ring."""
        unfolded = {}
        index = batch.first_sequence - self._dropped - 1
        for request in self.unfold(batch):
            if index >= 0:  # it is not dropped yet
                request.sequence = self._dropped + index + 1
                self._held[index] = unfolded[index] = request
                self._size_bytes += request.size_bytes
            index += 1
        self._size_bytes -= batch.size_bytes
        return unfolded

    # --- places

    def know(self, place: Place) -> None:
        """Note that an address of a lease leads somewhere."""
        self._known.add(place)

    def rename(self, lease_id: str, first_id: str) -> None:
        """Take a lease that was made anew for the one that it replaces.

        Args:
            lease_id: its id now.
            first_id: the id by which its places are known.
        """
        if lease_id != first_id:
            self._same_lease[lease_id] = first_id

    def locate(self, lease_id: str, path: str) -> tuple[Place, str]:
        """Return the place of a request that came to a lease, and its path there.

        Args:
            lease_id: the lease.
            path: the path below the lease's URL, which may begin with an address.
        """
        lease_id = self._same_lease.get(lease_id, lease_id)
        found = _ADDRESS.match(path)
        if found is not None:
            place = Place(lease_id, found[1])
            if place in self._known:
                return place, path[found.end() :] or "/"
        place = Place(lease_id, "")
        return (place if place in self._known else NOWHERE), path

    # --- watching

    def watch(
        self, places: Mapping[Place, float], changed: Callable[[Logged], None]
    ) -> tuple[Watch, list[Logged]]:
        """Tell of all changes at some places from now on.

        Args:
            places: each with the time from which on requests count; one of them may be
                :data:`EVERYWHERE`.
            changed: told of each request that is new or has changed.

        Returns:
            The watch, and the requests that are there already, oldest first.
        """
        self.flush()
        watch = Watch(self, places, changed)
        for place in places:
            self.watched.setdefault(place, set()).add(watch)
        for held in set(self._held):
            if isinstance(held, Batch) and watch.may_cover(held):
                self._unfold(held)
        logged = (held for held in self._held if not isinstance(held, Batch))
        there = sorted(filter(watch.covers, logged), key=lambda request: request.arrived_s)
        return watch, there

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
        watched = self.watched
        for watch in [*watched.get(request.place, ()), *watched.get(EVERYWHERE, ())]:
            if watch.covers(request):
                watch.changed(request)

    def __iter__(self) -> Iterator[Logged]:
        return map(self._unfolded, range(len(self)))

    # --- the tests

    def begin_test(self, place: Place, test: str, worker: str = "") -> None:
        """Have a place belong to a test, and to the worker that runs it."""
        self.flush()
        self._known.add(place)
        self._tests[place] = test, worker
        self._ended.pop(place, None)
        while len(self._tests) > _MAX_TESTS:
            oldest = next(iter(self._tests))
            del self._tests[oldest]
            self._ended.pop(oldest, None)
            self._known.discard(oldest)

    def end_test(self, place: Place, now_s: float) -> None:
        """Note that the test to which a place belongs is over. Harmless if it is no test's."""
        if place in self._tests:
            self._ended.setdefault(place, now_s)

    def owner_of(self, request: Logged) -> Owner:
        """Say whose a request is."""
        place = request.place
        # pytest-xdist calls its workers so, and a worker's address has its name.
        worker = place.address if place.address.startswith("gw") else ""
        test, worker = self._tests.get(place, ("", worker))
        ended_s = self._ended.get(place)
        return Owner(test, worker, ended_s is not None and request.arrived_s > ended_s)

    @property
    def late(self) -> list[LateArrival]:
        """What came after its test, oldest first; the first hundred."""
        self.flush()
        return list(self._late)

    @property
    def late_number(self) -> int:
        """How much came after its test."""
        self.flush()
        return self._late_number


def _nothing_collected() -> None:
    """Hand nothing over."""


def _no_batches(batch: Batch) -> Sequence[Logged]:
    raise RuntimeError("this log takes no batches")
