"""Recorded requests as HAR."""

import gzip
import json
from base64 import b64decode
from typing import Any

import pytest
from haralyzer import HarEntry, HarParser

from pytest_synth_tunnels.traffic.har import HarRecord, har_log

from ..support.har_spec import har_faults
from ..support.recorded import message, recorded, response

HOST = [("Host", "127.0.0.1:4242")]


def written(*records: HarRecord) -> list[dict[str, Any]]:
    """Return the entries of a HAR file as its readers find them."""
    content = har_log(records, version="1.0", comment="a test", run_id="run-1")
    found: list[dict[str, Any]] = json.loads(json.dumps(content))["log"]["entries"]
    return found


def test_a_public_reader_finds_requests_and_answers() -> None:
    paid = recorded(
        "POST",
        "/hooks/paid",
        query="a=1&a=2",
        headers=[*HOST, ("Cookie", "session=1")],
        json_body={"status": "paid"},
        answer=response(
            headers=[("Content-Type", "text/plain"), ("Set-Cookie", "seen=yes; Path=/; HttpOnly")],
            body="thanks",
        ),
    )
    content = har_log([HarRecord(paid)], version="1.0", comment="a test", run_id="run-1")

    [raw] = HarParser(json.loads(json.dumps(content))).har_data["entries"]
    entry = HarEntry(raw)

    assert (entry.request.method, entry.request.url) == (
        "POST",
        "http://127.0.0.1:4242/hooks/paid?a=1&a=2",
    )
    assert [(each["name"], each["value"]) for each in entry.request.queryString] == [
        ("a", "1"),
        ("a", "2"),
    ]
    assert json.loads(entry.request.text) == {"status": "paid"}
    assert (entry.response.status, entry.response.text) == (200, "thanks")
    assert entry.startTime.tzinfo is not None
    assert entry.time == 5
    assert raw["request"]["cookies"] == [{"name": "session", "value": "1"}]
    assert raw["response"]["cookies"] == [
        {"name": "seen", "value": "yes", "path": "/", "httpOnly": True}
    ]


def test_an_entry_says_whose_it_is_and_who_answered() -> None:
    refused = recorded(
        headers=HOST, answered_by="tunnel", answer=response(401), error="no worker token"
    )

    [entry] = written(HarRecord(refused, "test_a.py::test_b", "gw1"))

    assert entry["_synthTest"] == "test_a.py::test_b"
    assert entry["_synthWorker"] == "gw1"
    assert entry["_synthAnsweredBy"] == "tunnel"
    assert entry["_synthError"] == "no worker token"


def test_a_request_without_an_answer_has_status_0() -> None:
    [entry] = written(HarRecord(recorded(headers=HOST, answered_by=None, over=False)))

    assert entry["response"]["status"] == 0
    assert entry["response"]["content"] == {"size": 0, "mimeType": "x-unknown"}


