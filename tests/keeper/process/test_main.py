"""The keeper as a process: elected, held, ended, and gone without a trace."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.ipc.messages import (
    Challenge,
    Failure,
    Finish,
    Hello,
    LeaseInfo,
    OpenLease,
    Port,
    Report,
    ReservePort,
    Status,
    decode,
    encode,
)
from pytest_synth_tunnels.keeper.process.process_start import process_start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")


@pytest.fixture
def other():
    """A process that lives until it is killed."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def gone_without_a_trace(keeper: Any) -> bool:
    return not keeper.run_dir.parent.exists()


def test_a_lease_opens_carries_traffic_and_is_given_back(
    start_keeper: Any, open_lease: Any, serve: Any, get: Any
) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    port, lease = open_lease(process)
    assert isinstance(lease, LeaseInfo)
    assert (lease.local_host, lease.local_port) == ("127.0.0.1", port)
    assert process.keeper_pid == keeper.process.pid

    with serve(port):
        assert get(f"{lease.public_url}/x", lease.worker_token) == (200, "app /x")
    assert get(f"{lease.public_url}/x")[0] == 401

    report = process.ask(Finish())
    assert isinstance(report, Report)
    assert (report.created, report.released) == (1, 1)
    assert report.events == report.unreleased == []
    assert process.answer() is None
    assert gone_without_a_trace(keeper)
    assert keeper.wait() == 0


def test_the_run_directory_is_private_and_holds_no_token(
    start_keeper: Any, open_lease: Any, run_dir: Path
) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    _, lease = open_lease(process)
    for name in ("s", "keeper.json"):
        assert stat.S_IMODE((run_dir / name).lstat().st_mode) == 0o600
    for name in ("keeper.json", "keeper.log"):
        assert lease.worker_token not in (run_dir / name).read_text()


def test_the_second_candidate_ends_quietly(start_keeper: Any, open_lease: Any) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    _, lease = open_lease(process)

    second = keeper.spawn()

    assert second.wait(20) == 0
    assert keeper.connect().ask(OpenLease()) == lease
    assert "Traceback" not in keeper.log()


@pytest.mark.parametrize("url_style", ["root", "path"])
def test_eight_workers_share_one_lease_and_have_an_address_each(
    start_keeper: Any, open_lease: Any, serve: Any, get: Any, url_style: str
) -> None:
    keeper = start_keeper(settings={"url_style": url_style})
    owner = keeper.connect()
    leases = [open_lease(keeper.connect(f"gw{n}", pid=os.getpid() + 0)) for n in range(1)]
    others = [
        subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
        for _ in range(7)
    ]
    try:
        leases += [open_lease(keeper.connect(f"gw{n + 1}", p.pid)) for n, p in enumerate(others)]
        assert len({lease.lease_id for _, lease in leases}) == 1
        assert len({port for port, _ in leases}) == 8
        assert len({lease.public_url for _, lease in leases}) == 8
        for n, (port, lease) in enumerate(leases[1:], 1):
            assert lease.public_url.endswith(f"/~gw{n}") == (url_style == "path")
            with serve(port, f"app{n}"):
                assert get(f"{lease.public_url}/x", lease.worker_token) == (200, f"app{n} /x")
        report = owner.ask(Finish())
        assert (report.created, report.released) == (1, 1)
    finally:
        for process in others:
            process.kill()
            process.wait()
            process.stdin.close()


@pytest.mark.parametrize(
    ("url_style", "answer"),
    [("root", (410, "the process gw1 has ended")), ("path", (404, "UNKNOWN_ADDRESS"))],
)
def test_a_killed_holder_lets_go_of_its_address_and_port(
    start_keeper: Any, open_lease: Any, get: Any, other: Any, url_style: str, answer: Any
) -> None:
    keeper = start_keeper(settings={"url_style": url_style})
    owner = keeper.connect()
    process = keeper.connect("gw1", other.pid)
    port, lease = open_lease(process)

    other.kill()  # its connection stays open, as if a forked child had it

    assert process.answer() is None
    status, body = get(f"{lease.public_url}/x", lease.worker_token)
    assert (status, answer[1] in body) == (answer[0], True)
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", port))
    assert owner.ask(Status(lease_id=lease.lease_id)).state == "active"


