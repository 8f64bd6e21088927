"""A real keeper and a backend elsewhere: what it costs, what it owes, and what it leaves."""

import http.server
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.backend import synth_leases
from pytest_synth_tunnels.keeper.ipc.messages import (
    Done,
    Failure,
    Finish,
    GetBackend,
    LeaseInfo,
    OpenLease,
    Report,
    Status,
    WaitReady,
)
from pytest_synth_tunnels.sdk import TunnelsClient

from ..support.messages import expose

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")

KEY = "sk_secret_of_this_test"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def hosted_keeper(hosted: Any, start_keeper: Callable[..., Any], home: Path) -> Callable[..., Any]:
    def start(*run_dir: Path, url: str = hosted.url, key: str | None = KEY) -> Any:
        env = {"HOME": str(home)} | ({"SYNTH_API_KEY": key} if key else {})
        return start_keeper(*run_dir, settings={"backend_url": url}, env=env)

    return start


def ledger(home: Path) -> list[dict[str, Any]]:
    path = home / ".local" / "state" / "synth-tunnels" / "leases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_lease_carries_traffic_and_is_crossed_out(
    hosted_keeper: Any, hosted: Any, home: Path, open_lease: Any, serve: Any, get: Any
) -> None:
    keeper = hosted_keeper()
    owner = keeper.connect()
    workers = [keeper.connect(f"gw{n}") for n in range(3)]
    port, lease = open_lease(workers[1])

    assert lease.backend == hosted.url
    with serve(port):
        assert get(f"{lease.public_url}/x", lease.worker_token) == (200, "app /x")
        ready = WaitReady(lease_id=lease.lease_id, timeout_s=10)
        assert workers[1].ask(ready) == Done()
    (line,) = ledger(home)
    assert line["lease_id"] == lease.lease_id
    assert line["lock"] == str(keeper.run_dir / "keeper.lock")
    assert not {KEY, lease.worker_token} & set(line.values())
    backend = owner.ask(GetBackend())
    assert (backend.url, backend.api_key, backend.embedded) == (hosted.url, KEY, False)

    report = owner.ask(Finish())

    assert (report.created, report.released, report.unreleased) == (1, 1, [])
    assert owner.answer() is None
    assert (hosted.creates, hosted.releases) == (1, 1)
    assert ledger(home) == []
    assert not keeper.run_dir.parent.exists()


def test_secrets_stay_out_of_everything(hosted_keeper: Any, home: Path, open_lease: Any) -> None:
    keeper = hosted_keeper()
    process = keeper.connect()
    _, lease = open_lease(process)

    files = [path for folder in (home, keeper.run_dir) for path in folder.rglob("*")]
    texts = [path.read_text() for path in files if path.is_file()]
    texts.append(Path(f"/proc/{keeper.process.pid}/cmdline").read_text())
    assert len(texts) > 4
    for secret in (KEY, lease.worker_token):
        assert not [text for text in texts if secret in text]


def test_a_wrong_key_is_tried_once_and_told_to_all(hosted_keeper: Any, hosted: Any) -> None:
    keeper = hosted_keeper(key="sk_wrong")
    owner = keeper.connect()
    workers = [keeper.connect(f"gw{n}") for n in range(8)]
    for worker in workers:
        worker.send(OpenLease())

    failures = [worker.answer() for worker in workers]

    assert len({(f.code, f.message) for f in failures}) == 1
    assert failures[0].code == "TUNNEL_AUTH_INVALID"
    assert "401" in failures[0].message
    assert "sk_wrong" not in failures[0].message + keeper.log()
    assert hosted.creates == 1
    report = owner.ask(Finish())
    assert (report.created, report.released, report.unreleased) == (0, 0, [])
    assert owner.answer() is None
    assert not keeper.run_dir.parent.exists()


