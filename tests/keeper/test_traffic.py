"""What processes ask of a real keeper about their traffic."""

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from pytest_synth_tunnels.http.pool import PATIENCE_S
from pytest_synth_tunnels.keeper import traffic as traffic_module
from pytest_synth_tunnels.keeper.ipc.messages import (
    Accepts,
    Done,
    EndTraffic,
    Failure,
    Finish,
    GetTraffic,
    InboxRespond,
    OpenTraffic,
    ReplayRequest,
    TargetAccepts,
    TrafficAddress,
    TrafficCaughtUp,
    TrafficNoApp,
    TrafficRecord,
    TrafficTimeUp,
    WatchTraffic,
)
from pytest_synth_tunnels.keeper.traffic import RunTraffic
from pytest_synth_tunnels.traffic.exchange import InboundRequest
from pytest_synth_tunnels.traffic.place import Place, RecordedApp

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")


def post(info: TrafficAddress, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"{info.public_url}{path}", data=body, headers={**info.headers, **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def watch(process: Any, *infos: TrafficAddress, timeout_s: float | None = None) -> Any:
    places = [[info.lease_id, info.address, 0.0] for info in infos]
    return process.ask(WatchTraffic(places=places, timeout_s=timeout_s))


def recorded(process: Any, *infos: TrafficAddress) -> list[InboundRequest]:
    """Return what came to some addresses."""
    message = watch(process, *infos)
    found = []
    while isinstance(message, TrafficRecord):
        found.append(InboundRequest.from_data(message.request))
        message = process.answer()
    assert isinstance(message, TrafficCaughtUp)
    return found


@pytest.fixture(params=["root", "path"])
def url_style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_address_for_each_test(
    start_keeper: Any, open_lease: Any, serve: Any, url_style: str
) -> None:
    process = start_keeper(settings={"url_style": url_style}).connect("gw1")
    port, lease = open_lease(process)
    first, second = (process.ask(OpenTraffic(test=name, inbox=False)) for name in "ab")
    assert len({lease.public_url, first.public_url, second.public_url}) == 3
    assert first.local_url == f"http://127.0.0.1:{port}"
    assert first.own_address == "gw1"
    assert first.headers == lease.headers
    with serve(port):
        url = urllib.request.Request(f"{first.public_url}/x?y=1", headers=first.headers)
        assert urllib.request.urlopen(url, timeout=20).read().endswith(b" /x?y=1")
        (request,) = recorded(process, first)
        assert (request.path, request.query["y"], request.response.status) == ("/x", "1", 200)
        assert recorded(process, second) == []
        assert process.ask(GetTraffic(lease_id=first.lease_id, address=first.address)) == first
        own = process.ask(GetTraffic(lease_id=first.lease_id, address=None))
        assert (own.address, own.public_url) == ("gw1", lease.public_url)
        asked = TargetAccepts(lease_id=first.lease_id, address=first.address)
        assert process.ask(asked) == Accepts(accepts=True)
    assert process.ask(asked) == Accepts(accepts=False)


def test_a_watch_is_told_until_the_time_is_up(start_keeper: Any) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    info = process.ask(OpenTraffic(test="t", inbox=True))
    assert watch(process, info, timeout_s=0.0) == TrafficCaughtUp(dropped=0)
    assert process.answer() == TrafficTimeUp()
    watcher = keeper.connect()
    assert watch(watcher, info, timeout_s=30.0) == TrafficCaughtUp(dropped=0)
    assert post(info, "/a", b"x")[0] == 200
    states = []
    while not (states and states[-1].over):
        message = watcher.answer()
        assert isinstance(message, TrafficRecord)
        states.append(InboundRequest.from_data(message.request))
    assert states[-1].response.status == 200
    assert states[-1].body == b"x"


def test_a_watch_is_told_once_that_there_is_no_app(start_keeper: Any) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    info = process.ask(OpenTraffic(test="t", inbox=False))
    assert watch(process, info, timeout_s=PATIENCE_S + 0.5) == TrafficCaughtUp(dropped=0)
    no_app = process.answer()
    assert isinstance(no_app, TrafficNoApp)
    assert PATIENCE_S <= no_app.waited_s <= PATIENCE_S + 0.5
    assert process.answer() == TrafficTimeUp()


def test_a_watch_ends_with_its_connection(start_keeper: Any) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    info = process.ask(OpenTraffic(test="t", inbox=True))
    for _ in range(3):
        watcher = keeper.connect()
        assert watch(watcher, info, timeout_s=30.0) == TrafficCaughtUp(dropped=0)
        watcher.close()
    assert post(info, "/a")[0] == 200
    assert len(recorded(process, info)) == 1


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (WatchTraffic(places=[["l", "a", 0.0]] * 17, timeout_s=None), "at most 16 places"),
        (WatchTraffic(places=[["l"]], timeout_s=None), "not enough values"),
        (WatchTraffic(places=[["l", "a", "x"]], timeout_s=None), "could not convert"),
        (ReplayRequest(sequence=7), "no longer recorded"),
        (GetTraffic(lease_id="nonsense", address=""), "no lease nonsense"),
        (TargetAccepts(lease_id="nonsense", address=""), "no lease nonsense"),
    ],
)
def test_questions_without_an_answer(start_keeper: Any, question: Any, said: str) -> None:
    process = start_keeper().connect()
    answer = process.ask(question)
    assert isinstance(answer, Failure)
    assert said in answer.message
    assert isinstance(process.ask(OpenTraffic(test="t", inbox=True)), TrafficAddress)


