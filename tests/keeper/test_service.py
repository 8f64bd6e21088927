"""What processes ask of a real keeper with the embedded backend."""

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.keeper import service
from pytest_synth_tunnels.keeper.backend_client import EmbeddedBackendClient
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.ipc.holders import Holder
from pytest_synth_tunnels.keeper.ipc.messages import (
    BackendInfo,
    CloseLease,
    Done,
    Failure,
    Finish,
    GetBackend,
    LeaseInfo,
    OpenInspector,
    OpenLease,
    OpenTraffic,
    RefreshToken,
    ReservePort,
    Status,
    Token,
    WaitReady,
)
from pytest_synth_tunnels.sdk import TunnelsClient
from pytest_synth_tunnels.settings import Settings

from ..support.messages import expose

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")

APP = f"""{sys.executable} -c "
import http.server, sys
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/die':
            print('dying as asked', flush=True)
            import os; os._exit(3)
        self.send_response(200); self.end_headers(); self.wfile.write(b'command')
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), App).serve_forever()
" {{port}}"""


@pytest.fixture
def other():
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def test_ready_once_the_app_listens(start_keeper: Any, open_lease: Any, serve: Any) -> None:
    process = start_keeper().connect("gw1")
    port, lease = open_lease(process)

    failure = process.ask(WaitReady(lease_id=lease.lease_id, timeout_s=2))
    assert failure.code == "TUNNEL_NOT_READY"
    assert failure.message.endswith(
        f"is not ready after 2 s: the app does not listen on 127.0.0.1:{port}"
    )

    with serve(port):
        assert process.ask(WaitReady(lease_id=lease.lease_id, timeout_s=10)) == Done()


