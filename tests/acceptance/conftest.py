"""Real pytest runs in subprocesses, each with a runtime directory of its own to look into."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ..support.processes import living_processes

API_KEY = "sk-test-0123456789abcdef"

OTHER_PLUGINS = (
    *("anyio", "fakefs", "hypothesispytest", "pytest-subprocess", "pytest_httpx", "recording"),
    *("html", "metadata", "respx", "run-parallel", "socket", "time_machine"),
)
"""Plugins of the development environment by the names of their entry points. Not all are another's:
anyio comes with this project, and takes half of the time that pytest needs to start. The README's
examples run with it, as users' tests do."""

SERVE_OWN_APP = """
import json, os, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

class App(BaseHTTPRequestHandler):
    def do_GET(self):
        seen = {"pid": os.getpid(), "path": self.path, "headers": dict(self.headers)}
        answer = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

@pytest.fixture(scope="session")
def app(exposed_port):
    server = ThreadingHTTPServer(("127.0.0.1", exposed_port), App)
    # A second Ctrl-C may break off what comes after the yield, and a thread that is no daemon
    # would then keep the process for good.
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()
"""
"""A conftest.py: each process serves an app that tells who it is."""

CALL_OWN_APP = """
import json, os
from urllib.request import Request, urlopen

import pytest

def ask(lease, path="/"):
    call = Request(lease.url(path), headers=lease.headers)
    with urlopen(call, timeout=20) as answer:
        return json.load(answer)

@pytest.mark.parametrize("number", range(12))
def test_own_app_answers(synth_lease, app, number):
    seen = ask(synth_lease, f"/{number}?n={number}")
    assert seen["pid"] == os.getpid()
    assert seen["path"] == f"/{number}?n={number}"
"""
"""A test module: 12 tests, each of which must reach the app of its own process."""


@pytest.fixture(autouse=True)
def _without_other_plugins(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start runs with no plugins but the usual ones, which is faster."""
    # After pytester, which removes it.
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in OTHER_PLUGINS))


_EXIT_TIMEOUT_S = 1.0
"""What a process may take to end on a busy machine, once it has nothing left to do."""


@dataclass
class RuntimeDirectory:
    """The run directories of one test's pytest runs, and only those."""

    path: Path

    def processes(self) -> list[str]:
        """Return the command lines of the living processes that were started with this one."""
        found = []
        for pid in living_processes(f"XDG_RUNTIME_DIR={self.path}"):
            with suppress(OSError):  # it has ended meanwhile
                found.append(
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                )
        return found

    def files(self) -> list[str]:
        """Return all files and folders of runs; one that goes meanwhile may be left out."""
        walk = os.walk(self.path)
        return [f"{folder}/{name}" for folder, *names in walk for name in (*names[0], *names[1])]

    def assert_nothing_left(self) -> None:
        """Check that the runs have left no file, and no process (so no open port).

        A run waits for its keeper's report, which comes when nothing but the process is left, and
        not for the process. That gets a second to leave, and no file meanwhile.
        """
        assert self.files() == []
        self.assert_no_process()

    def assert_no_process(self) -> None:
        """Check that the runs have left no process: a keeper that is over, or a process that was
        started ahead and is no keeper's, gets a second to leave."""
        deadline_s = time.monotonic() + _EXIT_TIMEOUT_S
        while (left := self.processes()) and time.monotonic() < deadline_s:
            threading.Event().wait(0.005)
        assert left == []


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[RuntimeDirectory]:
    """A runtime directory with a short path (a socket lies in it), empty at the start."""
    path = Path(tempfile.mkdtemp(prefix="st-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield RuntimeDirectory(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def suite(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> pytest.Pytester:
    """A suite of 12 tests that call their own process's app through the lease."""
    pytester.makeconftest(SERVE_OWN_APP)
    pytester.makepyfile(test_app=CALL_OWN_APP)
    return pytester


@dataclass
class CountingBackend:
    """A real backend in a process of its own, behind a proxy that notes each call."""

    url: str = ""
    pid: int = 0
    """Of the backend."""
    calls: list[str] = field(default_factory=list)
    """The calls that the backend has answered."""
    is_down: bool = False
    """Whether it hangs up on every caller."""
    heartbeat_interval_s: float | None = None
    """What it recommends, instead of what the backend does."""

    @property
    def creates(self) -> int:
        return self.calls.count("POST /api/v1/synthtunnel/leases")

    @property
    def releases(self) -> int:
        return len({call for call in self.calls if call.startswith("DELETE ")})


@dataclass(frozen=True)
class BackendProcess:
    """A backend in a process of its own."""

    url: str
    pid: int


@contextmanager
def running_backend() -> Iterator[BackendProcess]:
    """Start a backend, and check that it ends well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_synth_tunnels.backend", "--port", "0"],
        env={**os.environ, "SYNTH_API_KEY": API_KEY, "XDG_RUNTIME_DIR": "/none"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    yield BackendProcess(json.loads(process.stdout.readline())["backend_url"], process.pid)
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.fixture(scope="session")
def backend_process() -> Iterator[BackendProcess]:
    """The backend of all tests of this process: what they count is counted before it."""
    with running_backend() as backend:
        yield backend


@pytest.fixture
def hosted(
    backend_process: BackendProcess,
    runtime: RuntimeDirectory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[CountingBackend]:
    """A hosted backend: runs started in this test use it."""
    counted = CountingBackend(pid=backend_process.pid)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _forwarder(backend_process.url, counted))
    counted.url = f"http://127.0.0.1:{proxy.server_port}"
    # Closing it waits for its next look at what it is to do.
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("SYNTH_API_KEY", API_KEY)
    monkeypatch.setenv("SYNTH_BACKEND_URL", counted.url)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    yield counted
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def _forwarder(backend_url: str, counted: CountingBackend) -> type[BaseHTTPRequestHandler]:
    class Forwarder(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if counted.is_down:
                self.close_connection = True
                return
            counted.calls.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            headers = {
                name: self.headers[name]
                for name in ("Authorization", "Content-Type")
                if name in self.headers
            }
            request = Request(backend_url + self.path, body, headers, method=self.command)
            try:
                answer = urlopen(request, timeout=10)
            except HTTPError as error:
                answer = error
            with answer:
                data = answer.read()
                self.send_response(answer.status)
            if counted.heartbeat_interval_s and b'"heartbeat"' in data:
                lease = json.loads(data)
                lease["heartbeat"]["recommended_interval_seconds"] = counted.heartbeat_interval_s
                data = json.dumps(lease).encode()
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = forward  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    return Forwarder
