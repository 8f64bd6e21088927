"""Uplink: what the agent sends, and what it lists as in flight, without sockets."""

import asyncio
import json
from collections.abc import Callable
from math import inf

import pytest

from pytest_synth_tunnels.agent.served_leases import ServedLease
from pytest_synth_tunnels.agent.uplink import Uplink
from pytest_synth_tunnels.aio.deadlines import Deadlines
from pytest_synth_tunnels.wire.frames import (
    Frame,
    RelayCapabilities,
    RespHeaders,
)

from ..support.manual_loop import ManualLoop


class FakeLink:
    """Keeps what is sent, and notes when it is to wait."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.log: list[str] = []

    def send(self, frame: Frame, *, at_once: bool = False) -> None:
        self.sent.append(frame)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.log.append("close")

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")


class FakeRequest:
    """A request that only notes what is asked of it."""

    def __init__(self, rid: str, lease: ServedLease) -> None:
        self.rid = rid
        self.lease = lease
        self.started = False
        self.due_at = inf
        self.expired = False

    def start(self) -> None:
        assert not self.started
        self.started = True

    def expire(self) -> None:
        self.expired = True

    def _ignore(self, *_: object) -> None: ...

    whole = body = end = window = cancel = abort = pause = resume = _ignore


class Bench:
    """An uplink on a loop that tests move, and a lease."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        loop: asyncio.AbstractEventLoop = self.loop  # type: ignore[assignment]
        self.uplink = Uplink(loop, Deadlines(loop))
        self.lease = ServedLease("l1", "http://127.0.0.1:9/s/rt_1", 8)
        self.link = FakeLink()
        self.uplink.connect(self.link, RelayCapabilities(flow_control=True))

    def request(self, rid: str, due_in_s: float = 60) -> FakeRequest:
        request = FakeRequest(rid, self.lease)
        self.uplink.add(request, self.loop.time() + due_in_s)
        return request


def test_a_request_counts_from_add_to_forget() -> None:
    bench = Bench()
    uplink = bench.uplink
    first, second = bench.request("r1"), bench.request("r2")
    assert (len(uplink.requests), bench.lease.inflight, len(uplink.deadlines)) == (2, 2, 2)
    uplink.forget(first)
    uplink.forget(first)
    assert uplink.requests == {"r2": second}
    assert (bench.lease.inflight, len(uplink.deadlines)) == (1, 1)


def test_an_old_request_of_the_same_rid_cannot_end_a_new_one() -> None:
    bench = Bench()
    old = bench.request("r1")
    bench.uplink.forget(old)
    new = bench.request("r1")
    bench.uplink.forget(old)
    assert bench.uplink.requests == {"r1": new}
    assert bench.lease.inflight == 1


def test_a_request_expires_at_its_deadline() -> None:
    bench = Bench()
    request = bench.request("r1", due_in_s=5)
    bench.loop.advance(4)
    assert not request.expired
    bench.loop.advance(2)
    assert request.expired


@pytest.mark.parametrize("change", ["none", "started", "forgotten"])
def test_a_held_request_starts_at_the_end_of_the_tick(change: str) -> None:
    bench = Bench()
    request = bench.request("r1")
    bench.uplink.hold(request)
    bench.uplink.hold(request)
    assert not request.started
    if change == "started":
        request.start()
    elif change == "forgotten":
        bench.uplink.forget(request)
    bench.loop.advance(0)
    assert request.started is (change != "forgotten")


def test_the_link_waits_until_no_request_stalls_it() -> None:
    bench = Bench()
    first, second = bench.request("r1"), bench.request("r2")
    bench.uplink.stall(first)
    bench.uplink.stall(second)
    bench.uplink.unstall(first)
    assert bench.link.log == ["pause"]
    bench.uplink.unstall(second)
    assert bench.link.log == ["pause", "resume"]
    bench.uplink.stall(first)
    bench.loop.advance(bench.uplink.stall_s + 1)
    assert first.expired


def test_a_response_goes_in_one_frame() -> None:
    bench = Bench()
    bench.uplink.respond("r1", "l1", 200, [], b"body")
    assert bench.link.sent == [RespHeaders("r1", 200, [], "l1", b"body", end=True)]


@pytest.mark.parametrize("head_only", [False, True])
def test_an_error_says_what_failed_and_is_logged(
    head_only: bool, refused: Callable[[], list[str]]
) -> None:
    bench = Bench()
    bench.uplink.respond_error("r1", "l1", 404, "NO", "nothing is there", head_only=head_only)
    (frame,) = bench.link.sent
    assert isinstance(frame, RespHeaders)
    assert frame.status == 404
    assert ("Content-Type", "application/json") in frame.headers
    if head_only:
        assert frame.body == b""
    else:
        answer = json.loads(frame.body)
        assert (answer["code"], answer["message"]) == ("NO", "nothing is there")
        assert answer["request_id"] == "r1"
    assert refused() == ["r1: 404 NO"]


def test_nothing_is_sent_without_a_link() -> None:
    bench = Bench()
    bench.uplink.link_paused = True
    assert bench.uplink.disconnect() is bench.link
    assert bench.uplink.disconnect() is None
    assert not bench.uplink.attached
    assert not bench.uplink.link_paused
    request = bench.request("r1")
    bench.uplink.respond("r1", "l1", 200, [], b"")
    bench.uplink.stall(request)
    bench.uplink.unstall(request)
    assert bench.link.sent == bench.link.log == []