def test_the_url_is_the_callers_where_the_tunnel_took_a_prefix_away() -> None:
    forwarded = [
        ("Host", "127.0.0.1:8000"),
        ("X-Forwarded-Host", "relay.test"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/s/rt_1"),
    ]

    [entry] = written(HarRecord(recorded(path="/a", headers=forwarded)))

    assert entry["request"]["url"] == "https://relay.test/s/rt_1/a"


def test_websocket_messages_are_written_as_browsers_write_them() -> None:
    opened = recorded(
        headers=HOST,
        websocket=True,
        answer=response(101),
        messages=[message("hello"), message(b"\xff", "app")],
    )

    [entry] = written(HarRecord(opened))

    assert entry["request"]["url"] == "ws://127.0.0.1:4242/"
    assert entry["_resourceType"] == "websocket"
    sent, received = entry["_webSocketMessages"]
    assert (sent["type"], sent["opcode"], sent["data"]) == ("send", 1, "hello")
    assert (received["type"], received["opcode"]) == ("receive", 2)
    assert b64decode(received["data"]) == b"\xff"


def test_a_compressed_body_is_written_as_what_it_holds() -> None:
    packed = response(
        headers=[("Content-Encoding", "gzip"), ("Content-Type", "text/plain")],
        body=gzip.compress(b"a page"),
    )

    [entry] = written(HarRecord(recorded(headers=HOST, answer=packed)))

    assert entry["response"]["content"]["text"] == "a page"
    assert "encoding" not in entry["response"]["content"]


def test_bytes_that_are_no_text_are_base64() -> None:
    [entry] = written(HarRecord(recorded(headers=HOST, answer=response(body=b"\xff\x00"))))

    content = entry["response"]["content"]
    assert content["encoding"] == "base64"
    assert b64decode(content["text"]) == b"\xff\x00"


@pytest.mark.parametrize("end", [b"\xc3", b"\xe2\x82"])
def test_a_body_cut_within_a_character_is_text_up_to_there(end: bytes) -> None:
    cut = response(body=b"sch\xc3\xb6n" + end, truncated=True)

    [entry] = written(HarRecord(recorded(headers=HOST, answer=cut)))

    content = entry["response"]["content"]
    assert content["text"] == "schön"
    assert content["comment"] == f"the first {5 + 1 + len(end)} of {5 + 2 + len(end)} bytes"


def test_cookies_that_cannot_be_read_stay_in_the_headers() -> None:
    [entry] = written(HarRecord(recorded(headers=[*HOST, ("Cookie", "a b;=\x01")])))

    assert entry["request"]["cookies"] == []
    assert {"name": "Cookie", "value": "a b;=\x01"} in entry["request"]["headers"]


def every_kind() -> list[HarRecord]:
    """Return a request of each kind that is written in its own way."""
    form = [*HOST, ("Content-Type", "application/x-www-form-urlencoded")]
    cookie = ("Set-Cookie", "a=b; Path=/; Domain=shop.test; HttpOnly; Secure; Max-Age=60")
    packed = response(headers=[("Content-Encoding", "gzip")], body=gzip.compress(b"a page"))
    requests = [
        recorded(query="a=1&a=&b", headers=[*HOST, ("Cookie", "a=b; c=d")], sequence=1),
        recorded("POST", headers=form, body="a=1", answer=response(headers=[cookie]), sequence=2),
        recorded("PUT", body=b"\xff\x00", truncated=True, headers=HOST, answer=packed, sequence=3),
        recorded(answer=response(302, headers=[("Location", "/b")]), headers=HOST, sequence=4),
        recorded(answer=response(body=b"\xff", truncated=True), headers=HOST, sequence=5),
        recorded(answered_by=None, over=False, headers=HOST, sequence=6),
        recorded(answered_by="tunnel", answer=response(401), error="no token", sequence=7),
        recorded(
            websocket=True,
            answer=response(101),
            messages=[message("a"), message(b"\xff", "app")],
            sequence=8,
        ),
    ]
    return [HarRecord(request, "test_a.py::test_b", "gw1") for request in requests]


def test_a_file_is_what_the_specification_asks_for() -> None:
    content = har_log(every_kind(), version="1.0", comment="a test", run_id="run-1")

    assert har_faults(json.loads(json.dumps(content))) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (["log", "version"], "1.1", "log.version is '1.1'"),
        (["log", "creator", "version"], None, "log.creator.version is None"),
        (["log", "entries", 0, "time"], -2.0, "log.entries[0].time is -2.0"),
        (["log", "entries", 0, "time"], 99.0, "log.entries[0].time is not the sum of its timings"),
        (["log", "entries", 0, "own"], 1, "log.entries[0].own is not in HAR"),
        (["log", "entries", 0, "startedDateTime"], "2026-01-01T00:00:00", None),
        (["log", "entries", 0, "response", "status"], "200", None),
        (
            ["log", "entries", 0, "request", "headers"],
            {},
            "log.entries[0].request.headers is no list",
        ),
    ],
)
def test_what_the_specification_forbids_is_found(
    path: list[Any], value: Any, fault: str | None
) -> None:
    content = har_log(every_kind(), version="1.0", comment="a test", run_id="run-1")
    broken = json.loads(json.dumps(content))
    *way, last = path
    place = broken
    for step in way:
        place = place[step]
    place[last] = value

    where = "log.entries[0]." + ".".join(map(str, path[3:]))
    assert har_faults(broken) == [fault or f"{where} is {value!r}"]


def test_what_is_missing_is_found() -> None:
    content = har_log(every_kind(), version="1.0", comment="a test", run_id="run-1")
    broken = json.loads(json.dumps(content))
    del broken["log"]["entries"][1]["request"]["postData"]["mimeType"]
    del broken["log"]["entries"][0]["cache"]

    assert har_faults(broken) == [
        "log.entries[0].cache is missing",
        "log.entries[1].request.postData.mimeType is missing",
    ]
