"""What a test does with its traffic, against a keeper in a thread."""

import asyncio
import os
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels import match
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.messages import EndTraffic
from pytest_synth_tunnels.synth_traffic import Traffic
from pytest_synth_tunnels.traffic.exchange import TruncatedBodyError
from pytest_synth_tunnels.traffic.place import NOWHERE

from .support.traffic_world import LEASE, TOKEN, TrafficWorld, address, traffic_world

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")

Loop = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[TrafficWorld]:
    with traffic_world(tmp_path / "u" / "r") as world:
        yield world


@pytest.fixture
def traffic(world: TrafficWorld) -> Traffic:
    return world.traffic()


class TestAddress:
    def test_url_and_headers(self, world: TrafficWorld, traffic: Traffic) -> None:
        assert traffic.url("/a?b=1") == traffic.url("a?b=1") == "http://127.0.0.1:9/a?b=1"
        assert traffic.url() == "http://127.0.0.1:9/"
        assert world.asked == []
        assert traffic.headers == {"X-SynthTunnel-Worker-Token": TOKEN}
        assert TOKEN not in repr(traffic.headers)
        assert TOKEN in world.client.secrets

    def test_the_url_of_another_provider_may_change(self, world: TrafficWorld) -> None:
        traffic = world.traffic(provider="ngrok")
        world.info = address(public_url="https://new.example")
        assert traffic.url("/") == "https://new.example/"

    def test_a_secret_url_is_in_no_repr(self, world: TrafficWorld) -> None:
        assert "127" not in repr(world.traffic(url_secret="/s/rt_1"))
        assert "127.0.0.1:9" in repr(world.traffic())