def test_an_unreachable_backend(hosted_keeper: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        failure = hosted_keeper(url=url).connect().ask(OpenLease())

    assert failure.code == "TUNNEL_ENDPOINT_UNREACHABLE"
    assert url in failure.message


def test_without_a_key(hosted_keeper: Any, hosted: Any) -> None:
    process = hosted_keeper(key=None).connect()

    for request in (OpenLease(), GetBackend()):
        failure = process.ask(request)
        assert failure.code == "TUNNEL_AUTH_REQUIRED"
        assert "SYNTH_API_KEY" in failure.message
    assert hosted.seen == []


@pytest.fixture
def web_page() -> Iterator[str]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_backend_that_answers_with_a_web_page(hosted_keeper: Any, web_page: str) -> None:
    failure = hosted_keeper(url=web_page).connect().ask(OpenLease())

    assert failure.code == "TUNNEL_INTERNAL"
    assert web_page in failure.message


def test_a_hosted_lease_is_never_open_to_all(hosted_keeper: Any) -> None:
    request = expose("http://127.0.0.1:9", require_token=False)

    assert hosted_keeper().connect().ask(request).code == "TOKEN_REQUIRED"


def test_a_backend_that_is_down_at_the_end(
    hosted_keeper: Any, hosted: Any, home: Path, open_lease: Any, tmp_path: Path
) -> None:
    keeper = hosted_keeper()
    process = keeper.connect()
    _, lease = open_lease(process)
    hosted.down = True

    report = process.ask(Finish())

    assert isinstance(report, Report)
    assert (report.created, report.released) == (1, 0)
    (line,) = report.unreleased
    assert lease.lease_id in line
    assert "503" in line
    assert "leases --release-stale" in line
    assert [entry["lease_id"] for entry in ledger(home)] == [lease.lease_id]
    assert process.answer() is None
    assert not keeper.run_dir.parent.exists()

    hosted.down = False
    second = tmp_path / "u" / "2"
    second.mkdir(parents=True, mode=0o700)
    process = hosted_keeper(second).connect()
    _, new = open_lease(process)
    until(lambda: [entry["lease_id"] for entry in ledger(home)] == [new.lease_id])
    report = process.ask(Finish())
    assert (report.created, report.released) == (1, 1)


def test_what_a_killed_keeper_left_is_closed_by_the_next(
    hosted_keeper: Any, hosted: Any, home: Path, open_lease: Any, tmp_path: Path
) -> None:
    killed = hosted_keeper()
    process = killed.connect()
    _, lost = open_lease(process)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.wait()
    assert process.answer() is None
    assert [entry["lease_id"] for entry in ledger(home)] == [lost.lease_id]
    assert hosted.releases == 0

    second = tmp_path / "u" / "2"
    second.mkdir(mode=0o700)
    live = hosted_keeper(second)
    _, new = open_lease(live.connect())
    until(lambda: [entry["lease_id"] for entry in ledger(home)] == [new.lease_id])
    until(lambda: not killed.run_dir.exists())

    third = tmp_path / "u" / "3"
    third.mkdir(mode=0o700)
    other = hosted_keeper(third).connect()
    open_lease(other)
    assert other.ask(Finish()).released == 1
    assert live.connect().ask(Status(lease_id=new.lease_id)).answer["status"] == "ACTIVE"


def test_another_key_does_not_see_what_is_stale(
    hosted_keeper: Any, hosted: Any, home: Path, open_lease: Any, tmp_path: Path
) -> None:
    killed = hosted_keeper()
    _, lost = open_lease(killed.connect())
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.wait()

    second = tmp_path / "u" / "2"
    second.mkdir(mode=0o700)
    process = hosted_keeper(second, key="sk_another").connect()
    assert isinstance(process.ask(OpenLease()), Failure)
    process.ask(Finish())

    assert hosted.releases == 0
    assert [entry["lease_id"] for entry in ledger(home)] == [lost.lease_id]


def test_a_lease_that_the_backend_takes_away(
    hosted_keeper: Any, hosted: Any, open_lease: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synth_leases, "HEARTBEAT", {"recommended_interval_seconds": 0.1})
    keeper = hosted_keeper()
    owner, worker = keeper.connect(), keeper.connect("gw1")
    _, lease = open_lease(worker)

    with TunnelsClient(api_key=KEY, backend_base=hosted.url) as client:
        client.close_synth_lease(lease.lease_id)

    for process in (owner, worker):
        event = process.wait_event()
        assert (event.kind, event.lease_id) == ("lost", lease.lease_id)
    failure = worker.ask(OpenLease())
    assert failure.code == "LEASE_OVER"
    assert worker.ask(Status(lease_id=lease.lease_id)).state == "lost"
    report = owner.ask(Finish())
    assert report.events == [worker.events[0].message]
    assert (report.created, report.released) == (1, 1)


def test_a_ledger_that_cannot_be_written_fails_no_run(
    hosted_keeper: Any, home: Path, open_lease: Any
) -> None:
    (home / ".local").write_text("in the way")
    keeper = hosted_keeper()
    process = keeper.connect()

    assert isinstance(open_lease(process)[1], LeaseInfo)
    assert process.ask(Finish()).released == 1


def test_ready_says_which_link_is_missing(hosted_keeper: Any, hosted: Any, open_lease: Any) -> None:
    process = hosted_keeper().connect()
    _, lease = open_lease(process)
    with TunnelsClient(api_key=KEY, backend_base=hosted.url) as client:
        client.close_synth_lease(lease.lease_id)

    failure = process.ask(WaitReady(lease_id=lease.lease_id, timeout_s=2))
    assert failure.code == "TUNNEL_NOT_READY"
    assert failure.message.endswith("the public URL does not know the lease any more (410)")
