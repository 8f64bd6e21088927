"""The run's traffic in the keeper: recorded, shown to tests that wait, and told at the end.

Each test that looks at traffic has an address of its own on its process's lease, which leads to the
same app as the process's own address, or to an inbox. An address belongs to its test until the run
ends, so that what comes late is told under that test's name. Only so many are open at a time; the
oldest is closed for a new one, and answers 410 from then on.

A wait has a connection of its own, on which the keeper tells each request as it is and again when
it changes, until the time is up. It decides nothing: what a test waits for is made of Python
objects, which only the test's process has. A process that reads slowly is told the latest state of
what has changed meanwhile, so that nothing piles up here.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from ..agent.target import Target
from ..aio.runtime import open_files_allowed
from ..aio.tasks import in_thread
from ..settings import Settings
from ..socket_table import has_loopback_listener
from ..traffic.log import MAX_BYTES, MAX_REQUESTS, Logged, TrafficLog
from ..traffic.place import Place
from ..traffic.recorder import RecordedRequest, Recorder
from .errors import KeeperRequestError
from .inbox import Inboxes, InboxRule
from .ipc.messages import (
    InboxRespond,
    TrafficAddress,
    TrafficCaughtUp,
    TrafficNoApp,
    TrafficTimeUp,
    WatchTraffic,
    encode,
)
from .leases.lease import HeldLease
from .missing_app import MissingApp
from .ports import HOST, accepts_blocking
from .replay import ReplayedParts, replay

__all__ = ["RunTraffic"]

_MAX_ADDRESSES: Final = 2_000
"""Of tests; each may have an origin, and with it an open file."""

_MAX_WAIT_S: Final = 86_400.0
_MAX_PLACES: Final = 16
_MAX_REPORTED: Final = 20
"""Late requests in the run's report."""

_PROBE_TIMEOUT_S: Final = 0.5


