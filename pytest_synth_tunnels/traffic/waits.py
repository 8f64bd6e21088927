"""What a test waits for, decided request by request. No I/O, and no clock.

The code that drives a wait feeds it with requests as they come or change, says when all that was
there at the beginning has been fed (``caught_up``), and when the time is up. A request may be fed
again: what counts is its latest state.
"""

from collections.abc import Collection, Sequence
from typing import Final, Literal, Protocol

from .._unpatched import unpatched
from .exchange import InboundRequest
from .masking import Masker
from .matching import Matcher

__all__ = [
    "AllMatches",
    "Claims",
    "Count",
    "FirstMatch",
    "Until",
    "Wait",
    "checked_number",
    "checked_time",
    "checked_until",
]

_MAX_WAIT_S: Final = 86_400.0

Until = Literal["received", "answered"]
"""When a request counts: once the app has it as a whole, or once the app has answered it too."""


class Claims:
    """The requests that a test has been given already. Safe from any thread."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._lock = unpatched.allocate_lock()

    def __contains__(self, request: object) -> bool:
        return isinstance(request, InboundRequest) and request.sequence in self._taken

    def take(self, requests: Collection[InboundRequest]) -> bool:
        """Take requests, all of them or, if one is taken already, none; return whether it did."""
        numbers = {request.sequence for request in requests}
        with self._lock:
            if not self._taken.isdisjoint(numbers):
                return False
            self._taken |= numbers
            return True

    def add(self, requests: Collection[InboundRequest]) -> None:
        """Take requests whether or not they are taken already."""
        with self._lock:
            self._taken.update(request.sequence for request in requests)


class Wait(Protocol):
    """Something that a test waits for.

    Attributes:
        matchers: what is waited for, for the failure.
    """

    matchers: Sequence[Matcher]

    def feed(self, request: InboundRequest) -> bool:
        """Take a request that is new or has changed; return whether all is decided."""

    def caught_up(self) -> bool:
        """Take note that all was fed that was there; return whether all is decided."""

    def shortfall(self, masker: Masker) -> str | None:
        """Say what is wrong as things are, as a line for people, with keys masked; ``None`` if
        nothing is wrong."""


class FirstMatch:
    """Waits for the oldest request that matches and that the test was not given before.

    Args:
        matcher: which requests are meant.
        until: when one counts.
        claims: what the test was given.
    """

    def __init__(self, matcher: Matcher, until: Until, claims: Claims) -> None:
        self.matchers: Sequence[Matcher] = [matcher]
        self.found: InboundRequest | None = None
        self._until = until
        self._claims = claims

    def feed(self, request: InboundRequest) -> bool:
        if (
            self.found is None
            and counts(request, self._until)
            and request not in self._claims
            and self.matchers[0].matches(request)
            and self._claims.take([request])
        ):
            self.found = request
        return self.found is not None

    def caught_up(self) -> bool:
        return False

    def shortfall(self, masker: Masker) -> str | None:
        return None if self.found else f"no request matched {self.matchers[0].describe(masker)}"


class Count:
    """Waits for a number of requests, or until the time is up, to see that there are no more.

    Args:
        matcher: which requests are meant.
        until: when one counts.
        number: how many are right.
        to_the_end: whether all of the time is waited, for more that would be wrong.
    """

    def __init__(self, matcher: Matcher, until: Until, number: int, *, to_the_end: bool) -> None:
        self.matchers: Sequence[Matcher] = [matcher]
        self._until = until
        self._number = number
        self._to_the_end = to_the_end
        self._caught_up = False
        self._found: dict[int, InboundRequest] = {}

    @property
    def found(self) -> list[InboundRequest]:
        """Those that match, oldest first."""
        return [request for _, request in sorted(self._found.items())]

    def feed(self, request: InboundRequest) -> bool:
        if counts(request, self._until) and self.matchers[0].matches(request):
            self._found[request.sequence] = request
        else:
            # It may have matched before, as one that the tunnel has answered itself meanwhile.
            self._found.pop(request.sequence, None)
        return self._is_decided()

    def caught_up(self) -> bool:
        self._caught_up = True
        return self._is_decided()

    def _is_decided(self) -> bool:
        if not self._caught_up:
            return False
        number = len(self._found)
        return number > self._number or (number == self._number and not self._to_the_end)

    def shortfall(self, masker: Masker) -> str | None:
        number = len(self._found)
        if number == self._number:
            return None
        came = "none" if number == 0 else str(number)
        meant = self.matchers[0].describe(masker)
        return f"expected {_requests(self._number)}, and {came} matched {meant}"


class AllMatches:
    """Waits until each of some matchers has a request of its own.

    Args:
        matchers: which requests are meant.
        ordered: whether they must come in the order of the matchers; others may come in between.
        until: when one counts.
        claims: what the test was given.
    """

    def __init__(
        self, matchers: Sequence[Matcher], *, ordered: bool, until: Until, claims: Claims
    ) -> None:
        self.matchers: Sequence[Matcher] = list(matchers)
        self.found: list[InboundRequest] | None = None
        """One for each matcher, in their order."""
        self._ordered = ordered
        self._until = until
        self._claims = claims
        self._candidates: dict[int, tuple[InboundRequest, list[int]]] = {}
        """By number: each request that some matchers match, with their places."""

    def feed(self, request: InboundRequest) -> bool:
        if self.found is None:
            # It may have been a candidate before, as one that the tunnel answered meanwhile.
            self._candidates.pop(request.sequence, None)
            matching = []
            if counts(request, self._until) and request not in self._claims:
                matching = [i for i, one in enumerate(self.matchers) if one.matches(request)]
            if matching:
                self._candidates[request.sequence] = request, matching
                self._assign()
        return self.found is not None

    def caught_up(self) -> bool:
        self._assign()
        return self.found is not None

    def _assign(self) -> None:
        """Give the matchers their requests, if there is one for each."""
        assigned = self._assignment()
        while self.found is None and len(assigned) == len(self.matchers):
            chosen = [assigned[place] for place in range(len(self.matchers))]
            if self._claims.take(chosen):
                self.found = chosen
                return
            # Another thread has been given one of them meanwhile.
            for number, (request, _) in list(self._candidates.items()):
                if request in self._claims:
                    del self._candidates[number]
            assigned = self._assignment()

    def _assignment(self) -> dict[int, InboundRequest]:
        """Return a request for as many matchers as possible, by their places."""
        candidates = [self._candidates[number] for number in sorted(self._candidates)]
        assigned: dict[int, InboundRequest] = {}
        if self._ordered:
            for request, matching in candidates:
                if len(assigned) in matching:
                    assigned[len(assigned)] = request
            return assigned
        by_matcher: dict[int, int] = {}
        """The candidate of each matcher (augmenting paths find one wherever there is one)."""

        def place(candidate: int, tried: set[int]) -> bool:
            for matcher in candidates[candidate][1]:
                if matcher not in tried:
                    tried.add(matcher)
                    if matcher not in by_matcher or place(by_matcher[matcher], tried):
                        by_matcher[matcher] = candidate
                        return True
            return False

        for candidate in range(len(candidates)):
            place(candidate, set())
        return {matcher: candidates[candidate][0] for matcher, candidate in by_matcher.items()}

    def shortfall(self, masker: Masker) -> str | None:
        if self.found is not None:
            return None
        assigned = self._assignment()
        missing = [
            matcher.describe(masker) for i, matcher in enumerate(self.matchers) if i not in assigned
        ]
        order = " in this order" if self._ordered and len(self.matchers) > 1 else ""
        return (
            f"of {_requests(len(self.matchers))}{order} {len(assigned)} came; missing: "
            f"{', '.join(missing)}"
        )


def counts(request: InboundRequest, until: Until) -> bool:
    """Say whether a request is as far as a test waits for. What the tunnel answered itself never
    is."""
    if request.answered_by == "tunnel":
        return False
    return request.received if until == "received" else request.app_has_answered


def checked_until(until: str) -> Until:
    """Return what a test gave for ``until``.

    Raises:
        ValueError: it is neither of the two.
    """
    if until == "received":
        return "received"
    if until == "answered":
        return "answered"
    raise ValueError(f'until must be "received" or "answered", not {until!r}')


def checked_time(name: str, time_s: float) -> float:
    """Return what a test gave for a time.

    Args:
        name: the argument's.
        time_s: the time, in seconds.

    Raises:
        TypeError: it is no number.
        ValueError: it is below 0, or too long.
    """
    if isinstance(time_s, bool) or not isinstance(time_s, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(time_s).__name__}")
    if not 0 <= time_s <= _MAX_WAIT_S:
        raise ValueError(f"{name} must be 0 to {_MAX_WAIT_S:g} seconds, not {time_s!r}")
    return float(time_s)


def checked_number(number: int) -> int:
    """Return what a test gave for a number of requests.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 0.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"a number of requests must be an int, not {type(number).__name__}")
    if number < 0:
        raise ValueError(f"a number of requests must be 0 or more, not {number}")
    return number


def _requests(number: int) -> str:
    return f"{number} request" if number == 1 else f"{number} requests"
