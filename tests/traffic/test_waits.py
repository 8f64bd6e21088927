"""What is waited for, decided request by request."""

from threading import Thread
from typing import Any

import pytest

from pytest_synth_tunnels.traffic.exchange import InboundRequest
from pytest_synth_tunnels.traffic.masking import Masker
from pytest_synth_tunnels.traffic.matching import match
from pytest_synth_tunnels.traffic.waits import (
    AllMatches,
    Claims,
    Count,
    FirstMatch,
    checked_until,
    counts,
)

from ..support.recorded import recorded, response


def numbered(*paths: str) -> list[InboundRequest]:
    return [recorded("POST", path, sequence=i) for i, path in enumerate(paths, 1)]


def pending(path: str = "/", sequence: int = 1, *, received: bool = True) -> InboundRequest:
    return recorded(
        "POST", path, sequence=sequence, answered_by=None, received=received, over=False
    )


class TestCounts:
    @pytest.mark.parametrize(
        ("request_", "received", "answered"),
        [
            (recorded(), True, True),
            (recorded(answered_by="inbox"), True, True),
            (recorded(answered_by="tunnel"), False, False),
            (pending(), True, False),
            (pending(received=False), False, False),
            (recorded(answered_by=None), True, False),
            (recorded(over=False, answer=response(complete=False)), True, False),
            (recorded(over=False, websocket=True, answer=response(101)), True, True),
        ],
    )
    def test_how_far_it_is(self, request_: InboundRequest, received: bool, answered: bool) -> None:
        assert counts(request_, "received") is received
        assert counts(request_, "answered") is answered

    def test_until(self) -> None:
        assert checked_until("received") == "received"
        assert checked_until("answered") == "answered"
        with pytest.raises(ValueError, match="until must be"):
            checked_until("sent")


class TestFirstMatch:
    def test_the_oldest_that_was_not_given_before(self) -> None:
        claims = Claims()
        requests = numbered("/a", "/b", "/a")
        found = []
        for _ in range(2):
            wait = FirstMatch(match(path="/a"), "answered", claims)
            assert any(map(wait.feed, requests))
            assert wait.shortfall(Masker()) is None
            found.append(wait.found)
        assert found == [requests[0], requests[2]]
        wait = FirstMatch(match(path="/a"), "answered", claims)
        assert not any(map(wait.feed, requests))
        assert not wait.caught_up()
        assert wait.shortfall(Masker()) == "no request matched match(path='/a')"

    def test_it_waits_for_the_answer_or_does_not(self) -> None:
        wait = FirstMatch(match(), "answered", Claims())
        assert not wait.feed(pending())
        assert wait.feed(recorded(sequence=1))
        assert FirstMatch(match(), "received", Claims()).feed(pending())
        assert not FirstMatch(match(), "received", Claims()).feed(pending(received=False))

    def test_what_the_tunnel_answered_does_not_count(self) -> None:
        assert not FirstMatch(match(), "received", Claims()).feed(recorded(answered_by="tunnel"))

    def test_no_two_threads_get_the_same(self) -> None:
        claims = Claims()
        requests = numbered(*["/a"] * 200)
        got: list[int] = []

        def take() -> None:
            for _ in range(50):
                wait = FirstMatch(match(), "answered", claims)
                any(map(wait.feed, requests))
                assert wait.found is not None
                got.append(wait.found.sequence)

        threads = [Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(1, 201))


