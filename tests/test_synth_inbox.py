"""What a test says to its inbox, against a keeper in a thread."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.ipc.messages import InboxRespond

from .support.traffic_world import TrafficWorld, traffic_world

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[TrafficWorld]:
    with traffic_world(tmp_path / "u" / "r") as world:
        yield world


def test_what_it_says(world: TrafficWorld) -> None:
    inbox = world.inbox()
    inbox.respond("post", "/a/*", status=503, json={"x": 1}, delay_s=1, times=2)
    inbox.respond(body="é", headers={"X-A": "1"})
    inbox.respond(body=b"\xff", headers={"content-type": "image/png"})
    inbox.respond(path=re.compile("/A", re.IGNORECASE))
    first, second, third, fourth = world.asked
    assert isinstance(first, InboxRespond)
    assert isinstance(fourth, InboxRespond)
    assert (first.method, first.path, first.status) == ("POST", "/a/[^/]*", 503)
    assert first.headers == [["Content-Type", "application/json"]]
    assert (first.body, first.delay_s, first.times) == ('{"x": 1}', 1.0, 2)
    assert second.__dict__["headers"] == [
        ["X-A", "1"],
        ["Content-Type", "text/plain; charset=utf-8"],
    ]
    assert second.__dict__["body"].encode("latin-1") == "é".encode()
    assert third.__dict__["headers"] == [["content-type", "image/png"]]
    assert (fourth.path, fourth.status, fourth.body) == ("/A", 200, "")
    assert re.compile(fourth.path or "", fourth.path_flags).fullmatch("/a")


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "PSOT"},
        {"path": "//host/a"},
        {"status": 101},
        {"status": 600},
        {"json": 1, "body": "x"},
        {"times": 0},
        {"delay_s": -1},
        {"headers": {"X-A": "1\r\nX-B: 2"}},
        {"headers": {"X-A": "\u65e5"}},
        {"headers": {"X A": "1"}},
        {"headers": {"": "1"}},
        {"headers": {"content-length": "1"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"body": "x" * (1 << 20)},
        {"body": b"\xff" * 200_000},
    ],
    ids=lambda arguments: str(arguments)[:40],
)
def test_what_cannot_be(world: TrafficWorld, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        world.inbox().respond(**arguments)
    assert world.asked == []


def test_a_body_of_another_type(world: TrafficWorld) -> None:
    with pytest.raises(TypeError, match="bytes or text"):
        world.inbox().respond(body=5)  # type: ignore[arg-type]
