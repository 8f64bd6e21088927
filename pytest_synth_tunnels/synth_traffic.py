"""What a test holds of its traffic: ``synth_traffic`` and ``lease.traffic``.

The keeper records what comes and tells it on a connection that each wait has for itself; what is
waited for is decided here (:mod:`.traffic.waits`), because matchers hold Python objects of the
test. The keeper keeps the time of a wait, so that none depends on a clock that a test has frozen.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ._unpatched import unpatched
from .event_loops import refuse_event_loop
from .keeper.ipc.client import KeeperClient
from .keeper.ipc.connection import SLACK_S, KeeperConnection
from .keeper.ipc.errors import KeeperError
from .keeper.ipc.messages import (
    Accepts,
    Done,
    EndTraffic,
    GetTraffic,
    ListTraffic,
    Message,
    OpenTraffic,
    ReplayRequest,
    RunRecord,
    TargetAccepts,
    TrafficAddress,
    TrafficCaughtUp,
    TrafficNoApp,
    TrafficRecord,
    TrafficTimeUp,
    WatchTraffic,
)
from .public_url import url_of
from .sdk.models import Secret
from .traffic.exchange import InboundRequest
from .traffic.har import HarRecord
from .traffic.masking import Masker
from .traffic.matching import Matcher
from .traffic.text import Came, failure, section
from .traffic.waits import (
    AllMatches,
    Claims,
    Count,
    FirstMatch,
    Until,
    Wait,
    checked_number,
    checked_time,
    checked_until,
)

__all__ = [
    "Expectation",
    "Traffic",
    "open_address",
    "open_traffic",
    "run_traffic",
    "traffic_of_lease",
]

_MAX_LINE_BYTES: Final = 96 << 20
"""Of a request with bodies and messages as long as a run may record them."""

_REPLAY_TIMEOUT_S: Final = 60.0
_ASKED_AT_ONCE_S: Final = 10.0
"""How long the keeper may take to tell what is there already."""

_START_AN_APP: Final = (
    "start the app before the test waits: synth_serve(app), or your own server on exposed_port. "
    "For one that takes some seconds to listen, call synth_lease.wait_ready() first"
)

_T = TypeVar("_T")

Place = tuple[str, str]
"""A lease's id and an address on it."""

_NOWHERE: Final[Place] = ("", "")
"""The place of what the relay could not bring to any lease."""


