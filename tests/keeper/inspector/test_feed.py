"""The stream of events from which a page has its list."""

from collections.abc import Iterator

import pytest

from ...support.inspector_world import InspectorWorld, inspector_world


@pytest.fixture
def world() -> Iterator[InspectorWorld]:
    with inspector_world() as world:
        world.open()
        yield world


def test_it_tells_what_is_there_what_comes_and_what_changes(world: InspectorWorld) -> None:
    world.begin_test("test_a", "gw0")
    world.begin_test("test_b", "gw1", "t2")
    first = world.come(path="/a", body="a body", status=None)
    with world.events() as events:
        records = events.until(lambda records: len(records) == 1)
        assert records[first.sequence]["test"] == "test_a"
        assert records[first.sequence]["request"]["response"] is None
        world.call(lambda: first.refused(502, "X", "nothing listens there"))
        second = world.come(path="/b", address="t2")
        records = events.until(lambda records: len(records) == 2)
    assert records[first.sequence]["request"]["response"]["status"] == 502
    assert records[first.sequence]["request"]["error"] == "X: nothing listens there"
    assert records[second.sequence]["worker"] == "gw1"
    assert "body" not in records[first.sequence]["request"]
    assert "headers" not in records[first.sequence]["request"]


def test_thousands_come_in_order_and_in_pieces(world: InspectorWorld) -> None:
    world.come_many(1_200)
    sizes = []
    numbers: list[int] = []
    with world.events() as events:
        while len(numbers) < 1_200:
            _, data = events.next()
            sizes.append(len(data["records"]))
            numbers += [record["request"]["sequence"] for record in data["records"]]
    assert numbers == list(range(1, 1_201))
    assert max(sizes) <= 250


def test_what_the_log_drops_is_told(world: InspectorWorld) -> None:
    world.traffic.log._max_requests = 10
    world.come_many(4)
    with world.events() as events:
        events.until(lambda records: len(records) == 4)
        world.come_many(10)
        name, data = events.next()
        while data["dropped"] < 4:
            name, data = events.next()
    assert name == "records"
    assert data["dropped"] == 4


def test_a_page_that_does_not_read_costs_no_more_than_its_buffer(world: InspectorWorld) -> None:
    world.traffic.log._max_requests = 3_000
    with world.events() as events:
        for _ in range(4):
            world.come_many(3_000, "/" + "x" * 2_000)
        [stream] = world.inspector._streams
        assert world.call(lambda: stream._exchange.unread_bytes) < 3_000_000
        last = world.traffic.log.last_sequence
        assert events.until(lambda records: last in records)
    world.come()
