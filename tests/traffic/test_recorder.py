"""What is recorded of requests, answers and messages, and what it takes."""

import tracemalloc
from random import Random
from typing import Any

import msgspec
import pytest

from pytest_synth_tunnels.traffic.exchange import InboundRequest
from pytest_synth_tunnels.traffic.finished import BATCH
from pytest_synth_tunnels.traffic.log import TrafficLog
from pytest_synth_tunnels.traffic.place import EVERYWHERE, NOWHERE, Place, RecordedApp
from pytest_synth_tunnels.traffic.recorder import RecordedRequest, Recorder

PLACE = Place("lease", "t1")
APP = RecordedApp(PLACE, "http://127.0.0.1:8000")
HEAD = (
    "POST /a?b=1 HTTP/1.1\r\nHost: x\r\nX-A: 1: 2\r\nX-A: 3\r\n"
    "X-SynthTunnel-Worker-Token: hidden\r\nx-forwarded-for: 10.0.0.1, 10.0.0.2\r\n"
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """A recorder by hand."""

    def __init__(self, *, body_bytes: int = 100, **bounds: int) -> None:
        self.clock = Clock()
        self.log = TrafficLog(**bounds)
        self.recorder = Recorder(
            self.log, body_bytes=body_bytes, now=self.clock, wall=lambda: self.clock.now + 1e9
        )

    def begin(self, head: str = HEAD) -> RecordedRequest:
        return self.recorder.begin(APP, head, self.clock.now)

    def read(self, recorded: Any = None) -> InboundRequest:
        """Return a record as a test gets it; the latest by default."""
        if recorded is None:
            recorded = list(self.log)[-1]
        data = msgspec.json.decode(msgspec.json.encode(recorded.data()))
        return InboundRequest.from_data(data)


class TestRequest:
    def test_its_head(self) -> None:
        world = World()
        request = world.read(world.begin())
        assert (request.method, request.path, request.query_string) == ("POST", "/a", "b=1")
        assert request.headers.pairs == [
            ("Host", "x"),
            ("X-A", "1: 2"),
            ("X-A", "3"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
        ]
        assert request.client == "10.0.0.2"
        assert request.local_url == "http://127.0.0.1:8000"
        assert request.received_at.timestamp() == 1e9 + 100
        assert (request.lease_id, request.address, request.sequence) == ("lease", "t1", 1)

    def test_it_is_received_once_the_app_has_all_of_it(self) -> None:
        world = World()
        recorded = world.begin()
        recorded.reach()
        assert not world.read(recorded).received
        recorded.end()
        assert world.read(recorded).received

    def test_a_body_in_pieces(self) -> None:
        world = World()
        recorded = world.begin()
        for piece in (b"ab", b"cd"):
            recorded.take_body(piece)
        assert world.read(recorded).body == b"abcd"
        assert not world.read(recorded).truncated

    @pytest.mark.parametrize("pieces", [[b"x" * 250], [b"x" * 60] * 4 + [b"x" * 10]])
    def test_a_long_body_is_cut(self, pieces: list[bytes]) -> None:
        world = World()
        recorded = world.begin()
        for piece in pieces:
            recorded.take_body(piece)
        request = world.read(recorded)
        assert (len(request.body), request.size_bytes, request.truncated) == (100, 250, True)

    def test_no_bodies_at_all(self) -> None:
        world = World(body_bytes=0)
        recorded = world.begin()
        recorded.take_body(b"x")
        request = world.read(recorded)
        assert (request.body, request.size_bytes, request.truncated) == (b"", 1, True)


class TestAnswer:
    def test_as_it_comes(self) -> None:
        world = World()
        recorded = world.begin()
        recorded.response_started(201, [("A", "1"), ("A", "2")], "Made")
        world.clock.now += 2
        recorded.response_body(b"x")
        request = world.read(recorded)
        assert (request.answered_by, request.over) == ("app", False)
        assert not request.response.complete
        assert request.response.duration_s == 2
        recorded.response_ended()
        world.clock.now += 2
        response = world.read(recorded).response
        assert (response.status, response.reason, response.body) == (201, "Made", b"x")
        assert response.headers.get_all("a") == ["1", "2"]
        assert response.complete
        assert response.duration_s == 2

    def test_a_standard_reason(self) -> None:
        world = World()
        recorded = world.begin()
        recorded.response_started(404, [])
        assert world.read(recorded).response.reason == "Not Found"
        recorded.status = 299
        assert world.read(recorded).response.reason == ""

    def test_of_the_tunnel(self) -> None:
        world = World()
        recorded = world.begin()
        recorded.refused(502, "CODE", "why")
        request = world.read(recorded)
        assert (request.answered_by, request.error, request.over) == ("tunnel", "CODE: why", True)
        assert request.response.status == 502

    def test_broken_off(self) -> None:
        world = World()
        recorded = world.begin()
        recorded.response_started(200, [])
        recorded.broken_off("it crashed")
        request = world.read(recorded)
        assert (request.answered_by, request.error) == ("app", "it crashed")
        assert not request.response.complete

    def test_the_first_end_counts(self) -> None:
        world = World()
        recorded = world.begin()
        recorded.response_started(200, [])
        recorded.response_ended()
        recorded.broken_off("late")
        recorded.refused(502, "CODE", "late")
        request = world.read(recorded)
        assert (request.answered_by, request.error) == ("app", "")

    def test_of_an_inbox(self) -> None:
        world = World()
        recorded = world.recorder.begin(RecordedApp(PLACE, "", "inbox"), HEAD, 0.0)
        recorded.response_started(200, [])
        assert world.read(recorded).answered_by == "inbox"


class TestFinished:
    def finish(self, world: World, body: bytes = b"ab", answer: bytes = b"cd") -> None:
        headers = [("Content-Type", "text/plain")]
        world.clock.now += 3
        world.recorder.finished(APP, HEAD, 100.0, body, 200, headers, answer)

    def test_it_is_the_same_as_one_that_was_watched(self) -> None:
        world = World()
        self.finish(world)
        world.clock.now += 5
        request = world.read()
        assert (request.method, request.body, request.received) == ("POST", b"ab", True)
        assert (request.response.body, request.response.status) == (b"cd", 200)
        assert request.response.duration_s == 3
        assert request.response.complete
        assert request.app_has_answered
        assert request.sequence == 1

    @pytest.mark.parametrize("body_bytes", [0, 100, 65_536])
    @pytest.mark.parametrize(
        ("status", "reason", "headers"),
        [
            (200, None, [("Set-Cookie", "a=1"), ("X-A", ""), ("set-cookie", "b=2; c=\xfc")]),
            (204, None, []),
            (404, "", [("Content-Type", "text/plain"), ("X-Long", "v" * 70_000)]),
            (299, "M\xfcde", [("A", "1: 2\t3")]),
        ],
    )
    @pytest.mark.parametrize(
        ("body", "answer"),
        [(b"", b""), (b"\xff\0", b"cd"), (b"x" * 5000, b""), (b"x", b"y" * 4096)],
    )
    def test_it_is_all_there(
        self,
        status: int,
        reason: str | None,
        headers: list[tuple[str, str]],
        body: bytes,
        answer: bytes,
        body_bytes: int,
    ) -> None:
        head = HEAD + "X-Latin: \xfc\r\nX-Latin: \xff \xa0\r\n"
        worlds = [World(body_bytes=body_bytes) for _ in range(2)]
        watched = worlds[0].begin(head)
        watched.take_body(body)
        watched.end()
        watched.reach()
        watched.response_started(status, headers, reason)
        watched.response_body(answer)
        for world in worlds:
            world.clock.now += 3
        watched.response_ended()
        worlds[1].recorder.finished(APP, head, 100.0, body, status, headers, answer, reason)
        (finished,) = worlds[1].log
        assert isinstance(finished, RecordedRequest)
        assert finished.data() == watched.data()
        assert finished.summary() == watched.summary()
        assert finished.replayable() == watched.replayable()

    @pytest.mark.parametrize("size", [0, 1000, 10_000])
    @pytest.mark.parametrize("body_bytes", [0, 65_536])
    def test_no_more_memory_is_held_than_is_counted(self, size: int, body_bytes: int) -> None:
        world = World(body_bytes=body_bytes)
        tracemalloc.start()
        try:
            for i in range(300):
                headers = [(f"X-{i}-{j}", f"{j}-{i}") for j in range(8)]
                head = f"{HEAD}X-I: {i}\r\n"
                body, answer = bytes(size + i % 7), bytes(size + i % 5)
                world.recorder.finished(APP, head, float(i), body, 200, headers, answer)
            del headers, head, body, answer
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 0 < held < world.log.size_bytes + 20_000

    def test_long_bodies_are_cut(self) -> None:
        world = World()
        self.finish(world, b"x" * 200, b"y" * 300)
        request = world.read()
        assert (len(request.body), request.truncated) == (100, True)
        assert (len(request.response.body), request.response.size_bytes) == (100, 300)

    def test_looking_at_it_makes_it_no_larger(self) -> None:
        world = World(body_bytes=65_536)
        self.finish(world, b"x" * 200, b"y" * 300)
        before = world.log.size_bytes
        assert before > 500
        assert world.read().size_bytes == 200
        assert before - 100 < world.log.size_bytes <= before
        assert world.log.find(1) is next(iter(world.log))

    def test_it_is_late_like_any_other(self) -> None:
        world = World()
        world.log.begin_test(PLACE, "test_a")
        world.log.end_test(PLACE, 99.0)
        self.finish(world)
        ((test, after_s, request),) = world.log.late
        assert (test, after_s) == ("test_a", 1.0)
        assert world.read(request).path == "/a"

    def test_it_is_not_late_where_another_test_is_over(self) -> None:
        world = World()
        world.log.begin_test(Place("lease", "t0"), "test_a")
        world.log.end_test(Place("lease", "t0"), 99.0)
        self.finish(world)
        assert world.log.late == []
        assert world.read().sequence == 1

    def test_at_a_lease_that_was_made_anew(self) -> None:
        world = World()
        world.log.rename("lease-2", "lease")
        app = RecordedApp(Place("lease-2", "t1"), "")
        world.recorder.finished(app, HEAD, 100.0, b"", 200, [], b"")
        assert list(world.log)[-1].place == PLACE

    def test_the_oldest_are_dropped(self) -> None:
        world = World(max_requests=2)
        for _ in range(3):
            self.finish(world)
        assert [request.sequence for request in world.log] == [2, 3]
        assert world.log.dropped == 1

    def test_the_memory_of_a_batch_is_free_when_its_last_is_dropped(self) -> None:
        world = World(max_requests=BATCH)
        for _ in range(BATCH):
            self.finish(world)
        full = world.log.size_bytes
        for number in range(1, BATCH):
            self.finish(world)
            assert world.log.size_bytes == pytest.approx(full * (1 + number / BATCH), rel=0.1)
            assert world.log.dropped == number
        self.finish(world)
        assert world.log.size_bytes == pytest.approx(full, rel=0.1)
        assert world.log.find(BATCH) is None
        assert world.log.last_sequence == 2 * BATCH
        assert len(world.log) == BATCH

    def test_too_many_bytes(self) -> None:
        world = World(max_bytes=100_000)
        for _ in range(500):
            self.finish(world)
        log = world.log
        assert 50_000 < log.size_bytes <= 100_000
        assert log.dropped + len(log) == 500
        assert [request.sequence for request in log] == list(range(log.dropped + 1, 501))
        assert log.size_bytes <= 100_000
        self.finish(world, b"x" * 100, b"y" * 100)
        assert log.last_sequence == 501

    @pytest.mark.parametrize("seed", range(10))
    def test_it_matters_to_nobody_when_somebody_looks(self, seed: int) -> None:
        """One log is looked at after each step, the other now and then."""
        random = Random(seed)
        worlds = [World(max_requests=100) for _ in range(2)]
        apps = [RecordedApp(Place("lease", f"t{i}"), "") for i in range(3)]
        for step in range(400):
            app = random.choice(apps)
            action = random.choices(["finish", "long", "begin", "look", "end"], [90, 4, 4, 2, 1])[0]
            for i, world in enumerate(worlds):
                world.clock.now += 1
                now = world.clock.now
                body = b"x" * (5000 if action == "long" else step)
                if action == "begin":
                    world.recorder.begin(app, HEAD, now).broken_off("why")
                elif action == "end":
                    world.log.begin_test(app.place, "test")
                    world.log.end_test(app.place, now)
                elif action != "look":
                    world.recorder.finished(
                        app, f"GET /{step} HTTP/1.1\r\n", now, body, 200, [], b""
                    )
                if i or action == "look":
                    world.log.find(random.randint(1, 400))
                    places = {random.choice(apps).place: now - 20}
                    watch, there = world.recorder.watch(places, lambda _: None)
                    watch.close()
                    assert all(request.place in places for request in there)
        data, others = ([request.data() for request in world.log] for world in worlds)
        assert data == others
        assert worlds[0].log.dropped == worlds[1].log.dropped > 0
        assert worlds[0].log.size_bytes == worlds[1].log.size_bytes
        late, other_late = (world.log.late for world in worlds)
        assert [(entry.test, entry.after_s) for entry in late] == [
            (entry.test, entry.after_s) for entry in other_late
        ]

    @pytest.mark.parametrize(
        ("places", "found"),
        [
            ({Place("lease", "other"): 0.0}, []),
            ({PLACE: 110.0}, []),
            ({EVERYWHERE: 110.0}, []),
            ({PLACE: 110.0, EVERYWHERE: 0.0}, []),
            ({PLACE: 102.0}, [2]),
            ({EVERYWHERE: 99.0}, [1, 2]),
            ({PLACE: 99.0, EVERYWHERE: 110.0}, [1, 2]),
        ],
    )
    def test_a_watch_unpacks_only_what_may_be_its_own(
        self, places: dict[Place, float], found: list[int]
    ) -> None:
        world = World()
        for arrived_s in (100.0, 102.0):
            world.clock.now += 3
            world.recorder.finished(APP, HEAD, arrived_s, b"", 200, [], b"")
        packed_bytes = world.log.size_bytes
        _, there = world.recorder.watch(places, lambda _: None)
        assert [request.sequence for request in there] == found
        is_packed = world.log.size_bytes == packed_bytes  # what is unpacked counts a little less
        assert is_packed == (not found)

    def test_one_before_a_test_ends_is_not_late(self) -> None:
        world = World()
        world.log.begin_test(PLACE, "test_a")
        self.finish(world)
        world.log.end_test(PLACE, 101.0)
        assert world.log.late_number == 0
        world.log.begin_test(PLACE, "test_a")  # it runs again
        assert world.log.late == []

    def test_in_the_order_of_arrival(self) -> None:
        world = World()
        self.finish(world)
        world.recorder.begin(APP, HEAD, 50.0)
        _, there = world.recorder.watch({PLACE: 0.0}, lambda _: None)
        assert [request.arrived_s for request in there] == [50.0, 100.0]


class TestWatch:
    def test_sources_are_asked_for_what_is_in_flight(self) -> None:
        world = World()
        world.recorder.sources.add(world.begin)
        _, there = world.recorder.watch({PLACE: 0.0}, lambda _: None)
        assert len(there) == 1

    def test_each_step_is_told(self) -> None:
        world = World()
        told: list[str] = []
        world.recorder.watch({PLACE: 0.0}, lambda r: told.append(str(world.read(r))))
        recorded = world.begin()
        recorded.end()
        recorded.reach()
        recorded.response_started(200, [])
        recorded.response_ended()
        assert len(told) == 4


class TestRefusal:
    def refuse(self, world: World, lease_id: str, path: str) -> None:
        world.recorder.refuse(
            lease_id,
            "POST",
            path,
            "a=1",
            [("X-A", "1"), ("Authorization", "Bearer hidden"), ("X-SynthTunnel-Worker-Token", "h")],
            status=401,
            code="TUNNEL_AUTH_REQUIRED",
            message="no token",
        )

    def test_at_a_place(self) -> None:
        world = World()
        world.log.know(PLACE)
        self.refuse(world, "lease", "/~t1/hooks")
        request = world.read()
        assert (request.path, request.query_string) == ("/hooks", "a=1")
        assert (request.lease_id, request.address) == PLACE
        assert request.headers.pairs == [("X-A", "1")]
        assert request.error == "TUNNEL_AUTH_REQUIRED: no token"
        assert request.answered_by == "tunnel"
        assert not request.received

    @pytest.mark.parametrize(
        ("lease_id", "path", "place"),
        [
            ("lease", "/hooks", Place("lease", "")),
            ("lease", "/~bob/hooks", Place("lease", "")),
            ("other", "/~t1/hooks", NOWHERE),
            ("", "/hooks", NOWHERE),
        ],
    )
    def test_elsewhere(self, lease_id: str, path: str, place: Place) -> None:
        world = World()
        for known in (PLACE, Place("lease", "")):
            world.log.know(known)
        self.refuse(world, lease_id, path)
        request = world.read()
        assert (request.lease_id, request.address) == place
        assert request.path == path

    def test_a_lease_that_was_made_anew(self) -> None:
        world = World()
        world.log.know(PLACE)
        world.log.rename("lease-2", "lease")
        self.refuse(world, "lease-2", "/~t1/hooks")
        assert list(world.log)[-1].place == PLACE
        recorded = world.recorder.begin(RecordedApp(Place("lease-2", "t1"), ""), HEAD, 0.0)
        assert recorded.place == PLACE


class TestWebSocket:
    def open(self, world: World) -> RecordedRequest:
        recorded = world.begin()
        recorded.websocket = recorded.ended = True
        recorded.reach()
        recorded.opened(101, [])
        return recorded

    def test_messages_both_ways(self) -> None:
        world = World(body_bytes=10_000)
        recorded = self.open(world)
        recorded.message("caller", b"he", text=True, fin=False)
        recorded.message("app", b"\x00", text=False, fin=True)
        recorded.message("caller", b"llo", text=True, fin=True)
        request = world.read(recorded)
        assert [(m.sender, m.data) for m in request.messages] == [
            ("caller", "hello"),
            ("app", b"\x00"),
        ]
        assert request.app_has_answered
        assert not request.over
        recorded.close()
        assert world.read(recorded).over

    def test_long_ones_are_cut_and_many_are_dropped(self) -> None:
        world = World(body_bytes=500)
        recorded = self.open(world)
        for _ in range(4):
            recorded.message("caller", b"x" * 200, text=True, fin=True)
        recorded.message("app", b"y", text=True, fin=True)
        request = world.read(recorded)
        assert [len(m.data) for m in request.messages] == [200, 0, 1]
        assert request.messages[1].truncated
        assert request.messages_dropped == 2

    def test_messages_before_it_is_open(self) -> None:
        world = World()
        recorded = world.begin()
        recorded.message("app", b"x", text=True, fin=True)
        assert world.read(recorded).messages == []


class TestMemory:
    def test_what_it_counts_is_what_it_takes(self) -> None:
        world = World(body_bytes=1000)
        recorded = world.begin()
        start = world.log.size_bytes
        assert start >= len(HEAD)
        recorded.take_body(b"x" * 3000)
        recorded.response_started(200, [("Name", "value")])
        recorded.response_body(b"y" * 400)
        recorded.response_ended()
        assert 1400 < world.log.size_bytes - start < 1700
        assert world.log.size_bytes == recorded.size_bytes

    def test_replay_needs_all_of_it(self) -> None:
        world = World(body_bytes=3)
        recorded = world.begin()
        assert recorded.replayable() is None
        recorded.take_body(b"abc")
        recorded.end()
        method, path, query, headers, body = recorded.replayable() or ("",) * 5
        assert (method, path, query, body) == ("POST", "/a", "b=1", b"abc")
        assert ("Host", "x") in headers
        recorded.take_body(b"d")
        assert recorded.replayable() is None


class TestSummary:
    def test_it_is_a_part_of_all_data(self) -> None:
        world = World()
        request = world.begin()
        open_summary = request.summary()
        assert open_summary["response"] is None
        assert open_summary.items() <= request.data().items()
        request.end()
        request.reach()
        world.clock.now += 2
        request.response_started(404, [("X", "1")])
        request.response_body(b"no such thing")
        request.response_ended()
        world.clock.now += 5
        summary, data = request.summary(), request.data()
        assert summary.pop("response") == {"status": 404, "duration_s": 2.0}
        assert summary.items() <= data.items()
        assert summary["received_at"] == 1e9 + 100
        assert not {"headers", "body", "messages"} & summary.keys()