class Traffic:
    """What came through the tunnel at one address: a test's own, or that of a lease.

    Waiting methods come in two forms: ``wait_for`` blocks its thread, ``wait_for_async`` is for
    asyncio and trio. All of them may be used from any thread. What the tunnel answered itself (a
    missing token, an app that cannot be reached) is in :attr:`refusals`, and no wait takes it for a
    request.
    """

    def __init__(
        self, keeper: KeeperClient, info: TrafficAddress, *, since_s: float, masker: Masker
    ) -> None:
        """Made by the fixtures, and by ``lease.traffic``.

        Args:
            keeper: records what comes.
            info: the address.
            since_s: when the test began, by :func:`time.monotonic`.
            masker: knows which values are keys.
        """
        self._keeper = keeper
        self._info = info
        self._since_s = since_s
        self._masker = masker
        self._claims = Claims()

    def __repr__(self) -> str:
        url = "" if self._info.url_secret else f" {self._info.public_url}"
        return f"<{type(self).__name__}{url}>"

    # --- where requests come

    def url(self, path: str = "/") -> str:
        """Return the public URL of a path at this address, for whoever is to send requests.

        Args:
            path: with or without its leading slash; a query may follow. Spaces and what is not
                ASCII are percent-encoded.

        Raises:
            ValueError: ``path`` has a host or a fragment.
            KeeperError: the keeper is gone; not with ``synthtunnel``.
        """
        __tracebackhide__ = True
        return url_of(self._lasting().public_url, path)

    def loopback_url(self, path: str = "/") -> str:
        """Return the same for callers on this machine, where ``synth_tunnels_public_host`` names a
        host that only others know; elsewhere it is :meth:`url`.

        Args:
            path: as of :meth:`url`.

        Raises:
            ValueError: ``path`` has a host or a fragment.
            KeeperError: the keeper is gone; not with ``synthtunnel``.
        """
        __tracebackhide__ = True
        info = self._lasting()
        return url_of(info.loopback_url or info.public_url, path)

    def _lasting(self) -> TrafficAddress:
        """The address, anew where its URL may have changed: only that of another provider does."""
        __tracebackhide__ = True
        return self._info if self._info.provider == "synthtunnel" else self._current()

    @property
    def headers(self) -> Mapping[str, str]:
        """What a caller sends along, as ``synth_lease.headers``: the worker token, or nothing
        where the URL is enough.

        Raises:
            KeeperError: the keeper is gone.
        """
        __tracebackhide__ = True
        return {name: Secret(value) for name, value in self._current().headers.items()}

    def _current(self) -> TrafficAddress:
        __tracebackhide__ = True
        info = self._info
        found = self._keeper.ask(
            GetTraffic(lease_id=info.lease_id, address=info.address), TrafficAddress
        )
        _note_secrets(self._keeper, found)
        return found

    # --- what came

    @property
    def requests(self) -> list[InboundRequest]:
        """What reached the app here so far, oldest first.

        Raises:
            KeeperError: the keeper is gone.
        """
        __tracebackhide__ = True
        return [request for request in self._fetch([self._place]) if _reached(request)]

    @property
    def refusals(self) -> list[InboundRequest]:
        """What the tunnel answered itself, oldest first: here, and, since the test began, where a
        URL had lost the part that says whose it is. Each has the reason as its ``error``.

        Raises:
            KeeperError: the keeper is gone.
        """
        __tracebackhide__ = True
        found = self._fetch([self._place, _NOWHERE])
        return [request for request in found if request.answered_by == "tunnel"]

    @property
    def requests_of_lease(self) -> list[InboundRequest]:
        """What reached the app by the lease's own URL between the test's start and now, oldest
        first. Other tests' requests may be among it.

        Raises:
            KeeperError: the keeper is gone.
        """
        __tracebackhide__ = True
        return [request for request in self._fetch([self._lease_place]) if _reached(request)]

    @property
    def _place(self) -> Place:
        return self._info.lease_id, self._info.address

    @property
    def _lease_place(self) -> Place:
        return self._info.lease_id, self._info.own_address

    # --- waiting for one

    def wait_for(
        self,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
        until: Until = "answered",
        timeout_s: float = 10.0,
        include_lease: bool = False,
    ) -> InboundRequest:
        """Return the oldest request that matches and that no earlier call has returned, and wait
        for it. What came before the call counts.

        Args:
            method: of the request, ``"POST"``; anything by default, as for all that follows.
            path: ``"/hooks/paid"``; or a glob, where ``*`` stays within a segment and ``**`` does
                not; or a compiled pattern.
            query: parameters that must be there.
            headers: header fields that must be there.
            json: what the body must hold as JSON (see :func:`.traffic.matching.match`).
            body: the whole body, or a compiled pattern to be found in it.
            where: called with each request that matches otherwise; says whether it is meant.
            until: ``"answered"`` waits for the app's answer too, ``"received"`` does not.
            timeout_s: how long to wait, in seconds.
            include_lease: whether what came to the lease's own URL since the test began counts.

        Raises:
            AssertionError: none came in time. The message shows what came instead.
            ValueError: no request could ever match, or the time is below 0.
            TruncatedBodyError: a body that decides was recorded only in part.
            RuntimeError: this is a running event loop, which would stand still.
            KeeperError: the keeper died, or nothing is recorded.
        """
        __tracebackhide__ = True
        matcher = Matcher(
            method, path, query=query, headers=headers, json=json, body=body, where=where
        )
        wait = FirstMatch(matcher, checked_until(until), self._claims)
        self._run(wait, "wait_for_async", timeout_s, include_lease)
        return _found(wait.found)

    async def wait_for_async(
        self,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
        until: Until = "answered",
        timeout_s: float = 10.0,
        include_lease: bool = False,
    ) -> InboundRequest:
        """The same as :meth:`wait_for`, for asyncio and trio."""
        __tracebackhide__ = True
        matcher = Matcher(
            method, path, query=query, headers=headers, json=json, body=body, where=where
        )
        wait = FirstMatch(matcher, checked_until(until), self._claims)
        await self._run_async(wait, timeout_s, include_lease)
        return _found(wait.found)

    # --- waiting for several

    def wait_for_all(
        self,
        matchers: Sequence[Matcher],
        *,
        ordered: bool = True,
        until: Until = "answered",
        timeout_s: float = 10.0,
        include_lease: bool = False,
    ) -> list[InboundRequest]:
        """Wait until each matcher has a request of its own that no earlier call has returned.

        Args:
            matchers: made by :func:`.traffic.matching.match`.
            ordered: whether the requests must have come in the order of the matchers; others may
                come in between.
            until: as in :meth:`wait_for`, like the rest.
            timeout_s: for all of them together, in seconds.
            include_lease: as in :meth:`wait_for`.

        Returns:
            The requests in the order of the matchers.

        Raises:
            AssertionError: some did not come in time; and what :meth:`wait_for` raises.
        """
        __tracebackhide__ = True
        wait = self._all_matches(matchers, ordered=ordered, until=until)
        self._run(wait, "wait_for_all_async", timeout_s, include_lease)
        return _found(wait.found)

    async def wait_for_all_async(
        self,
        matchers: Sequence[Matcher],
        *,
        ordered: bool = True,
        until: Until = "answered",
        timeout_s: float = 10.0,
        include_lease: bool = False,
    ) -> list[InboundRequest]:
        """The same as :meth:`wait_for_all`, for asyncio and trio."""
        __tracebackhide__ = True
        wait = self._all_matches(matchers, ordered=ordered, until=until)
        await self._run_async(wait, timeout_s, include_lease)
        return _found(wait.found)

    def _all_matches(
        self, matchers: Sequence[Matcher], *, ordered: bool, until: Until
    ) -> AllMatches:
        for matcher in matchers:
            if not isinstance(matcher, Matcher):
                raise TypeError(
                    f"wait_for_all takes what match() returns, not {type(matcher).__name__}"
                )
        return AllMatches(
            matchers, ordered=ordered, until=checked_until(until), claims=self._claims
        )

    # --- counting

    def expect(
        self,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
        times: int = 1,
        until: Until = "answered",
        timeout_s: float = 10.0,
        include_lease: bool = False,
    ) -> "Expectation":
        """Return a context manager that counts what comes inside it, for ``with`` and for ``async
        with``. At its end it waits until ``times`` matching requests have come, and fails if more
        did.

        Args:
            method: as in :meth:`wait_for`, like the others.
            path: see there.
            query: see there.
            headers: see there.
            json: see there.
            body: see there.
            where: see there.
            times: how many are right.
            until: see there.
            timeout_s: how long to wait at the end, in seconds.
            include_lease: see there.

        Raises:
            ValueError: no request could ever match, or a number is below 0.
        """
        matcher = Matcher(
            method, path, query=query, headers=headers, json=json, body=body, where=where
        )
        wait = Count(matcher, checked_until(until), checked_number(times), to_the_end=False)
        return Expectation(self, wait, checked_time("timeout_s", timeout_s), include_lease)

    def assert_count(
        self,
        number: int,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
        within_s: float = 0.0,
        include_lease: bool = False,
    ) -> None:
        """Fail unless exactly so many matching requests have reached the app, whether or not it
        has answered them, and whether or not an earlier call has returned them.

        Args:
            number: how many are right.
            method: as in :meth:`wait_for`, like the others.
            path: see there.
            query: see there.
            headers: see there.
            json: see there.
            body: see there.
            where: see there.
            within_s: how long to wait, in seconds, for missing ones and to see that no more come.
            include_lease: see there.

        Raises:
            AssertionError: there are fewer, or more; and what :meth:`wait_for` raises.
        """
        __tracebackhide__ = True
        matcher = Matcher(
            method, path, query=query, headers=headers, json=json, body=body, where=where
        )
        wait = Count(matcher, "received", checked_number(number), to_the_end=True)
        self._run(wait, "assert_count_async", within_s, include_lease, name="within_s")

    async def assert_count_async(
        self,
        number: int,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
        within_s: float = 0.0,
        include_lease: bool = False,
    ) -> None:
        """The same as :meth:`assert_count`, for asyncio and trio."""
        __tracebackhide__ = True
        matcher = Matcher(
            method, path, query=query, headers=headers, json=json, body=body, where=where
        )
        wait = Count(matcher, "received", checked_number(number), to_the_end=True)
        await self._run_async(wait, within_s, include_lease, name="within_s")

    def assert_none(
        self,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
        within_s: float = 0.0,
        include_lease: bool = False,
    ) -> None:
        """Fail if any matching request has reached the app, or does so within some time: the same
        as :meth:`assert_count` with 0."""
        __tracebackhide__ = True
        matcher = Matcher(
            method, path, query=query, headers=headers, json=json, body=body, where=where
        )
        wait = Count(matcher, "received", 0, to_the_end=True)
        self._run(wait, "assert_none_async", within_s, include_lease, name="within_s")

    async def assert_none_async(
        self,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
        within_s: float = 0.0,
        include_lease: bool = False,
    ) -> None:
        """The same as :meth:`assert_none`, for asyncio and trio."""
        __tracebackhide__ = True
        matcher = Matcher(
            method, path, query=query, headers=headers, json=json, body=body, where=where
        )
        wait = Count(matcher, "received", 0, to_the_end=True)
        await self._run_async(wait, within_s, include_lease, name="within_s")

    # --- sending again (a traffic.exchange.Replayer)

    def replay(self, sequence: int) -> InboundRequest:
        """Send a recorded request again; what ``request.replay()`` calls."""
        __tracebackhide__ = True
        refuse_event_loop("replay_async")
        with self._connection() as connection:
            connection.send(ReplayRequest(sequence=sequence))
            record = connection.receive(TrafficRecord, _REPLAY_TIMEOUT_S)
        return self._request(record)

    async def replay_async(self, sequence: int) -> InboundRequest:
        """The same without blocking."""
        __tracebackhide__ = True
        with self._connection() as connection:
            connection.send(ReplayRequest(sequence=sequence))
            record = await _receive_async(connection, _REPLAY_TIMEOUT_S)
        if not isinstance(record, TrafficRecord):
            raise KeeperError(f"expected TrafficRecord, got {type(record).__name__}")
        return self._request(record)

    # --- inside

    def _request(self, record: TrafficRecord) -> InboundRequest:
        return InboundRequest.from_data(record.request, self)

    def _connection(self) -> "_Connection":
        return _Connection(self._keeper)

    def _watch(
        self, places: Sequence[Place], since_s: float | None, timeout_s: float | None
    ) -> WatchTraffic:
        """Return the question for what comes to some places.

        Args:
            places: what came to the test's own address counts from ``since_s`` on, or always; what
                came elsewhere since the test began at most.
            since_s: see there.
            timeout_s: how long to be told; ``None`` for what is there already.
        """
        own_since_s = 0.0 if since_s is None else since_s
        other_since_s = max(self._since_s, own_since_s)
        return WatchTraffic(
            places=[
                [*place, own_since_s if place == self._place else other_since_s]
                for place in dict.fromkeys(places)
            ],
            timeout_s=timeout_s,
        )

    def _fetch(self, places: Sequence[Place], since_s: float | None = None) -> list[InboundRequest]:
        """Return what has come to some places so far, oldest first."""
        return self._fetch_with_count(places, since_s)[0]

    def _fetch_with_count(
        self, places: Sequence[Place], since_s: float | None = None
    ) -> tuple[list[InboundRequest], int]:
        """Return the same, and how many requests of the run are no longer recorded."""
        __tracebackhide__ = True
        found = []
        with self._connection() as connection:
            connection.send(self._watch(places, since_s, None))
            while True:
                message = connection.receive(Message, _ASKED_AT_ONCE_S)
                if isinstance(message, TrafficRecord):
                    found.append(self._request(message))
                elif isinstance(message, TrafficCaughtUp):
                    return found, message.dropped

    def _run(
        self,
        wait: Wait,
        async_name: str,
        timeout_s: float,
        include_lease: bool,
        *,
        since_s: float | None = None,
        name: str = "timeout_s",
    ) -> None:
        """Wait, or fail.

        Args:
            wait: what for.
            async_name: the method for event loops.
            timeout_s: how long, in seconds.
            include_lease: whether what comes to the lease's own URL counts.
            since_s: when what counts has begun to come; what came before counts too by default.
            name: what the caller calls the time.
        """
        __tracebackhide__ = True
        refuse_event_loop(async_name)
        question = self._question(timeout_s, include_lease, since_s, name)
        with self._connection() as connection:
            connection.send(question)
            while not self._step(wait, connection.receive(Message, timeout_s), include_lease):
                pass
        self._fail_if_short(wait, timeout_s, include_lease)

    async def _run_async(
        self,
        wait: Wait,
        timeout_s: float,
        include_lease: bool,
        *,
        since_s: float | None = None,
        name: str = "timeout_s",
    ) -> None:
        """The same for event loops."""
        __tracebackhide__ = True
        question = self._question(timeout_s, include_lease, since_s, name)
        with self._connection() as connection:
            connection.send(question)
            while not self._step(wait, await _receive_async(connection, timeout_s), include_lease):
                pass
        # What is asked now is answered at once.
        self._fail_if_short(wait, timeout_s, include_lease)

    def _question(
        self, timeout_s: float, include_lease: bool, since_s: float | None, name: str
    ) -> WatchTraffic:
        places = [self._place, *([self._lease_place] if include_lease else [])]
        return self._watch(places, since_s, checked_time(name, timeout_s))

    def _step(self, wait: Wait, message: Message, include_lease: bool) -> bool:
        """Take what the keeper tells; return whether there is nothing more to wait for.

        Raises:
            AssertionError: requests are missing, and no app is there to get them.
        """
        __tracebackhide__ = True
        if isinstance(message, TrafficRecord):
            return wait.feed(self._request(message))
        if isinstance(message, TrafficCaughtUp):
            return wait.caught_up()
        if isinstance(message, TrafficNoApp):
            self._fail_if_short(wait, round(message.waited_s, 1), include_lease, no_app=True)
            return False
        if isinstance(message, TrafficTimeUp):
            return True
        raise KeeperError(f"the keeper answered with {type(message).__name__}")

    def _fail_if_short(
        self, wait: Wait, waited_s: float, include_lease: bool, *, no_app: bool = False
    ) -> None:
        """Fail if requests are missing, or too many.

        Args:
            wait: what was waited for.
            waited_s: how long, in seconds.
            include_lease: whether what came to the lease's own URL counts.
            no_app: whether that is known to be the cause.
        """
        __tracebackhide__ = True
        shortfall = wait.shortfall(self._masker)
        if shortfall is not None:
            came = self._came(include_lease, no_app=no_app)
            if no_app:
                shortfall = (
                    f"no app is running: nothing listens at {self._info.local_url}, and {shortfall}"
                )
            raise AssertionError(
                failure(shortfall, wait.matchers, waited_s, came, self._masker)
            ) from None

    def _came(self, include_lease: bool, *, no_app: bool) -> Came:
        """Return all that there is to tell of a failed wait."""
        requests, dropped = self._fetch_with_count([self._place, _NOWHERE])
        of_lease = [] if self._lease_place == self._place else self.requests_of_lease
        if include_lease:
            requests = sorted([*requests, *of_lease], key=lambda request: request.received_at)
            of_lease = []
        url = "this lease" if self._info.url_secret else self.url("/").removesuffix("/")
        return Came(
            url=url,
            requests=requests,
            lease_requests=of_lease,
            returned=self._claims,
            dropped=dropped,
            checks=[_START_AN_APP] if no_app else list(self._checks()),
        )

    def _checks(self) -> Iterator[str]:
        """Say what to look at where nothing came."""
        info = self._info
        if info.local_url:
            question = TargetAccepts(lease_id=info.lease_id, address=info.address)
            if self._keeper.ask(question, Accepts).accepts:
                yield f"the app at {info.local_url} accepts connections"
            else:
                yield (
                    f"no app is running: nothing accepts connections at {info.local_url}. Serve "
                    "one on exposed_port before requests come"
                )
        yield "was the sender given the URL that url() returns, and not another one?"
        if info.headers:
            yield (
                "does the sender send headers along? Without them it is refused; "
                "synth_tunnels_require_token = false lets all callers in"
            )
        yield "does the sender send at all, and before the time is up?"

    def section(self) -> str:
        """Return what came here since the test began, for the report of its failure; empty if
        nothing did."""
        return section(self._fetch([self._place, _NOWHERE], self._since_s), self._masker)

    def masked_requests(self) -> list[InboundRequest]:
        """Return what came here since the test began, and what the tunnel answered itself, oldest
        first, with all values masked that are keys: for files that leave the run."""
        found = self._fetch([self._place, _NOWHERE], self._since_s)
        return [self._masker.request(request) for request in found]

    def end(self) -> None:
        """Note that the test is over: what comes here from now on is late."""
        info = self._info
        self._keeper.ask(EndTraffic(lease_id=info.lease_id, address=info.address), Done)