class TestCount:
    def count(self, number: int, *, to_the_end: bool = False) -> Count:
        return Count(match(path="/a"), "answered", number, to_the_end=to_the_end)

    def test_as_many_as_expected(self) -> None:
        wait = self.count(2)
        requests = numbered("/a", "/b", "/a")
        assert not any(map(wait.feed, requests))
        assert wait.caught_up()
        assert wait.shortfall(Masker()) is None
        assert wait.found == [requests[0], requests[2]]

    def test_one_that_changes_is_counted_once(self) -> None:
        wait = self.count(1)
        for request in (pending("/a"), *numbered("/a"), *numbered("/a")):
            wait.feed(request)
        assert len(wait.found) == 1

    def test_one_that_the_tunnel_answers_after_all(self) -> None:
        wait = Count(match(), "received", 1, to_the_end=False)
        wait.feed(pending())
        wait.feed(recorded(answered_by="tunnel", sequence=1))
        assert wait.found == []

    def test_too_few(self) -> None:
        wait = self.count(2)
        assert not wait.caught_up()
        assert wait.shortfall(Masker()) == "expected 2 requests, and none matched match(path='/a')"

    def test_too_many_are_decided_at_once(self) -> None:
        wait = self.count(1, to_the_end=True)
        wait.caught_up()
        assert [wait.feed(request) for request in numbered("/a", "/a")] == [False, True]
        assert wait.shortfall(Masker()) == "expected 1 request, and 2 matched match(path='/a')"

    def test_more_that_were_there_already_are_seen(self) -> None:
        wait = self.count(1)
        assert not any(map(wait.feed, numbered("/a", "/a")))
        assert wait.caught_up()
        assert wait.shortfall(Masker()) is not None

    def test_none_to_the_end(self) -> None:
        wait = self.count(0, to_the_end=True)
        assert not wait.caught_up()
        assert wait.shortfall(Masker()) is None


class TestAllMatches:
    def wait(self, *paths: str, ordered: bool = True, claims: Claims | None = None) -> AllMatches:
        matchers = [match(path=path) for path in paths]
        return AllMatches(matchers, ordered=ordered, until="answered", claims=claims or Claims())

    def found(self, wait: AllMatches, requests: list[InboundRequest]) -> list[int] | None:
        any(map(wait.feed, requests))
        wait.caught_up()
        return None if wait.found is None else [request.sequence for request in wait.found]

    def test_in_order_with_others_in_between(self) -> None:
        requests = numbered("/c", "/a", "/x", "/b")
        assert self.found(self.wait("/a", "/b"), requests) == [2, 4]

    def test_not_in_order(self) -> None:
        wait = self.wait("/a", "/b")
        assert self.found(wait, numbered("/b", "/a")) is None
        said = wait.shortfall(Masker())
        assert said is not None
        assert "of 2 requests in this order 1 came" in said
        assert "missing: match(path='/b')" in said
        assert self.found(self.wait("/a", "/b", ordered=False), numbered("/b", "/a")) == [2, 1]

    def test_the_order_is_that_of_arrival_not_of_the_answers(self) -> None:
        first, second = numbered("/a", "/b")
        assert self.found(self.wait("/a", "/b"), [second, first]) == [1, 2]

    def test_each_has_one_of_its_own(self) -> None:
        assert self.found(self.wait("/a", "/a"), numbered("/a")) is None
        assert self.found(self.wait("/a", "/a"), numbered("/a", "/a")) == [1, 2]

    def test_a_broad_matcher_leaves_the_narrow_one_its_request(self) -> None:
        wait = self.wait("/*", "/a", ordered=False)
        assert self.found(wait, numbered("/a", "/b")) == [2, 1]

    def test_none_that_was_given_before(self) -> None:
        claims = Claims()
        requests = numbered("/a", "/a")
        assert claims.take(requests[:1])
        assert self.found(self.wait("/a", claims=claims), requests) == [2]
        assert not claims.take(requests)
        assert self.found(self.wait("/a", claims=claims), requests) is None

    def test_one_that_another_thread_is_given_meanwhile(self) -> None:
        claims = Claims()
        requests: list[Any] = numbered("/a", "/a", "/b")
        wait = self.wait("/a", "/b", claims=claims)
        wait.feed(requests[0])
        wait.feed(requests[1])
        claims.add(requests[:1])
        assert wait.feed(requests[2])
        assert wait.found == requests[1:]

    def test_one_that_the_tunnel_answers_after_all(self) -> None:
        wait = AllMatches([match(), match()], ordered=True, until="received", claims=Claims())
        wait.feed(pending())
        wait.feed(recorded(answered_by="tunnel", sequence=1))
        assert not wait.feed(pending(sequence=2))

    def test_nothing_to_wait_for(self) -> None:
        wait = self.wait()
        assert wait.caught_up()
        assert wait.found == []
