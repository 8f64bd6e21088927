"""A real keeper process, processes that talk to it, an app, and a backend that counts."""

import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.keeper.ipc.messages import (
    Challenge,
    Event,
    Failure,
    Hello,
    Message,
    OpenLease,
    Port,
    ReservePort,
    Welcome,
    decode,
    encode,
    proof,
)
from pytest_synth_tunnels.settings import Settings

from ..support.full_disk import full_file_system
from ..support.hosted_backend import HostedBackend, hosted_backend

BOOTSTRAP = (
    "import sys, json; config = json.load(sys.stdin); sys.path[:] = config.pop('sys_path'); "
    "from pytest_synth_tunnels.keeper.process.main import main; main(config)"
)


class Process:
    """The test's side of one connection."""

    def __init__(self, run_dir: Path, address: str = "", pid: int | None = None) -> None:
        run_file = json.loads((run_dir / "keeper.json").read_text())
        self.events: list[Event] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(run_file["address"][1])
        self.file = self.socket.makefile("rb")
        challenge = self.read()
        assert isinstance(challenge, Challenge)
        self.send(
            Hello(
                proof=proof(run_file["secret"], "process", challenge.nonce),
                nonce="n",
                pid=pid or os.getpid(),
                address=address,
                wants_events=True,
            )
        )
        welcome = self.read()
        assert isinstance(welcome, Welcome)
        assert welcome.proof == proof(run_file["secret"], "keeper", "n")
        self.keeper_pid = welcome.pid

    def send(self, message: Message) -> None:
        self.socket.sendall(encode(message))

    def read(self) -> Message | None:
        line = self.file.readline()
        return decode(line) if line else None

    def answer(self) -> Message | None:
        while isinstance(message := self.read(), Event):
            self.events.append(message)
        return message

    def ask(self, message: Message) -> Any:
        self.send(message)
        return self.answer()

    def wait_event(self) -> Event:
        while not self.events:
            message = self.read()
            assert isinstance(message, Event)
            self.events.append(message)
        return self.events[0]

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Keeper:
    """A keeper process of a run whose owner is the test, unless it says otherwise."""

    def __init__(self, run_dir: Path, **options: Any) -> None:
        self.run_dir = run_dir
        self.settings = Settings(**options.pop("settings", {}))
        self.config = {
            "run_dir": str(run_dir),
            "run_id": "0123456789abcdef",
            "owner_pid": os.getpid(),
            "owner_start": None,
            "settings": self.settings.to_json(),
            "environ": dict(os.environ),
            "cwd": str(run_dir.parent),
            "sys_path": sys.path,
        } | options.pop("config", {})
        self.env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.env |= {k: v for k, v in os.environ.items() if k.startswith("COVERAGE")}
        self.env |= {"HOME": str(run_dir.parent)} | options.pop("env", {})
        assert not options
        self.connections: list[Process] = []
        self.process = self.spawn()

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start a candidate for this run."""
        with (self.run_dir / "keeper.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", BOOTSTRAP],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self.env,
                cwd="/",
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.config).encode())
        process.stdin.close()
        return process

    def connect(self, address: str = "", pid: int | None = None) -> Process:
        deadline = time.monotonic() + 20
        while not (self.run_dir / "keeper.json").exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.005)
        self.connections.append(Process(self.run_dir, address, pid))
        return self.connections[-1]

    def log(self) -> str:
        path = self.run_dir / "keeper.log"
        return path.read_text() if path.exists() else ""

    def wait(self, timeout_s: float = 20) -> int:
        return self.process.wait(timeout_s)

    def end(self) -> None:
        for connection in self.connections:
            connection.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    # Short, because of the socket in it.
    path = tmp_path / "u" / "r"
    path.mkdir(parents=True, mode=0o700)
    return path


@pytest.fixture
def start_keeper(run_dir: Path) -> Iterator[Callable[..., Keeper]]:
    keepers: list[Keeper] = []

    def start(run_dir: Path = run_dir, **options: Any) -> Keeper:
        keepers.append(Keeper(run_dir, **options))
        return keepers[-1]

    yield start
    for keeper in keepers:
        keeper.end()


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.server.name} {self.path}".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(port: int, name: str = "app") -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), App)
    server.name = name  # type: ignore[attr-defined]
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serve() -> Callable[..., Any]:
    return serving


def request(url: str, token: str | None = None) -> tuple[int, str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        headers = {"X-SynthTunnel-Worker-Token": token} if token else {}
        connection.request("GET", parts.path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.fixture
def get() -> Callable[..., tuple[int, str]]:
    return request


@pytest.fixture
def open_lease() -> Callable[[Process], Any]:
    """Returns the port and the lease of a process."""

    def open_lease(process: Process) -> Any:
        port = process.ask(ReservePort())
        assert isinstance(port, Port)
        lease = process.ask(OpenLease())
        assert not isinstance(lease, Failure), lease.message
        return port.port, lease

    return open_lease


@pytest.fixture
def hosted() -> Iterator[HostedBackend]:
    """A backend in another process, as far as the keeper is concerned."""
    with hosted_backend("sk_secret_of_this_test") as backend:
        yield backend


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system without room."""
    with full_file_system(tmp_path / "full") as path:
        yield path
