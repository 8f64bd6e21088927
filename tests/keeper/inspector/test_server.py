"""The inspector's server: who gets in, what it shows, and what it sends again."""

import hmac
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.inspector import server
from pytest_synth_tunnels.traffic.page import LIVE_FILES

from ...support.inspector_world import TOKEN, InspectorWorld, inspector_world

SAFE = {
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

KEYS = {
    "in a header": "hdr-9b1d",
    "in the query": "qry-9b1d",
    "in JSON": "jsn-9b1d",
    "in a cookie": "cke-9b1d",
    "of the user's own": "own-9b1d",
    "of the lease": TOKEN,
}


@pytest.fixture
def world() -> Iterator[InspectorWorld]:
    with inspector_world() as world:
        world.open()
        yield world


def come_with_keys(world: InspectorWorld) -> int:
    """Have a request with keys in all places come; return its number."""
    body = {"password": KEYS["in JSON"], "user": "ada", "seen": [TOKEN]}
    return world.come(
        path=f"/login?token={KEYS['in the query']}&page=2",
        body=json.dumps(body),
        headers=[
            ("Authorization", f"Bearer {KEYS['in a header']}"),
            ("X-Internal-Id", KEYS["of the user's own"]),
            ("Content-Type", "application/json"),
        ],
        answer=f"welcome, {TOKEN}",
        answer_headers=[("Set-Cookie", f"sid={KEYS['in a cookie']}; Path=/")],
    ).sequence


# --- who gets in


def test_every_answer_is_kept_from_caches_frames_and_other_pages(world: InspectorWorld) -> None:
    number = world.come().sequence
    paths = ["", *LIVE_FILES, f"requests/{number}", "search?text=x", "har", "requests/99", "none"]
    answers = [world.ask(path) for path in paths]
    answers.append(world.ask(headers={"Origin": "http://evil.example"}))
    answers.append(world.ask(full_path="/"))
    with world.events() as events:
        stream = dict(events.answer.headers)
    for headers in [stream, *(answer.headers for answer in answers)]:
        assert SAFE.items() <= headers.items()
        policy = headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert not any("unsafe" in part or "*" in part for part in policy)
        assert "Access-Control-Allow-Origin" not in headers


def test_the_page_has_all_its_files_and_nothing_from_elsewhere(world: InspectorWorld) -> None:
    page = world.ask()
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b'src="live.js"' in page.body
    assert b"://" not in page.body
    assert world.ask("live.js").headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert world.ask("style.css").headers["Content-Type"] == "text/css; charset=utf-8"


def test_a_wrong_secret_is_answered_as_if_there_were_nothing(world: InspectorWorld) -> None:
    number = world.come().sequence
    secret = urlsplit(world.url).path.strip("/")
    nothing = world.ask("no-such-page")
    assert nothing.status == 404
    wrong = ["", "x", secret[:-1], secret + "x", secret.swapcase(), "%00", secret[:-1] + "%41"]
    for path in ("", "live.js", "events", "har", f"requests/{number}"):
        for one in wrong:
            answer = world.ask(full_path=f"/{one}/{path}")
            assert (answer.status, answer.body) == (404, nothing.body)
    assert world.ask(full_path=f"/{secret}").status == 404
    assert world.ask(full_path=f"//{secret}/").status == 404
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert world.ask(full_path=f"/wrong/requests/{number}/replay", method=method).status == 404
    assert len(secret) >= 43, "32 random bytes"


def test_the_secret_is_compared_in_constant_time(
    world: InspectorWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert world.ask(full_path="/guess/").status == 404
    assert world.ask().status == 404, "nothing else decides"
    secret = urlsplit(world.url).path.strip("/").encode()
    assert compared == [(b"guess", secret), (secret, secret)]


def test_other_hosts_and_origins_are_refused(world: InspectorWorld) -> None:
    number = world.come().sequence
    own = urlsplit(world.url).netloc
    port = own.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", f"localhost:{port}", "127.0.0.1"):
        assert world.ask(headers={"Host": host}).status == 403
    for origin in (
        "http://evil.example",
        "null",
        "",
        f"https://{own}",
        f"http://{own}.evil.example",
    ):
        answer = world.ask(
            f"requests/{number}/replay",
            "POST",
            b"{}",
            {"Origin": origin, "Content-Type": "application/json"},
        )
        assert answer.status == 403
    assert world.seen == []
    assert world.ask(headers={"Origin": f"http://{own}"}).status == 200


def test_a_path_that_is_no_text_is_refused(world: InspectorWorld) -> None:
    url = urlsplit(world.url)
    with socket.create_connection((url.hostname, url.port), timeout=20) as connection:
        head = f"HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode()
        connection.sendall(b"GET /\xff\xfe/ " + head)
        assert connection.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 404")
    assert world.ask().status == 200


def test_a_form_of_another_page_sends_nothing_again(world: InspectorWorld) -> None:
    number = world.come().sequence
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; b=1"):
        answer = world.ask(f"requests/{number}/replay", "POST", b"{}", {"Content-Type": kind})
        assert answer.status == 415
    assert world.seen == []


# --- what costs


def test_pages_that_are_open_at_once_are_bounded(world: InspectorWorld) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(world.events()) for _ in range(server._MAX_STREAMS)]
        assert {stream.answer.status for stream in streams} == {200}
        refused = world.ask("events")
        assert refused.status == 503
        assert refused.json()["code"] == "too_many_pages"
    world.come()
    for _ in range(500):  # until the keeper has seen that the pages are gone
        with world.events() as events:
            if events.answer.status == 200:
                assert events.until(lambda records: len(records) == 1)
                break
    else:
        raise AssertionError("a page that has gone still counts")


def test_what_pages_ask_for_at_once_is_bounded(
    world: InspectorWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MAX_CALLS", 1)
    number = world.come().sequence
    world.hold.clear()
    connection = world.connection()
    headers = {"Content-Type": "application/json"}
    path = f"{urlsplit(world.url).path}requests/{number}/replay"
    connection.request("POST", path, b"{}", headers)
    assert world.app_has_begun.wait(20)
    refused = world.ask("har")
    assert (refused.status, refused.json()["code"]) == (503, "busy")
    world.hold.set()
    assert connection.getresponse().status == 200
    connection.close()
    assert world.ask("har").status == 200


def test_changes_that_are_too_long_are_refused(
    world: InspectorWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MAX_BODY_BYTES", 1_000)
    number = world.come().sequence
    answer = world.replay(number, body="x" * 200_000)
    assert (answer.status, answer.json()["code"]) == (413, "payload_too_large")
    assert world.seen == []
    assert world.replay(number, body="x").status == 200


# --- what it shows


def test_masked_values_are_nowhere_in_what_a_page_gets(world: InspectorWorld) -> None:
    number = come_with_keys(world)
    with world.events() as events:
        records = events.until(lambda records: number in records)
    detail = world.ask(f"requests/{number}").json()
    har = world.ask("har").body.decode()
    decoded = {name: InboundBodies.of(detail, name) for name in ("request", "response")}
    texts = [json.dumps(records), json.dumps(detail), har, *decoded.values()]
    for where, key in KEYS.items():
        assert not [text for text in texts if key in text], where
        assert world.ask(f"search?text={key}").json() == {"numbers": []}, where
    assert records[number]["request"]["query"] == "token=***&page=2"
    assert '"user"' in decoded["request"]
    assert decoded["response"] == "welcome, ***"
    assert world.ask("search?text=WELCOME").json() == {"numbers": [number]}


class InboundBodies:
    """The bodies in a record."""

    @staticmethod
    def of(record: dict[str, Any], which: str) -> str:
        from base64 import b64decode

        request = record["request"]
        return b64decode((request if which == "request" else request["response"])["body"]).decode()


def test_an_error_of_the_keeper_tells_its_kind_alone(
    world: InspectorWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError(KEYS["in JSON"])

    monkeypatch.setattr(server.TrafficView, "detail", fail)
    answer = world.ask(f"requests/{world.come().sequence}")
    assert answer.status == 500
    assert b"RuntimeError" in answer.body
    assert KEYS["in JSON"].encode() not in answer.body


def test_the_har_file_is_a_download(world: InspectorWorld) -> None:
    world.begin_test("test_a.py::test_paid", "gw0")
    world.come(path="/hooks/paid")
    answer = world.ask("har")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="synth-tunnels.har"'
    [entry] = answer.json()["log"]["entries"]
    assert entry["request"]["url"].endswith("/hooks/paid")
    assert "test_a.py::test_paid" in json.dumps(entry)


def test_a_request_that_is_not_there(world: InspectorWorld) -> None:
    for path in ("requests/1", "requests/99999999999"):
        assert world.ask(path).json()["code"] == "NOT_REPLAYABLE"
    for path in ("requests/x", "requests/1/x", "requests/-1", "requests/999999999999"):
        assert world.ask(path).status == 404
    assert world.ask("search?text=x&after=y").status == 400


# --- what it sends again


def test_a_request_is_sent_again_with_the_keys_that_it_had(world: InspectorWorld) -> None:
    number = come_with_keys(world)
    again = world.replay(number).json()["sequence"]
    [seen] = world.seen
    assert seen.method == "POST"
    assert seen.target == f"/login?token={KEYS['in the query']}&page=2"
    assert seen.headers["Authorization"] == f"Bearer {KEYS['in a header']}"
    assert json.loads(seen.body)["password"] == KEYS["in JSON"]
    assert again != number


def test_what_was_changed_is_sent_and_what_is_masked_is_as_recorded(world: InspectorWorld) -> None:
    number = come_with_keys(world)
    shown = world.ask(f"requests/{number}").json()["request"]
    body = json.loads(InboundBodies.of({"request": shown}, "request"))
    assert body["password"] == "***"
    world.replay(
        number,
        method="PUT",
        path="/signup",
        query="token=***&page=3",
        headers=[*shown["headers"], ["X-New", "yes"]],
        body=json.dumps({**body, "user": "grace"}),
    )
    [seen] = world.seen
    assert (seen.method, seen.target) == ("PUT", f"/signup?token={KEYS['in the query']}&page=3")
    assert seen.headers["Authorization"] == f"Bearer {KEYS['in a header']}"
    assert seen.headers["X-New"] == "yes"
    sent = json.loads(seen.body)
    assert (sent["user"], sent["password"]) == ("grace", KEYS["in JSON"])
    assert int(seen.headers["Content-Length"]) == len(seen.body)


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        ({"path": "no-slash"}, "the path must begin with /"),
        ({"method": "GET /x HTTP/1.1\r\nA: b"}, "the method must be one word"),
        ({"headers": [["A", "b\r\nC: d"]]}, "no header can have"),
        ({"headers": [["A: b", "c"]]}, "no name of a header"),
        ({"headers": [["A", "b"]] * 129}, "128 headers at most"),
        ({"query": "a#b"}, "percent-encoded"),
        ({"path": "/" + "x" * 70_000}, "longer than 65536 bytes"),
        ({"headers": [["A", "b" * 70_000]]}, "longer than 65536 bytes"),
        ({"body": 7}, "the body must be text"),
        ({"body_base64": "!"}, "no base64"),
        ({"host": "evil.example"}, "nothing that can be changed"),
    ],
)
def test_changes_that_cannot_be_sent_are_refused(
    world: InspectorWorld, edits: dict[str, Any], why: str
) -> None:
    answer = world.replay(world.come().sequence, **edits)
    assert answer.status == 400
    assert why in answer.json()["message"]
    assert world.seen == []


def test_what_cannot_be_sent_again_says_why(world: InspectorWorld) -> None:
    websocket = world.open_websocket().sequence
    closed = world.come(address="t9").sequence
    foreign = world.come(lease_id="lease-9").sequence
    for number, why in (
        (websocket, "a WebSocket cannot be sent again"),
        (closed, "the address of this request is closed"),
        (foreign, "this run holds no lease"),
        (99, "no longer recorded"),
    ):
        answer = world.replay(number)
        assert answer.status == 409
        assert why in answer.json()["message"]
    content = {"Content-Type": "application/json"}
    assert world.ask(f"requests/{closed}/replay", "POST", b"{", content).status == 400
    for odd in (b"[]", b'{"body": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"):
        assert world.ask(f"requests/{closed}/replay", "POST", odd, content).status == 400


# --- its life


def test_it_opens_once_and_ends_with_the_run(world: InspectorWorld) -> None:
    assert world.open() == world.url
    with world.events() as events:
        assert events.next() == ("records", {"dropped": 0, "records": []})
        world.end()
        assert events.next() == ("ended", {})
        assert events.answer.read() == b""
    with pytest.raises(ConnectionError):
        world.ask()


def test_without_records_it_does_not_open() -> None:
    with inspector_world(body_bytes=None) as world, pytest.raises(KeeperRequestError) as failed:
        world.open()
    assert failed.value.code == "TRAFFIC_OFF"


def test_a_keeper_that_is_not_asked_for_a_page_imports_nothing_of_it() -> None:
    code = (
        "import sys, pytest_synth_tunnels.keeper.process.main; "
        "print([name for name in sys.modules if name.endswith(('inspector.server', '.page'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert found.stdout == b"[]\n"