def test_nothing_is_recorded(start_keeper: Any, open_lease: Any, serve: Any) -> None:
    process = start_keeper(settings={"traffic": False}).connect()
    answer = process.ask(OpenTraffic(test="t", inbox=False))
    assert (answer.code, answer.hint) == (
        "TRAFFIC_OFF",
        "Leave out synth_tunnels_traffic = false",
    )
    port, lease = open_lease(process)
    with serve(port):
        url = urllib.request.Request(lease.public_url, headers=lease.headers)
        assert urllib.request.urlopen(url, timeout=20).status == 200
    assert watch(process).code == "TRAFFIC_OFF"


def test_what_comes_after_its_test(start_keeper: Any) -> None:
    process = start_keeper().connect()
    info = process.ask(OpenTraffic(test="test_x.py::test_a", inbox=True))
    end = EndTraffic(lease_id=info.lease_id, address=info.address)
    assert post(info, "/in-time")[0] == 200
    assert process.ask(end) == Done()
    for number in range(25):
        assert post(info, f"/late/{number}?token=x")[0] == 200
    assert process.ask(end) == Done()
    report = process.ask(Finish())
    assert len(report.traffic) == 21
    first, *_, last = report.traffic
    assert first.startswith("test_x.py::test_a: POST /late/0 came 0.")
    assert first.endswith(" s after the test, answered 200")
    assert last == "and 5 more came after their tests"