class Expectation:
    """Counts the requests that come while it is open; made by :meth:`Traffic.expect`."""

    def __init__(
        self, traffic: Traffic, wait: Count, timeout_s: float, include_lease: bool
    ) -> None:
        self._traffic = traffic
        self._wait = wait
        self._timeout_s = timeout_s
        self._include_lease = include_lease
        self._since_s: float | None = None
        """When it was opened."""
        self._is_over = False

    @property
    def requests(self) -> list[InboundRequest]:
        """The matching requests, oldest first.

        Raises:
            RuntimeError: it is still open, so that more may come.
        """
        if not self._is_over:
            raise RuntimeError("what was expected is known at the end of the with block")
        return self._wait.found

    @property
    def request(self) -> InboundRequest:
        """The first of :attr:`requests`.

        Raises:
            RuntimeError: it is still open, or none was expected.
        """
        requests = self.requests
        if not requests:
            raise RuntimeError("no request was expected, and none came")
        return requests[0]

    def __enter__(self) -> Self:
        __tracebackhide__ = True
        refuse_event_loop("async with … expect")
        return self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if error is None:
            self._traffic._run(
                self._wait,
                "async with … expect",
                self._timeout_s,
                self._include_lease,
                since_s=self._since_s,
            )
            self._end()

    async def __aenter__(self) -> Self:
        return self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        if error is None:
            await self._traffic._run_async(
                self._wait, self._timeout_s, self._include_lease, since_s=self._since_s
            )
            self._end()

    def _begin(self) -> Self:
        if self._since_s is not None:
            raise RuntimeError("an expectation can be used once: call expect again")
        self._since_s = unpatched.monotonic()
        return self

    def _end(self) -> None:
        self._is_over = True
        self._traffic._claims.add(self._wait.found)