class TestRequests:
    def test_what_reached_the_app_oldest_first(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a")
        world.begin("POST", "/b")
        world.refuse("/c")
        world.come("POST", "/d", place=LEASE)
        assert [request.path for request in traffic.requests] == ["/a", "/b"]
        assert [request.path for request in traffic.refusals] == ["/c"]
        assert [request.path for request in traffic.requests_of_lease] == ["/d"]

    def test_a_lost_part_of_the_url_is_a_refusal(self, world: TrafficWorld) -> None:
        world.refuse("/before", place=NOWHERE)
        traffic = world.traffic(since_s=world.now_s)
        world.refuse("/after", place=NOWHERE)
        assert [request.path for request in traffic.refusals] == ["/after"]

    def test_the_lease_counts_from_the_tests_begin(self, world: TrafficWorld) -> None:
        world.come("POST", "/before", place=LEASE)
        traffic = world.traffic(since_s=world.now_s)
        world.come("POST", "/after", place=LEASE)
        assert [request.path for request in traffic.requests_of_lease] == ["/after"]


class TestWaitFor:
    def test_what_came_before_counts_once(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a", b'{"n": 1}')
        world.come("POST", "/a", b'{"n": 2}')
        assert traffic.wait_for("POST", "/a").json() == {"n": 1}
        assert traffic.wait_for("POST", "/a").json() == {"n": 2}
        with pytest.raises(AssertionError, match="was returned by an earlier call"):
            traffic.wait_for("POST", "/a", timeout_s=0)

    def test_it_waits(self, world: TrafficWorld, traffic: Traffic) -> None:
        with world.later(("GET", "/x"), ("POST", "/a")):
            assert traffic.wait_for("POST", timeout_s=20).path == "/a"

    def test_it_waits_for_the_answer_or_does_not(
        self, world: TrafficWorld, traffic: Traffic
    ) -> None:
        request = world.begin("POST", "/slow")
        with pytest.raises(AssertionError, match='until="received" does not wait'):
            traffic.wait_for("POST", "/slow", timeout_s=0)
        waiting = traffic.wait_for("POST", "/slow", until="received", timeout_s=0)
        assert not waiting.answered
        world.finish(request, 201)
        assert traffic.requests[0].response.status == 201

    def test_what_the_tunnel_answered_never_counts(
        self, world: TrafficWorld, traffic: Traffic
    ) -> None:
        world.refuse("/a")
        with pytest.raises(AssertionError) as caught:
            traffic.wait_for("POST", "/a", until="received", timeout_s=0)
        assert "TUNNEL_AUTH_REQUIRED: this tunnel wants the worker token" in str(caught.value)

    def test_the_leases_own_url(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a", place=LEASE)
        with pytest.raises(AssertionError, match="include_lease=True"):
            traffic.wait_for("POST", "/a", timeout_s=0)
        assert traffic.wait_for("POST", "/a", timeout_s=0, include_lease=True).path == "/a"

    def test_nothing_came(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.accepts = False
        with pytest.raises(AssertionError) as caught:
            traffic.wait_for("POST", "/a", timeout_s=0.01)
        said = str(caught.value)
        assert "no request matched match('POST', '/a') (waited 0.01 s)" in said
        assert "No request reached the app at http://127.0.0.1:9." in said
        assert "no app is running: nothing accepts connections at http://127.0.0.1:8000" in said
        assert "was the sender given the URL that url() returns" in said
        assert "does the sender send headers along?" in said
        world.accepts = True
        with pytest.raises(AssertionError, match="8000 accepts connections"):
            traffic.wait_for("POST", "/a", timeout_s=0)

    def test_no_app_is_running(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.app = Target("127.0.0.1", 1)
        world.find_no_app(ago_s=6.0)
        with pytest.raises(AssertionError) as caught:
            traffic.wait_for("POST", "/a", timeout_s=60)
        said = str(caught.value)
        assert "no app is running: nothing listens at http://127.0.0.1:8000, and no " in said
        assert "(without waiting)" in said
        assert "start the app before the test waits: synth_serve(app)" in said
        assert said.count("no app is running") == 1
        with pytest.raises(AssertionError, match="no app is running"):
            asyncio.run(traffic.wait_for_async("POST", "/a", timeout_s=60))
        with pytest.raises(AssertionError, match="no app is running"):
            traffic.wait_for_all([match("POST", "/a")], timeout_s=60)
        traffic.assert_none("POST", within_s=0.01)

    def test_an_app_is_running_by_now(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.find_no_app(ago_s=6.0)
        with socket.create_server(("127.0.0.1", 0)) as app:
            world.app = Target("127.0.0.1", app.getsockname()[1])
            with world.later(("POST", "/a")):
                assert traffic.wait_for("POST", "/a", timeout_s=20).path == "/a"

    def test_a_predicate_of_the_test(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a", headers="X-N: 1\r\n")
        world.come("POST", "/a", headers="X-N: 2\r\n")
        found = traffic.wait_for(where=lambda request: request.headers["x-n"] == "2", timeout_s=0)
        assert found.headers["X-N"] == "2"

    def test_a_body_that_was_cut(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a", b"x" * 2_000)
        with pytest.raises(TruncatedBodyError, match="synth_tunnels_traffic_body_bytes"):
            traffic.wait_for("POST", json={"a": 1}, timeout_s=0)
        assert traffic.wait_for("POST", timeout_s=0).size_bytes == 2_000

    @pytest.mark.parametrize(
        ("arguments", "error", "said"),
        [
            ({"method": "PSOT"}, ValueError, "no HTTP method"),
            ({"path": "http://x/a"}, ValueError, "has a host"),
            ({"timeout_s": -1}, ValueError, "timeout_s must be 0 to"),
            ({"timeout_s": float("nan")}, ValueError, "timeout_s must be 0 to"),
            ({"timeout_s": "1"}, TypeError, "timeout_s must be a number"),
            ({"until": "sent"}, ValueError, "until must be"),
        ],
    )
    def test_what_cannot_be(
        self, traffic: Traffic, arguments: Any, error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=re.escape(said)):
            traffic.wait_for(**arguments)

    def test_many_threads(self, world: TrafficWorld, traffic: Traffic) -> None:
        got: list[str] = []

        def wait() -> None:
            got.append(traffic.wait_for("POST", timeout_s=20).path)

        threads = [threading.Thread(target=wait) for _ in range(8)]
        for thread in threads:
            thread.start()
        for number in range(8):
            world.come("POST", f"/{number}")
        for thread in threads:
            thread.join(20)
        assert sorted(got) == [f"/{number}" for number in range(8)]

    def test_a_keeper_that_dies_meanwhile(self, world: TrafficWorld, traffic: Traffic) -> None:
        def die() -> None:
            while not world.run_traffic.log.watched:
                threading.Event().wait(0.005)
            world.keeper.stop()

        thread = threading.Thread(target=die)
        thread.start()
        with pytest.raises(KeeperError) as caught:
            traffic.wait_for("POST", timeout_s=30)
        thread.join(20)
        assert caught.value.code == "KEEPER_DIED"

    def test_nothing_is_left_behind(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a")
        traffic.wait_for("POST")
        with pytest.raises(AssertionError):
            traffic.wait_for("POST", timeout_s=0)
        deadline = time.monotonic() + 20
        while world.run_traffic.log.watched and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not world.run_traffic.log.watched


class TestWaitForAll:
    def test_in_order(self, world: TrafficWorld, traffic: Traffic) -> None:
        with world.later(("POST", "/a"), ("GET", "/x"), ("POST", "/b")):
            found = traffic.wait_for_all([match("POST", "/a"), match(path="/b")], timeout_s=20)
        assert [request.path for request in found] == ["/a", "/b"]

    def test_what_is_missing(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/b")
        world.come("POST", "/a")
        matchers = [match(path="/a"), match(path="/b")]
        with pytest.raises(AssertionError, match=r"missing: match\(path='/b'\)"):
            traffic.wait_for_all(matchers, timeout_s=0)
        found = traffic.wait_for_all(matchers, ordered=False, timeout_s=0)
        assert [request.path for request in found] == ["/a", "/b"]

    def test_no_matchers(self, traffic: Traffic) -> None:
        with pytest.raises(TypeError, match="takes what match"):
            traffic.wait_for_all(["/a"])  # type: ignore[list-item]


class TestExpect:
    def test_only_what_comes_inside(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a")
        with traffic.expect("POST", "/a", times=2, timeout_s=20) as expected:
            world.come("POST", "/a", b"1")
            world.come("POST", "/x")
            world.come("POST", "/a", b"2")
        assert [request.body for request in expected.requests] == [b"1", b"2"]
        assert expected.request.body == b"1"

    def test_what_it_returned_is_returned(self, world: TrafficWorld, traffic: Traffic) -> None:
        with traffic.expect("POST") as expected:
            world.come("POST", "/a")
        assert expected.request.path == "/a"
        with pytest.raises(AssertionError):
            traffic.wait_for("POST", timeout_s=0)

    def test_too_many_and_too_few(self, world: TrafficWorld, traffic: Traffic) -> None:
        def expect_one(*paths: str) -> None:
            with traffic.expect("POST", timeout_s=0):
                for path in paths:
                    world.come("POST", path)

        with pytest.raises(AssertionError, match="expected 1 request, and 2 matched"):
            expect_one("/a", "/a")
        with pytest.raises(AssertionError, match="expected 1 request, and none matched"):
            expect_one()

    def test_an_error_inside_goes_on_at_once(self, traffic: Traffic) -> None:
        with pytest.raises(ZeroDivisionError), traffic.expect("POST", timeout_s=30):
            _ = 1 / 0

    def test_none(self, traffic: Traffic) -> None:
        with traffic.expect("POST", times=0) as expected:
            pass
        assert expected.requests == []
        with pytest.raises(RuntimeError, match="no request was expected"):
            _ = expected.request

    def test_it_is_known_at_the_end_and_used_once(
        self, world: TrafficWorld, traffic: Traffic
    ) -> None:
        expected = traffic.expect("POST", times=0)
        with expected, pytest.raises(RuntimeError, match="at the end of the with block"):
            _ = expected.requests
        with pytest.raises(RuntimeError, match="used once"), expected:
            pass

    @pytest.mark.parametrize("times", [-1, 1.5, True])
    def test_a_number_that_cannot_be(self, traffic: Traffic, times: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="number of requests"):
            traffic.expect(times=times)


class TestCount:
    def test_exactly(self, world: TrafficWorld, traffic: Traffic) -> None:
        traffic.assert_none()
        world.come("POST", "/a")
        world.begin("POST", "/a")
        traffic.wait_for("POST")
        traffic.assert_count(2, "POST", "/a")
        traffic.assert_count(0, "GET")
        traffic.assert_none(path="/b")
        with pytest.raises(AssertionError, match="expected 3 requests, and 2 matched"):
            traffic.assert_count(3, "POST")
        with pytest.raises(AssertionError, match="expected 0 requests, and 2 matched"):
            traffic.assert_none("POST")

    def test_it_waits_for_missing_ones_and_for_more(
        self, world: TrafficWorld, traffic: Traffic
    ) -> None:
        with world.later(("POST", "/a")):
            traffic.assert_count(1, within_s=0.5)
        with world.later(("POST", "/a")), pytest.raises(AssertionError, match="and 2 matched"):
            traffic.assert_count(1, within_s=20)

    def test_a_time_that_cannot_be(self, traffic: Traffic) -> None:
        with pytest.raises(ValueError, match="within_s must be"):
            traffic.assert_none(within_s=-1)


def run_trio(test: Callable[[], Awaitable[None]]) -> None:
    trio = pytest.importorskip("trio")
    trio.run(test)


def run_asyncio(test: Callable[[], Any]) -> None:
    asyncio.run(test())


@pytest.mark.parametrize("run", [run_asyncio, run_trio])
class TestEventLoops:
    def test_all_waits(self, world: TrafficWorld, traffic: Traffic, run: Loop) -> None:
        async def test() -> None:
            with world.later(("POST", "/a")):
                assert (await traffic.wait_for_async("POST", timeout_s=20)).path == "/a"
            with world.later(("POST", "/b")):
                found = await traffic.wait_for_all_async([match(path="/b")], timeout_s=20)
            assert found[0].path == "/b"
            await traffic.assert_count_async(2, "POST")
            await traffic.assert_none_async("GET")
            async with traffic.expect("POST", timeout_s=20) as expected:
                world.come("POST", "/c")
            assert expected.request.path == "/c"

        run(test)

    def test_failures(self, world: TrafficWorld, traffic: Traffic, run: Loop) -> None:
        async def test() -> None:
            with pytest.raises(AssertionError, match="no request matched"):
                await traffic.wait_for_async("POST", timeout_s=0.01)
            with pytest.raises(ValueError, match="timeout_s"):
                await traffic.wait_for_async("POST", timeout_s=-1)
            world.come("POST", "/a")
            with pytest.raises(AssertionError, match="expected 0"):
                await traffic.assert_none_async()
            with pytest.raises(AssertionError, match="and none matched"):
                async with traffic.expect("POST", timeout_s=0):
                    pass

        run(test)

    def test_the_others_refuse_at_once(
        self, world: TrafficWorld, traffic: Traffic, run: Loop
    ) -> None:
        async def test() -> None:
            calls: list[tuple[Callable[[], object], str]] = [
                (lambda: traffic.wait_for("POST"), "wait_for_async"),
                (lambda: traffic.wait_for_all([match()]), "wait_for_all_async"),
                (lambda: traffic.assert_count(0), "assert_count_async"),
                (lambda: traffic.assert_none(), "assert_none_async"),
                (lambda: traffic.expect("POST").__enter__(), "async with"),
                (lambda: traffic.replay(1), "replay_async"),
            ]
            for call, name in calls:
                with pytest.raises(RuntimeError, match=name):
                    call()
            assert traffic.requests == []

        run(test)


class TestReplay:
    def test_what_cannot_be_sent_again(self, world: TrafficWorld, traffic: Traffic) -> None:
        world.come("POST", "/a")
        request = traffic.wait_for("POST")
        with pytest.raises(KeeperError, match="does not know that"):
            request.replay()
        with pytest.raises(KeeperError, match="does not know that"):
            asyncio.run(request.replay_async())


class TestEnd:
    def test_the_test_is_over(self, world: TrafficWorld, traffic: Traffic) -> None:
        traffic.end()
        assert world.asked == [EndTraffic(lease_id="lease-1", address="t1")]

    def test_the_section_of_a_report(self, world: TrafficWorld) -> None:
        world.come("POST", "/before", place=LEASE)
        traffic = world.traffic(since_s=world.now_s)
        assert traffic.section() == ""
        world.finish(world.begin("POST", "/a", b'{"token": "hidden"}'), 500)
        world.refuse("/b")
        said = traffic.section()
        assert "POST /a  500" in said
        assert "by the tunnel: TUNNEL_AUTH_REQUIRED" in said
        assert "hidden" not in said