class TestInbox:
    def say(self, process: Any, info: TrafficAddress, **values: Any) -> Any:
        nothing = {"method": None, "path": None, "path_flags": 0, "status": 200, "headers": []}
        nothing |= {"body": "", "delay_s": 0.0, "times": None}
        return process.ask(InboxRespond(address=info.address, **nothing | values))

    def test_it_answers_everything(self, start_keeper: Any, url_style: str) -> None:
        process = start_keeper(settings={"url_style": url_style}).connect("gw1")
        info = process.ask(OpenTraffic(test="t", inbox=True))
        assert info.local_url == ""
        assert post(info, "/a", b"x" * 100_000) == (200, b"")
        assert post(info, "/b", b"", Host="elsewhere.example") == (200, b"")
        first, second = recorded(process, info)
        assert (first.path, first.answered_by, first.size_bytes) == ("/a", "inbox", 100_000)
        assert first.truncated
        assert second.path == "/b"

    def test_the_last_rule_that_matches_counts(self, start_keeper: Any) -> None:
        process = start_keeper().connect()
        info = process.ask(OpenTraffic(test="t", inbox=True))
        other = process.ask(OpenTraffic(test="u", inbox=True))
        assert self.say(process, info, status=201) == Done()
        assert self.say(process, info, path="/a/.*", status=503, body="busy", times=2) == Done()
        assert self.say(process, info, method="GET", status=418) == Done()
        got = [post(info, path)[0] for path in ("/a/1", "/b", "/a/2", "/a/3")]
        assert got == [503, 201, 503, 201]
        assert post(other, "/a/1")[0] == 200

    def test_a_rule_for_get_answers_head(self, start_keeper: Any) -> None:
        process = start_keeper().connect()
        info = process.ask(OpenTraffic(test="t", inbox=True))
        self.say(process, info, method="GET", status=203, body="12345")
        url = urllib.request.Request(info.public_url, headers=info.headers, method="HEAD")
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (203, "5")
            assert answer.read() == b""
        assert post(info, "/")[0] == 200

    def test_headers_and_bytes(self, start_keeper: Any) -> None:
        process = start_keeper().connect()
        info = process.ask(OpenTraffic(test="t", inbox=True))
        self.say(process, info, headers=[["X-A", "1"]], body="\xff\x00")
        assert post(info, "/") == (200, b"\xff\x00")
        (request,) = recorded(process, info)
        assert request.response.headers["x-a"] == "1"
        assert request.response.body == b"\xff\x00"

    def test_it_may_take_its_time(self, start_keeper: Any) -> None:
        process = start_keeper().connect()
        info = process.ask(OpenTraffic(test="t", inbox=True))
        self.say(process, info, delay_s=0.2)
        began_s = time.monotonic()
        assert post(info, "/")[0] == 200
        assert time.monotonic() - began_s >= 0.2
        (request,) = recorded(process, info)
        assert request.response.duration_s >= 0.2

    def test_what_is_no_inbox(self, start_keeper: Any) -> None:
        process = start_keeper().connect()
        info = process.ask(OpenTraffic(test="t", inbox=False))
        assert "there is no inbox" in self.say(process, info).message


class TestReplay:
    def test_it_goes_to_the_app_again(
        self, start_keeper: Any, open_lease: Any, serve: Any, url_style: str
    ) -> None:
        process = start_keeper(settings={"url_style": url_style}).connect("gw1")
        port, _ = open_lease(process)
        info = process.ask(OpenTraffic(test="t", inbox=False))
        with serve(port):
            url = urllib.request.Request(
                f"{info.public_url}/x?y=1", headers={**info.headers, "X-Mine": "1"}
            )
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert answer.read()  # all of it is recorded before it comes here
            (request,) = recorded(process, info)
            again = process.ask(ReplayRequest(sequence=request.sequence))
        replayed = InboundRequest.from_data(again.request)
        assert replayed.sequence != request.sequence
        assert (replayed.path, replayed.query_string) == ("/x", "y=1")
        assert replayed.response.text == request.response.text
        ours = ("x-synthtunnel-request-id",)
        assert [pair for pair in replayed.headers.pairs if pair[0].lower() not in ours] == [
            pair for pair in request.headers.pairs if pair[0].lower() not in ours
        ]
        assert len(recorded(process, info)) == 2

    def test_an_inbox_takes_it_too(self, start_keeper: Any) -> None:
        process = start_keeper().connect()
        info = process.ask(OpenTraffic(test="t", inbox=True))
        post(info, "/a", b'{"a": 1}', **{"Content-Type": "application/json"})
        (request,) = recorded(process, info)
        replayed = InboundRequest.from_data(
            process.ask(ReplayRequest(sequence=request.sequence)).request
        )
        assert replayed.json() == {"a": 1}
        assert replayed.answered_by == "inbox"

    def test_not_as_a_whole(self, start_keeper: Any) -> None:
        process = start_keeper(settings={"traffic_body_bytes": 10}).connect()
        info = process.ask(OpenTraffic(test="t", inbox=True))
        post(info, "/a", b"x" * 11)
        (request,) = recorded(process, info)
        answer = process.ask(ReplayRequest(sequence=request.sequence))
        assert answer.code == "NOT_REPLAYABLE"

    def test_without_the_app(self, start_keeper: Any, open_lease: Any, serve: Any) -> None:
        process = start_keeper().connect()
        port, _ = open_lease(process)
        info = process.ask(OpenTraffic(test="t", inbox=False))
        with serve(port):
            url = urllib.request.Request(info.public_url, headers=info.headers)
            assert urllib.request.urlopen(url, timeout=20).status == 200
        (request,) = recorded(process, info)
        again = process.ask(ReplayRequest(sequence=request.sequence))
        replayed = InboundRequest.from_data(again.request)
        assert replayed.answered_by == "tunnel"
        assert replayed.response.status == 502