def open_traffic(
    keeper: KeeperClient, test: str, *, since_s: float, masker: Masker, timeout_s: float
) -> Traffic:
    """Return the traffic of a test at an address of its own.

    Args:
        keeper: of the run.
        test: the test's name.
        since_s: when it began, by :func:`time.monotonic`.
        masker: knows which values are keys.
        timeout_s: how long the keeper may take, in seconds.

    Raises:
        KeeperError: there can be none.
    """
    info = open_address(keeper, test, inbox=False, timeout_s=timeout_s)
    return Traffic(keeper, info, since_s=since_s, masker=masker)


def open_address(
    keeper: KeeperClient, test: str, *, inbox: bool, timeout_s: float
) -> TrafficAddress:
    """Return a new address for a test.

    Args:
        keeper: of the run.
        test: the test's name.
        inbox: whether the keeper answers there itself.
        timeout_s: how long the keeper may take, in seconds.

    Raises:
        KeeperError: there can be none.
    """
    info = keeper.ask(OpenTraffic(test=test, inbox=inbox), TrafficAddress, timeout_s)
    _note_secrets(keeper, info)
    return info


def traffic_of_lease(keeper: KeeperClient, lease_id: str, *, since_s: float = 0.0) -> Traffic:
    """Return the traffic of a lease's own URL.

    Args:
        keeper: of the run.
        lease_id: the lease.
        since_s: from when on, by :func:`time.monotonic`.

    Raises:
        KeeperError: the lease is over, or nothing is recorded.
    """
    info = keeper.ask(GetTraffic(lease_id=lease_id, address=None), TrafficAddress)
    _note_secrets(keeper, info)
    masker = Masker(keeper.run.settings.traffic_masked)
    return Traffic(keeper, info, since_s=since_s, masker=masker)