def test_a_forked_child_has_its_parents_address_and_port(
    start_keeper: Any, open_lease: Any, other: Any
) -> None:
    keeper = start_keeper()
    parent = keeper.connect("gw1")
    port, lease = open_lease(parent)
    child = keeper.connect("gw1", other.pid)

    assert open_lease(child) == (port, lease)
    parent.close()
    assert child.ask(ReservePort()) == Port(port=port)


def test_the_owners_death_ends_it_once_nobody_holds(
    start_keeper: Any, open_lease: Any, other: Any
) -> None:
    keeper = start_keeper(config={"owner_pid": other.pid, "owner_start": process_start(other.pid)})
    worker = keeper.connect("gw1")
    open_lease(worker)

    other.kill()  # and stays a zombie
    assert isinstance(worker.ask(OpenLease()), LeaseInfo)
    worker.close()

    assert keeper.wait(5) == 0
    assert gone_without_a_trace(keeper)


def test_the_owners_death_ends_it_after_its_grace_although_somebody_holds(
    start_keeper: Any, open_lease: Any, other: Any
) -> None:
    keeper = start_keeper(config={"owner_pid": other.pid, "grace_s": 0.5})
    worker = keeper.connect("gw1")
    open_lease(worker)
    began = time.monotonic()

    other.kill()

    assert keeper.wait(10) == 0
    assert time.monotonic() - began > 0.5
    assert gone_without_a_trace(keeper)


def test_an_owner_that_is_dead_already(start_keeper: Any, other: Any) -> None:
    other.kill()
    other.wait()

    keeper = start_keeper(config={"owner_pid": other.pid, "owner_start": "1"})

    assert keeper.wait() == 0
    assert gone_without_a_trace(keeper)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(start_keeper: Any, open_lease: Any, number: signal.Signals) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    open_lease(process)

    keeper.process.send_signal(number)

    assert process.answer() is None
    assert keeper.wait() == 0
    assert gone_without_a_trace(keeper)


def test_only_the_owner_finishes(start_keeper: Any, other: Any) -> None:
    keeper = start_keeper()
    answer = keeper.connect("gw1", other.pid).ask(Finish())

    assert isinstance(answer, Failure)
    assert answer.code == "NOT_THE_OWNER"
    assert keeper.process.poll() is None


def test_whoever_does_not_know_the_secret_is_cut_off(start_keeper: Any, run_dir: Path) -> None:
    keeper = start_keeper()
    keeper.connect()
    for wrong in (
        encode(Hello(proof="0" * 64, nonce="n", pid=os.getpid(), address="", wants_events=True)),
        encode(OpenLease()),
        b"garbage\n",
        b"\xff" * (1 << 21),
    ):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(20)
            stranger.connect(str(run_dir / "s"))
            assert isinstance(decode(stranger.makefile("rb").readline()), Challenge)
            try:
                stranger.sendall(wrong)
                assert stranger.recv(100) == b""
            except OSError:
                pass  # cut off in the middle of it
    assert isinstance(keeper.connect().ask(OpenLease()), LeaseInfo)
    assert "Traceback" not in keeper.log()


def test_requests_that_make_no_sense_are_answered(start_keeper: Any) -> None:
    keeper = start_keeper()
    process = keeper.connect()

    process.socket.sendall(b'{"type": "Nonsense"}\n' + encode(Port(port=1)))

    assert [process.answer().code for _ in range(2)] == ["BAD_REQUEST"] * 2
    assert isinstance(process.ask(OpenLease()), LeaseInfo)


def test_it_cannot_listen(start_keeper: Any, tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    directory.mkdir(mode=0o700)

    keeper = start_keeper(directory)

    assert keeper.wait() == 1
    assert "AF_UNIX path too long" in keeper.log()


def test_the_embedded_backend_needs_no_http_client() -> None:
    code = (
        "import asyncio, sys, pytest_synth_tunnels.keeper.process.main as server\n"
        "asyncio.run(server.EmbeddedBackendClient(120.0).start())\n"
        "print(*sys.modules)"
    )

    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    modules = set(imported.stdout.decode().split())
    assert "pytest_synth_tunnels.relay.relay" in modules
    assert modules.isdisjoint({"httpx", "anyio", "tenacity", "websockets", "pytest"})