class RunTraffic:
    """See the module's text.

    Args:
        body_bytes: how much of each body is recorded, in bytes; ``None`` to record nothing.
        now: seconds, of a clock that all processes of the machine share.

    Attributes:
        log: what came.
        recorder: records it; ``None`` if nothing is recorded.
    """

    def __init__(
        self, body_bytes: int | None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.log = TrafficLog()
        self.recorder: Recorder | None = None
        if body_bytes is not None:
            self.recorder = Recorder(self.log, body_bytes=body_bytes, now=now)
        self._now = now
        self._inboxes = Inboxes()
        self._open: dict[Place, HeldLease] = {}
        """The lease of each test's address, the oldest address first."""
        self._inbox_places: set[Place] = set()

    @classmethod
    def of(cls, settings: Settings) -> "RunTraffic":
        """Return the traffic of a run with these settings, of which nothing has come yet."""
        return cls(settings.traffic_body_bytes if settings.traffic else None)

    @property
    def _on(self) -> Recorder:
        if self.recorder is None:
            raise KeeperRequestError(
                "TRAFFIC_OFF",
                "this run records no traffic",
                "Leave out synth_tunnels_traffic = false",
            )
        return self.recorder

    # --- addresses

    def place(self, lease: HeldLease, address: str) -> Place:
        """Return the place of an address, by which its requests are found also after the lease was
        made anew."""
        place = Place(lease.targets.first_lease_id, address)
        self.log.know(place)
        return place

    async def open(
        self, lease: HeldLease, own_address: str, target: Target, test: str, *, inbox: bool
    ) -> TrafficAddress:
        """Give a test an address.

        Args:
            lease: the lease of its process.
            own_address: the address that its process has there.
            target: the app of its process.
            test: its name.
            inbox: whether an inbox answers there, instead of the app.

        Raises:
            KeeperRequestError: nothing is recorded, or there can be no address.
        """
        _ = self._on
        address = f"t{secrets.token_hex(8)}"
        if inbox:
            try:
                target = await self._inboxes.open(address)
            except OSError as error:
                raise KeeperRequestError(
                    "NO_INBOX", f"an inbox cannot listen: {error.strerror or error}"
                ) from None
        # Connections need the other half of the files where the system allows few.
        while len(self._open) >= min(_MAX_ADDRESSES, open_files_allowed() // 2):
            self._close_oldest()
        await lease.open_address(address, target, permanent=False)
        self.place(lease, own_address)
        place = self.place(lease, address)
        self.log.begin_test(place, test, own_address)
        self._open[place] = lease
        if inbox:
            self._inbox_places.add(place)
        return self.describe(lease, address, own_address)

    def _close_oldest(self) -> None:
        place = next(iter(self._open))
        lease = self._open.pop(place)
        self.log.end_test(place, self._now())
        lease.end_address(place.address, "the test that it belonged to has long been over")
        if place in self._inbox_places:
            self._inbox_places.discard(place)
            self._inboxes.close(place.address)

    def describe(self, lease: HeldLease, address: str, own_address: str) -> TrafficAddress:
        """Return what a test may know of an address.

        Args:
            lease: the lease.
            address: the address.
            own_address: the one that the test's process has on the same lease.

        Raises:
            KeeperRequestError: it is closed, or nothing is recorded.
        """
        _ = self._on
        place = self.place(lease, address)
        info = lease.info(address)
        return TrafficAddress(
            lease_id=place.lease_id,
            address=address,
            own_address=own_address,
            public_url=info.public_url,
            loopback_url=info.loopback_url,
            ca_file=info.ca_file,
            headers=info.headers,
            url_secret=info.url_secret,
            provider=info.provider,
            local_url=(
                "" if place in self._inbox_places else f"http://{info.local_host}:{info.local_port}"
            ),
        )

    def end_test(self, lease_id: str, address: str) -> None:
        """Note that the test of an address is over. Harmless if the address is closed."""
        self.log.end_test(Place(lease_id, address), self._now())

    async def accepts(self, lease: HeldLease, address: str) -> bool:
        """Say whether the app of an address accepts connections.

        Raises:
            KeeperRequestError: the address is closed.
        """
        target = lease.targets.target(address)
        return await in_thread(lambda: accepts_blocking(target.host, target.port, _PROBE_TIMEOUT_S))

    def respond(self, request: InboxRespond) -> None:
        """Say how an inbox answers.

        Raises:
            ValueError: that cannot be done.
        """
        rule = InboxRule(
            method=request.method,
            path=None if request.path is None else re.compile(request.path, request.path_flags),
            status=request.status,
            headers=[(name, value) for name, value in request.headers],
            body=request.body.encode("latin-1"),
            delay_s=request.delay_s,
        )
        self._inboxes.respond(request.address, rule, request.times)

    # --- waiting

    def watch(
        self, request: WatchTraffic, app: Target | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Tell what comes to some places, as lines of the keeper's protocol.

        Args:
            request: the places, and for how long.
            app: where the requests are brought, to tell that no app is running there; ``None`` if
                there need not be one.

        Raises:
            KeeperRequestError: nothing is recorded.
            ValueError: it makes no sense.
        """
        recorder = self._on
        if len(request.places) > _MAX_PLACES:
            raise ValueError(f"at most {_MAX_PLACES} places can be watched at a time")
        places = {Place(str(lease), str(at)): float(s) for lease, at, s in request.places}
        return self._tell(recorder, places, request.timeout_s, app)

    async def _tell(
        self,
        recorder: Recorder,
        places: Mapping[Place, float],
        timeout_s: float | None,
        app: Target | None,
    ) -> AsyncGenerator[bytes, None]:
        changed: dict[int, Logged] = {}
        """What has changed since it was told, by number."""
        wake = asyncio.Event()

        def note(request: Logged) -> None:
            changed[request.sequence] = request
            wake.set()

        began_s = self._now()
        missing_app = MissingApp(began_s)

        def line(request: Logged) -> bytes:
            recorded = _recorded(request)
            missing_app.feed(recorded)
            return _line(recorded)

        if app is None or app.is_inbox:
            missing_app.settle()
        watch, there = recorder.watch(places, note)
        try:
            for request in there:
                yield line(request)
            yield encode(TrafficCaughtUp(dropped=self.log.dropped))
            if timeout_s is None:
                return
            ends_s = began_s + min(timeout_s, _MAX_WAIT_S)
            while (now_s := self._now()) < ends_s:
                while changed:
                    yield line(changed.pop(next(iter(changed))))
                asks_at_s = missing_app.asks_at_s()
                if app is not None and asks_at_s is not None and asks_at_s <= now_s:
                    missing_app.settle()
                    if await _is_missing(app, was_refused=missing_app.was_refused):
                        yield encode(TrafficNoApp(waited_s=now_s - began_s))
                    continue
                wake.clear()
                wakes_at_s = ends_s if asks_at_s is None else min(ends_s, asks_at_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wakes_at_s - now_s):
                        await wake.wait()
            for request in list(changed.values()):
                yield line(request)
            yield encode(TrafficTimeUp())
        finally:
            watch.close()

    async def list_all(self) -> AsyncGenerator[bytes, None]:
        """Tell all that is recorded, oldest first, as lines of the keeper's protocol.

        Raises:
            KeeperRequestError: nothing is recorded.
        """
        _ = self._on
        for request in list(self.log):
            test, worker, is_late = self.log.owner_of(request)
            record = {
                "request": _recorded(request).data(),
                "test": test,
                "worker": worker,
                "is_late": is_late,
            }
            yield msgspec.json.encode({"type": "RunRecord", **record}) + b"\n"
        yield encode(TrafficCaughtUp(dropped=self.log.dropped))

    # --- sending again

    def find(self, sequence: int) -> RecordedRequest:
        """Return a recorded request by its number.

        Raises:
            KeeperRequestError: it is no longer recorded.
        """
        recorded = self.log.find(sequence)
        if not isinstance(recorded, RecordedRequest):
            raise KeeperRequestError("NOT_REPLAYABLE", "this request is no longer recorded")
        return recorded

    async def replay(
        self, recorded: RecordedRequest, lease: HeldLease
    ) -> AsyncGenerator[bytes, None]:
        """Send a recorded request to its app again; yield the record of that as a line.

        Args:
            recorded: the request.
            lease: the lease of its place.

        Raises:
            KeeperRequestError: it cannot be sent again, or there is no answer.
        """
        yield _line(await self.send_again(recorded, lease))

    async def send_again(
        self, recorded: RecordedRequest, lease: HeldLease, parts: ReplayedParts | None = None
    ) -> RecordedRequest:
        """Send a recorded request to its app again, and return the record of that.

        Args:
            recorded: the request.
            lease: the lease of its place.
            parts: what is sent instead of what was recorded, where it is to differ.

        Raises:
            KeeperRequestError: it cannot be sent again, or there is no answer.
        """
        served = lease.targets.agent.leases.get(lease.lease_id)
        leads_to = served.destinations.get(recorded.place.address) if served is not None else None
        if leads_to is None:
            raise KeeperRequestError("NOT_REPLAYABLE", "the address of this request is closed")
        return await replay(self._on, recorded, leads_to.rewriter, parts)

    # --- the end

    def report(self) -> list[str]:
        """Return lines for the run's summary: what came too late, and what was dropped."""
        lines = []
        for test, after_s, request in self.log.late[:_MAX_REPORTED]:
            assert isinstance(request, RecordedRequest)  # noqa: S101 - only those come late
            method, path, _ = request.request_line
            answer = f", answered {request.status}" if request.status else ""
            # One that came in the last tick of its test began before it was told of the end.
            after_s = max(0.0, after_s)
            lines.append(f"{test}: {method} {path} came {after_s:.2f} s after the test{answer}")
        if self.log.late_number > len(lines):
            lines.append(f"and {self.log.late_number - len(lines)} more came after their tests")
        if self.log.dropped:
            lines.append(
                f"{self.log.dropped} requests are no longer recorded: a run keeps the last "
                f"{MAX_REQUESTS}, and {MAX_BYTES >> 20} MiB"
            )
        return lines

    async def aclose(self) -> None:
        """End the inboxes."""
        await self._inboxes.aclose()


def _recorded(request: Logged) -> RecordedRequest:
    assert isinstance(request, RecordedRequest)  # noqa: S101 - the keeper's log has no others
    return request


async def _is_missing(app: Target, *, was_refused: bool) -> bool:
    """Say whether certainly nothing listens where an app is to be.

    Args:
        app: where that is.
        was_refused: whether a connection has been refused there. Only then the app may be
            connected to where the kernel does not tell: a server that handles a single
            connection would be over after it.
    """
    listens = has_loopback_listener(app.port) if app.host == HOST else None
    if listens is None and was_refused:
        listens = await in_thread(lambda: accepts_blocking(app.host, app.port, _PROBE_TIMEOUT_S))
    return listens is False


def _line(request: RecordedRequest) -> bytes:
    data = msgspec.json.encode(request.data())
    return b'{"type":"TrafficRecord","request":%b}\n' % data