@pytest.mark.skipif(sys.platform != "linux", reason="only there a port can be made free")
def test_a_reserved_port_is_free_of_what_an_earlier_server_left(start_keeper: Any) -> None:
    process = start_keeper().connect()
    port = process.ask(ReservePort()).port
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    with socket.socket() as later, pytest.raises(OSError, match="in use"):
        later.bind(("127.0.0.1", port))

    assert process.ask(ReservePort()).port == port

    with socket.socket() as later:
        later.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EADDRNOTAVAIL, "loopback interface"), (errno.EADDRINUSE, "Set synth_tunnels_port")],
)
@pytest.mark.parametrize("settings", [{"share": "worker"}, {}, {"command": "serve {port}"}])
def test_each_request_says_that_there_is_no_local_port(
    number: int, hint: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise OSError(number, "so it is")

    monkeypatch.setattr(service, "PortReservation", refuse)

    async def main() -> None:
        keeper = service.KeeperService(
            run_id="r1",
            settings=Settings(**settings),
            environ={},
            cwd="/",
            backend_client=EmbeddedBackendClient(5),
            ledger_recorder=None,
            on_holder_left=lambda: None,
        )
        keeper.start()
        for request in (ReservePort(), OpenLease()):
            with pytest.raises(KeeperRequestError) as caught:
                await keeper.answer(Holder(1, ""), request)
            assert caught.value.message == "no port of 127.0.0.1 can be had for the app: so it is"
            assert hint in caught.value.hint
        await keeper.finish()

    asyncio.run(main())


def test_status_and_tokens(start_keeper: Any, open_lease: Any, serve: Any, get: Any) -> None:
    process = start_keeper().connect()
    port, lease = open_lease(process)

    status = process.ask(Status(lease_id=lease.lease_id))
    assert (status.state, status.answer["connected"]) == ("active", True)
    assert process.ask(Token(lease_id=lease.lease_id)) == lease

    renewed = process.ask(RefreshToken(lease_id=lease.lease_id))
    assert renewed.worker_token != lease.worker_token
    assert process.ask(Token(lease_id=lease.lease_id)) == renewed
    with serve(port):
        assert get(lease.public_url + "/", lease.worker_token)[0] == 401
        assert get(lease.public_url + "/", renewed.worker_token)[0] == 200

    for request in (Status, Token, RefreshToken):
        assert process.ask(request(lease_id="nonsense")).code == "UNKNOWN_LEASE"


def test_the_backend_can_be_used_beside_it(start_keeper: Any, open_lease: Any) -> None:
    process = start_keeper().connect()
    _, lease = open_lease(process)
    backend = process.ask(GetBackend())
    assert isinstance(backend, BackendInfo)
    assert (backend.embedded, backend.url) == (True, lease.backend)

    with TunnelsClient(api_key=backend.api_key, backend_base=backend.url) as client:
        assert client.get_synth_lease(lease.lease_id)["status"] == "ACTIVE"


def test_a_lease_of_its_own(start_keeper: Any, serve: Any, get: Any) -> None:
    keeper = start_keeper()
    process = keeper.connect()
    port = process.ask(ReservePort()).port
    shared = process.ask(OpenLease())

    lease = process.ask(expose(f"http://localhost:{port}", ttl_s=100, name="mine"))
    assert isinstance(lease, LeaseInfo)
    assert lease.lease_id != shared.lease_id
    assert (lease.local_host, lease.local_port) == ("localhost", port)
    with serve(port):
        assert get(f"{lease.public_url}/x", lease.worker_token) == (200, "app /x")
        assert get(f"{lease.public_url}/x", shared.worker_token)[0] == 401

        assert process.ask(CloseLease(lease_id=lease.lease_id)) == Done()
        assert process.ask(CloseLease(lease_id=lease.lease_id)) == Done()
        assert get(f"{lease.public_url}/x", lease.worker_token)[0] == 410

    refusal = process.ask(CloseLease(lease_id=shared.lease_id))
    assert refusal.code == "LEASE_SHARED"
    report = process.ask(Finish())
    assert (report.created, report.released) == (2, 2)


def test_a_lease_for_callers_that_can_send_no_header(
    start_keeper: Any, serve: Any, get: Any
) -> None:
    process = start_keeper().connect()
    port = process.ask(ReservePort()).port

    lease = process.ask(expose(f"http://127.0.0.1:{port}", require_token=False))

    assert lease.worker_token is None
    with serve(port):
        assert get(f"{lease.public_url}/x") == (200, "app /x")
        assert process.ask(WaitReady(lease_id=lease.lease_id, timeout_s=10)) == Done()


@pytest.mark.parametrize(
    ("request_", "code", "part"),
    [
        (expose("http://example.com:80"), "TARGET_FORBIDDEN", "example.com is not this machine"),
        (expose("https://localhost"), "BAD_REQUEST", "only http"),
        (expose("nonsense"), "BAD_REQUEST", "nonsense"),
        (expose("http://localhost:99999"), "BAD_REQUEST", "65535"),
        (expose("http://localhost:8000", ttl_s=0), "BAD_REQUEST", "ttl_s"),
        (expose("http://localhost:8000", provider="no"), "TUNNEL_PROVIDER_INVALID", "'no'"),
    ],
)
def test_what_cannot_be_exposed(start_keeper: Any, request_: Any, code: str, part: str) -> None:
    failure = start_keeper().connect().ask(request_)

    assert isinstance(failure, Failure)
    assert failure.code == code
    assert part in failure.message


def test_another_machine_where_it_is_allowed(start_keeper: Any) -> None:
    process = start_keeper(settings={"allow_remote_targets": True}).connect()

    assert process.ask(expose("http://192.0.2.1:8000")).local_host == "192.0.2.1"


def test_what_a_process_exposed_ends_with_it(
    start_keeper: Any, serve: Any, get: Any, other: Any
) -> None:
    keeper = start_keeper()
    owner, process = keeper.connect(), keeper.connect("gw1", other.pid)
    lease = process.ask(expose("http://127.0.0.1:9"))
    foreign = owner.ask(CloseLease(lease_id=lease.lease_id))
    assert foreign.code == "LEASE_FOREIGN"

    other.kill()
    assert process.answer() is None

    deadline = time.monotonic() + 10
    while get(lease.public_url + "/", lease.worker_token)[0] != 410:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lease_for_each_worker(
    start_keeper: Any, open_lease: Any, serve: Any, get: Any, other: Any
) -> None:
    keeper = start_keeper(settings={"share": "worker"})
    owner, one, two = keeper.connect(), keeper.connect("gw1"), keeper.connect("gw2", other.pid)
    (port1, lease1), (port2, lease2) = open_lease(one), open_lease(two)

    assert lease1.lease_id != lease2.lease_id
    assert "~" not in lease1.public_url + lease2.public_url
    with serve(port1, "one"), serve(port2, "two"):
        assert get(f"{lease1.public_url}/x", lease1.worker_token) == (200, "one /x")
        assert get(f"{lease2.public_url}/x", lease2.worker_token) == (200, "two /x")
        assert one.ask(WaitReady(lease_id=lease1.lease_id, timeout_s=10)) == Done()
        assert one.ask(Token(lease_id=lease1.lease_id)) == lease1

    two.close()  # the lease goes with its worker
    report = owner.ask(Finish())
    assert (report.created, report.released) == (2, 2)


def test_a_fixed_port_has_no_address(
    start_keeper: Any, open_lease: Any, serve: Any, get: Any
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        fixed = free.getsockname()[1]
    keeper = start_keeper(settings={"port": fixed})
    one, two = keeper.connect("gw1"), keeper.connect("gw2")

    assert open_lease(one) == open_lease(two)
    port, lease = open_lease(one)
    assert port == fixed
    assert "~" not in lease.public_url
    with serve(fixed):
        assert get(f"{lease.public_url}/x", lease.worker_token) == (200, "app /x")


def test_the_command_serves_all_and_its_death_is_told(
    start_keeper: Any, open_lease: Any, get: Any, tmp_path: Path
) -> None:
    keeper = start_keeper(settings={"command": APP})
    owner, one, two = keeper.connect(), keeper.connect("gw1"), keeper.connect("gw2")
    assert open_lease(one) == open_lease(two)
    _, lease = open_lease(one)
    assert get(f"{lease.public_url}/x", lease.worker_token) == (200, "command")

    assert get(f"{lease.public_url}/die", lease.worker_token)[0] == 502

    for process in (one, two):
        event = process.wait_event()
        assert event.kind == "failed"
        assert "ended (exit status 3)" in event.message
        assert event.message.endswith("dying as asked")
    assert one.ask(OpenLease()).message == one.events[0].message
    report = owner.ask(Finish())
    assert report.events == [one.events[0].message]
    assert report.released == 1


ECHO_URL = f"""{sys.executable} -c "
import http.server, os, sys
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ['SYNTH_PUBLIC_URL'] + ' ' + sys.argv[2]
        self.send_response(200); self.end_headers(); self.wfile.write(body.encode())
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), App).serve_forever()
" {{port}} {{public_url}}"""


def test_a_command_knows_its_public_url(start_keeper: Any, open_lease: Any, get: Any) -> None:
    process = start_keeper(settings={"command": ECHO_URL}).connect("gw1")
    _, lease = open_lease(process)

    status, body = get(lease.public_url + "/", lease.worker_token)

    assert (status, body) == (200, f"{lease.public_url} {lease.public_url}")


def test_a_command_without_a_lease_is_not_started(start_keeper: Any) -> None:
    settings = {"command": ECHO_URL, "provider": "pigeon"}
    process = start_keeper(settings=settings).connect()

    failure = process.ask(OpenLease())

    assert failure.code == "TUNNEL_PROVIDER_INVALID"


def test_connections_of_one_process_are_served_side_by_side(
    start_keeper: Any, open_lease: Any, serve: Any
) -> None:
    keeper = start_keeper()
    slow, quick = keeper.connect(), keeper.connect()
    port, lease = open_lease(quick)
    slow.send(WaitReady(lease_id=lease.lease_id, timeout_s=20))

    for _ in range(20):
        assert quick.ask(Token(lease_id=lease.lease_id)).lease_id == lease.lease_id
    quick.send(ReservePort())
    quick.socket.shutdown(socket.SHUT_RDWR)  # one that breaks off takes no other with it

    with serve(port):
        assert isinstance(slow.answer(), Done)


def test_the_command_ends_with_the_run(start_keeper: Any, open_lease: Any) -> None:
    process = start_keeper(settings={"command": APP}).connect()
    port, _ = open_lease(process)

    process.ask(Finish())
    assert process.answer() is None

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_command_that_fails_is_told_to_all(start_keeper: Any) -> None:
    command = f"{sys.executable} -c \"raise SystemExit('no such app')\""
    keeper = start_keeper(settings={"command": command})

    failures = [keeper.connect(f"gw{n}").ask(OpenLease()) for n in range(3)]

    assert {f.code for f in failures} == {"COMMAND_FAILED"}
    assert all(f.message.endswith("no such app") for f in failures)


def test_a_slow_command_does_not_hold_up_the_end(start_keeper: Any) -> None:
    command = f'{sys.executable} -c "import time; time.sleep(60)"'
    keeper = start_keeper(settings={"command": command})
    process = keeper.connect()
    process.send(OpenLease())
    finisher = keeper.connect()
    began = time.monotonic()

    report = finisher.ask(Finish())

    assert report.released == report.created
    assert time.monotonic() - began < 5


def test_a_lease_of_its_own_is_the_root_of_an_origin(
    start_keeper: Any, serve: Any, get: Any
) -> None:
    process = start_keeper().connect()
    port = process.ask(ReservePort()).port
    root = process.ask(expose(str(port)))
    path = process.ask(expose(str(port), url_style="path"))

    assert urlsplit(root.public_url).path == ""
    assert urlsplit(path.public_url).path.startswith("/s/rt_")
    assert root.url_secret == path.url_secret == ""
    with serve(port):
        for lease in (root, path):
            assert get(f"{lease.public_url}/x", lease.worker_token) == (200, "app /x")
            assert process.ask(WaitReady(lease_id=lease.lease_id, timeout_s=10)) == Done()
    process.ask(CloseLease(lease_id=root.lease_id))
    assert get(f"{root.public_url}/x", root.worker_token)[0] == 410


@pytest.mark.parametrize(("url_style", "is_secret"), [("root", False), ("path", True)])
def test_a_run_without_tokens(
    start_keeper: Any, open_lease: Any, serve: Any, get: Any, url_style: str, is_secret: bool
) -> None:
    keeper = start_keeper(settings={"require_token": False, "url_style": url_style})
    process = keeper.connect("gw1")
    port, lease = open_lease(process)

    assert (lease.worker_token, lease.headers) == (None, {})
    assert bool(lease.url_secret) == is_secret
    assert lease.url_secret in lease.public_url
    with serve(port):
        assert get(f"{lease.public_url}/x") == (200, "app /x")
    if is_secret:
        assert lease.url_secret not in keeper.log()
    # A lease of its own is as the run's, unless it says otherwise.
    assert process.ask(expose(str(port))).worker_token is None
    assert process.ask(expose(str(port), require_token=True)).worker_token


@pytest.mark.parametrize(
    ("settings", "address", "is_refused"),
    [
        ({}, "", False),
        ({}, "gw1", True),
        ({"share": "worker"}, "gw1", True),
        ({"port": 8000}, "gw1", False),
        ({"port": 8000, "share": "worker"}, "gw1", True),
    ],
)
def test_a_public_port_is_one_origin_s(
    settings: dict[str, Any], address: str, is_refused: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def main() -> None:
        keeper = service.KeeperService(
            run_id="r1",
            settings=Settings(public_port=port, **settings),
            environ={},
            cwd="/",
            backend_client=EmbeddedBackendClient(5),
            ledger_recorder=None,
            on_holder_left=lambda: None,
        )
        keeper.start()
        for request in (OpenLease(), OpenTraffic(test="t", inbox=False)):
            if is_refused:
                with pytest.raises(KeeperRequestError, match=f"{port} is one port") as caught:
                    await keeper.answer(Holder(1, address), request)
                assert caught.value.code == "ONE_PUBLIC_PORT"
            elif isinstance(request, OpenLease):
                lease = await keeper.answer(Holder(1, address), request)
                assert isinstance(lease, LeaseInfo)
                assert lease.public_url == f"http://127.0.0.1:{port}"
        await keeper.finish()

    asyncio.run(main())


def test_no_lease_where_the_address_to_listen_on_is_unknown(start_keeper: Any) -> None:
    process = start_keeper(settings={"bind": "docker77"}).connect()

    failure = process.ask(OpenLease())

    assert failure.code == "BIND_INVALID"
    assert failure.message.startswith("synth_tunnels_bind: 'docker77' is neither an address nor")


def test_a_path_is_never_given_where_callers_are_elsewhere(start_keeper: Any) -> None:
    process = start_keeper(settings={"bind": "0.0.0.0", "public_host": "host.test"}).connect()
    port = process.ask(ReservePort()).port

    assert process.ask(expose(str(port), url_style="path")).code == "NO_PATH"
    lease = process.ask(expose(str(port), require_token=False))
    assert lease.public_url.startswith("http://host.test:")
    assert lease.public_url.endswith(lease.url_secret)
    assert process.ask(WaitReady(lease_id=lease.lease_id, timeout_s=2)).message.endswith(
        f"the app does not listen on 127.0.0.1:{port}"
    )
    report = process.ask(Finish())
    # The run's own lease, and this one.
    assert ["beyond this machine" in line for line in report.public] == [True, True]
    assert lease.url_secret not in str(report.public)


def test_names_to_mask_that_are_none(start_keeper: Any) -> None:
    process = start_keeper().connect()

    failure = process.ask(OpenInspector(masked=[["x-key"]]))

    assert failure.code == "BAD_REQUEST"
    assert "masked must be a list of names" in failure.message
