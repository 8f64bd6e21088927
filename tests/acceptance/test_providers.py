"""Managed leases in real runs: other providers behind the same fixtures."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..support.standins import cloudflared as standin
from .conftest import API_KEY, RuntimeDirectory

pytestmark = pytest.mark.acceptance

STATE = """
import json
import pytest

@pytest.fixture(scope="session", autouse=True)
def state(synth_lease, app, request, tmp_path_factory):
    yield
    state = synth_lease.status() | {"url": synth_lease.public_url, "id": synth_lease.lease_id}
    with open(request.config.rootpath / "state.json", "a") as file:
        file.write(json.dumps(state) + "\\n")
"""


def states(suite: pytest.Pytester) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (suite.path / "state.json").read_text().splitlines()]


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=" ".join)
@pytest.mark.parametrize("provider", ["synthtunnel", "ngrok", "cloudflared"])
def test_a_suite_passes_unchanged(
    suite: pytest.Pytester, runtime: RuntimeDirectory, provider: str, arguments: list[str]
) -> None:
    result = suite.runpytest_subprocess("--synth-tunnels-provider", provider, "-v", *arguments)
    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(["1 created, 1 released"])
    assert "was public" not in result.stdout.str()
    runtime.assert_nothing_left()


def test_workers_share_one_lease_one_gateway_and_one_connector(
    suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    suite.makepyfile(conftest=(suite.path / "conftest.py").read_text() + STATE)
    arguments = ["--synth-tunnels-provider", "ngrok", "-n", "4", "--dist", "each", "-q"]
    suite.runpytest_subprocess(*arguments).assert_outcomes(passed=48)
    found = states(suite)
    assert len({state["id"] for state in found}) == 1
    assert len({state["gateway"]["port"] for state in found}) == 1
    assert [state["connector"]["starts"] for state in found] == [1, 1, 1, 1]
    addresses = sorted(state["url"].rpartition("/")[2] for state in found)
    assert addresses == ["~gw0", "~gw1", "~gw2", "~gw3"]
    runtime.assert_nothing_left()


def test_workers_with_leases_of_their_own_share_gateway_and_connector(
    suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    suite.makepyfile(conftest=(suite.path / "conftest.py").read_text() + STATE)
    arguments = ["--synth-tunnels-provider", "cloudflared", "--synth-tunnels-share", "worker"]
    result = suite.runpytest_subprocess(*arguments, "-n", "2", "--dist", "each", "-v")
    result.assert_outcomes(passed=24)
    result.stdout.fnmatch_lines(["2 created, 2 released"])
    found = states(suite)
    assert len({state["id"] for state in found}) == 2
    assert len({state["gateway"]["port"] for state in found}) == 1
    assert len({state["managed_tunnel_id"] for state in found}) == 1
    assert [state["connector"]["starts"] for state in found] == [1, 1]
    runtime.assert_nothing_left()


def test_a_connector_that_is_killed_costs_no_request(
    suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    suite.makepyfile(
        test_app="""
        import json, os, signal, threading
        from pathlib import Path
        from urllib.request import urlopen

        def connector():
            (run_file,) = Path(os.environ["XDG_RUNTIME_DIR"]).rglob("keeper.json")
            keeper = json.loads(run_file.read_text())["pid"]
            for task in Path(f"/proc/{keeper}/task").iterdir():
                for child in (task / "children").read_text().split():
                    if "stdin" in Path(f"/proc/{child}/cmdline").read_text():
                        return int(child)

        def test_killing(synth_lease, app):
            killed = []
            for number in range(60):
                if number % 20 == 10:
                    killed.append(connector())
                    os.kill(killed[-1], signal.SIGKILL)
                with urlopen(synth_lease.url(f"/{number}"), timeout=20) as answer:
                    assert json.load(answer)["path"] == f"/{number}"
            assert len(set(killed)) == 3
        """
    )
    result = suite.runpytest_subprocess("--synth-tunnels-provider", "cloudflared")
    result.assert_outcomes(passed=1)
    runtime.assert_nothing_left()


@dataclass
class Scripted:
    """A backend that asks for what a test says, and the program that carries its leases."""

    url: str
    log: Path
    program: Path

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def scripted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Scripted]]:
    """Start a backend; it is what the run's environment names."""
    running: list[subprocess.Popen[str]] = []

    def start(actions: str) -> Scripted:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            gateway_port = free.getsockname()[1]
        log = tmp_path / "backend.log"
        script = Path(standin.__file__).with_name("backend.py")
        backend = subprocess.Popen(
            [sys.executable, script, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            # Not the run's runtime directory, by which its processes are found.
            env={name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
            | {
                "SYNTH_API_KEY": API_KEY,
                "STANDIN_GATEWAY_PORT": str(gateway_port),
                "STANDIN_ACTIONS": actions,
                "STANDIN_LOG": str(log),
            },
        )
        running.append(backend)
        assert backend.stdout is not None
        url = json.loads(backend.stdout.readline())["backend_url"]
        edge_url = url.replace("http", "ws", 1) + "/api/v1/synthtunnel/agent"
        monkeypatch.setenv("SYNTH_API_KEY", API_KEY)
        monkeypatch.setenv("SYNTH_BACKEND_URL", url)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        return Scripted(url, log, standin.install(tmp_path, STANDIN_EDGE_URL=edge_url))

    yield start
    for backend in running:
        backend.send_signal(signal.SIGTERM)
        backend.wait(10)
        assert backend.stdout is not None
        backend.stdout.close()


def _options(backend: Scripted) -> list[str]:
    return [
        *("--synth-tunnels-provider", "cloudflared"),
        *("--synth-tunnels-cloudflared", str(backend.program)),
    ]


def test_cloudflared_carries_a_hosted_lease(
    suite: pytest.Pytester, runtime: RuntimeDirectory, scripted: Callable[[str], Scripted]
) -> None:
    backend = scripted("")
    result = suite.runpytest_subprocess(*_options(backend), "-v", "-n", "2")
    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(["1 created, 1 released"])
    result.stdout.re_match_lines([r"127\.0\.0\.1:\d+ was public through cloudflared for \d+ s"])
    notes = backend.notes()
    first = notes[0]
    assert (first["connected_to_edge"], first["gateway_ready"]) == (True, True)
    assert [note for note in notes if "released" in note] == [{"released": first["lease_id"]}]
    runtime.assert_nothing_left()


ACTIONS = """
import json
import time
from urllib.error import HTTPError
from urllib.request import urlopen

def ask(url):
    with urlopen(url, timeout=20) as answer:
        return json.load(answer)["path"]

def until(what, deadline_s=30):
    end = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)

def test_actions(synth_lease, app):
    before = synth_lease.url("/")
    assert ask(before) == "/"
    until(lambda: synth_lease.url("/") != before)
    assert ask(synth_lease.url("/x")) == "/x"
    assert synth_lease.status()["connector"]["connected"]
    try:
        ask(before)
    except HTTPError as error:
        assert error.code == 404
    else:
        raise AssertionError("the old URL still answers")
"""


def test_what_a_backend_asks_for_is_done(
    suite: pytest.Pytester, runtime: RuntimeDirectory, scripted: Callable[[str], Scripted]
) -> None:
    backend = scripted("none restart_connector rotate_tunnel none recreate_tunnel")
    suite.makepyfile(test_app=ACTIONS)
    result = suite.runpytest_subprocess(*_options(backend), "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*it has another public URL now: *asked for recreate_tunnel*"])
    notes = backend.notes()
    leases = list(dict.fromkeys(note["lease_id"] for note in notes if "lease_id" in note))
    assert len(leases) == 2
    assert sorted(note["released"] for note in notes if "released" in note) == sorted(leases)
    assert not [note for note in notes if "failed" in (note.get("last_error") or "")]
    runtime.assert_nothing_left()


LOSES_IT = """
import time

def until(what, deadline_s=30):
    end = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)

def test_loses_the_second(synth_lease, synth_tunnels):
    until(lambda: synth_lease.status()["lease_id"] != synth_lease.lease_id)
    synth_tunnels.delete_lease(synth_lease.status()["lease_id"])
    until(lambda: synth_lease.status()["state"] == "lost")

def test_later(synth_lease):
    pass
"""


def test_a_lease_that_was_made_anew_is_lost_for_the_later_tests_too(
    suite: pytest.Pytester, runtime: RuntimeDirectory, scripted: Callable[[str], Scripted]
) -> None:
    backend = scripted("none recreate_tunnel")
    suite.makepyfile(test_app=LOSES_IT)

    result = suite.runpytest_subprocess(*_options(backend), "-p", "no:xdist")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_later*", "lease lease_* is lost: *"])
    runtime.assert_nothing_left()


def test_a_missing_program_is_said_once_and_how_to_get_it(
    suite: pytest.Pytester, runtime: RuntimeDirectory, scripted: Callable[[str], Scripted]
) -> None:
    backend = scripted("")
    backend.program.unlink()
    result = suite.runpytest_subprocess(*_options(backend), "-n", "2")
    result.assert_outcomes(errors=12)
    text = result.stdout.str()
    assert "Install cloudflared" in text
    assert "Traceback" not in text
    assert API_KEY not in text
    assert [note for note in backend.notes() if "released" in note]
    runtime.assert_nothing_left()


def test_an_app_may_come_later_than_its_lease(
    suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    suite.makepyfile(
        test_app="""
        import threading
        from http.server import HTTPServer, SimpleHTTPRequestHandler
        from urllib.error import HTTPError
        from urllib.request import urlopen

        import pytest
        from pytest_synth_tunnels import KeeperError

        def test_late(synth_lease, exposed_port):
            with pytest.raises(KeeperError, match=f"not listen on 127.0.0.1:{exposed_port}"):
                synth_lease.wait_ready(0.2)
            with pytest.raises(HTTPError, match="503"):
                urlopen(synth_lease.url("/__synth/ready"), timeout=20)
            app = HTTPServer(("127.0.0.1", exposed_port), SimpleHTTPRequestHandler)
            threading.Thread(target=app.serve_forever).start()
            synth_lease.wait_ready(20)
            assert urlopen(synth_lease.url("/__synth/ready"), timeout=20).status == 200
            assert urlopen(synth_lease.url("/"), timeout=20).status == 200
            app.shutdown(), app.server_close()
        """
    )
    suite.runpytest_subprocess("--synth-tunnels-provider", "ngrok").assert_outcomes(passed=1)
    runtime.assert_nothing_left()