def run_traffic(keeper: KeeperClient) -> list[HarRecord]:
    """Return all that the run has recorded, oldest first, with all values masked that are keys: for
    a page about the whole run.

    Raises:
        KeeperError: the keeper is gone, or nothing is recorded.
    """
    masker = Masker(keeper.run.settings.traffic_masked)
    found = []
    with _Connection(keeper) as connection:
        connection.send(ListTraffic())
        while True:
            message = connection.receive(Message, _ASKED_AT_ONCE_S)
            if isinstance(message, RunRecord):
                request = masker.request(InboundRequest.from_data(message.request))
                found.append(HarRecord(request, message.test, message.worker, message.is_late))
            elif isinstance(message, TrafficCaughtUp):
                return found


def _note_secrets(keeper: KeeperClient, info: TrafficAddress) -> None:
    keeper.secrets |= {info.url_secret, *info.headers.values()} - {""}


class _Connection:
    """A connection of one's own to the keeper, whose errors say what they mean."""

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper

    def __enter__(self) -> KeeperConnection:
        __tracebackhide__ = True
        self._connection = self._keeper.connect(_MAX_LINE_BYTES)
        return self._connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        self._connection.close()
        if isinstance(error, TimeoutError):
            raise KeeperError("the keeper did not answer in time", code="KEEPER_TIMEOUT") from None
        if isinstance(error, OSError):
            raise self._keeper.explain(error) from None


async def _receive_async(connection: KeeperConnection, timeout_s: float) -> Message:
    """Return the next answer, while the event loop goes on."""
    import anyio

    with anyio.fail_after(timeout_s + SLACK_S):
        while (message := connection.poll(Message)) is None:
            await anyio.wait_readable(connection.fileno())
    return message


def _reached(request: InboundRequest) -> bool:
    """Say whether the app has had a request."""
    return request.answered_by in ("app", "inbox") or (
        request.answered_by is None and request.received
    )


def _found(found: _T | None) -> _T:
    """Return what a wait that did not fail has found."""
    assert found is not None  # noqa: S101 - else the wait had failed
    return found