def test_what_was_dropped_is_told(start_keeper: Any) -> None:
    process = start_keeper().connect()
    info = process.ask(OpenTraffic(test="t", inbox=True))
    body = b"x" * 65_536
    for _ in range(530):
        assert post(info, "/a", body)[0] == 200
    message = watch(process, info)
    while isinstance(message, TrafficRecord):
        message = process.answer()
    assert message.dropped > 0
    report = process.ask(Finish())
    assert report.traffic == [
        f"{message.dropped} requests are no longer recorded: a run keeps the last 10000, and 32 MiB"
    ]


class FakeTargets:
    first_lease_id = "lease-1"


class FakeLease:
    """Opens addresses, and remembers which are closed."""

    def __init__(self) -> None:
        self.targets = FakeTargets()
        self.ended: list[str] = []

    async def open_address(self, address: str, target: object, *, permanent: bool) -> str:
        assert not permanent
        return "http://127.0.0.1:1"

    def end_address(self, address: str, reason: str) -> None:
        self.ended.append(address)

    def info(self, address: str) -> Any:
        class Info:
            public_url = "http://127.0.0.1:1"
            loopback_url = ""
            headers: dict[str, str] = {}
            url_secret = ca_file = ""
            provider = "synthtunnel"
            local_host = "127.0.0.1"
            local_port = 1

        return Info()


@pytest.mark.parametrize("few", ["addresses", "files"])
def test_the_oldest_address_makes_room(monkeypatch: pytest.MonkeyPatch, few: str) -> None:
    if few == "addresses":
        monkeypatch.setattr(traffic_module, "_MAX_ADDRESSES", 2)
    else:
        monkeypatch.setattr(traffic_module, "open_files_allowed", lambda: 4)

    async def main() -> None:
        traffic = RunTraffic(10)
        lease: Any = FakeLease()
        target: Any = None
        opened = [
            (await traffic.open(lease, "gw1", target, f"t{n}", inbox=n == 0)).address
            for n in range(4)
        ]
        assert lease.ended == opened[:2]
        assert traffic.recorder is not None
        late = Place("lease-1", opened[0])
        traffic.recorder.begin(RecordedApp(late, ""), "GET /x HTTP/1.1\r\n", traffic._now())
        assert "t0: GET /x came 0.00 s after the test" in traffic.report()
        await traffic.aclose()

    asyncio.run(main())


def test_a_line_is_what_a_process_reads(start_keeper: Any) -> None:
    process = start_keeper().connect()
    info = process.ask(OpenTraffic(test="t", inbox=True))
    post(info, "/a", "é\n\x00".encode())
    watch_lines = WatchTraffic(places=[[info.lease_id, info.address, 0.0]], timeout_s=None)
    process.send(watch_lines)
    data = json.loads(process.file.readline())["request"]
    assert InboundRequest.from_data(data).body == "é\n\x00".encode()
