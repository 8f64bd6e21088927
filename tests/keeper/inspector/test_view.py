"""What the inspector shows: masked, and searched as it is shown."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.inspector.view import TrafficView

from ...support.inspector_world import TOKEN, InspectorWorld, inspector_world


@pytest.fixture
def world() -> Iterator[InspectorWorld]:
    with inspector_world() as world:
        yield world


@pytest.fixture
def view(world: InspectorWorld) -> TrafficView:
    return TrafficView(world.traffic.log, lambda: {TOKEN})


def test_a_search_looks_into_bodies_and_messages(world: InspectorWorld, view: TrafficView) -> None:
    zipped = [("Content-Encoding", "gzip"), ("Content-Type", "application/json")]
    world.come(body="nothing")
    in_request = world.come(body=gzip.compress(b'{"name": "Zebra"}'), headers=zipped).sequence
    in_answer = world.come(answer="a zebra").sequence
    websocket = world.open_websocket()
    world.say(websocket, "app", b"zebra, but bytes")
    world.say(websocket, "app", "ZEBRA")

    def found(text: str, after: int = 0) -> Any:
        return world.call(view.search, text, after)

    assert found("zebra") == [in_request, in_answer, websocket.sequence]
    assert found("zebra", in_request) == [in_answer, websocket.sequence]
    assert found("giraffe") == []
    world.call(websocket.close)


def test_a_search_finds_nothing_behind_a_mask(world: InspectorWorld, view: TrafficView) -> None:
    body = json.dumps({"password": "hunter2", "user": "ada"})
    zipped = [("Content-Encoding", "gzip"), ("Content-Type", "application/json")]
    world.come(body=body, headers=zipped[1:])
    world.come(body=gzip.compress(body.encode()), headers=zipped)
    for text, numbers in (("hunter2", []), ('"password": "hunt', []), ("ada", [1, 2])):
        assert world.call(view.search, text, 0) == numbers


def test_a_token_of_the_lease_is_nowhere(world: InspectorWorld, view: TrafficView) -> None:
    number = world.come(path=f"/{TOKEN}?a={TOKEN}", body=TOKEN, answer=f"<{TOKEN}>").sequence
    request: Any = world.traffic.find(number)
    world.say(websocket := world.open_websocket(), "app", f"it is {TOKEN}")
    summary = view.encode(world.call(view.summary, request))
    details = [world.call(view.detail, one) for one in (request, websocket)]
    har = world.call(view.har)
    assert b"***" in summary
    assert TOKEN not in json.dumps(details)
    assert not [text for text in (summary, har) if TOKEN.encode() in text]
    assert details[1]["request"]["messages"][0]["data"] == "aXQgaXMgKioq"  # "it is ***"
    world.call(websocket.close)


def test_requests_are_read_in_pieces(
    world: InspectorWorld, view: TrafficView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.keeper.inspector.view._BATCH", 3)
    world.come_many(10)
    assert len(json.loads(world.call(view.har))["log"]["entries"]) == 10
