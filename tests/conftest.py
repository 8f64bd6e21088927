"""A backend that records what it is asked, and servers that misbehave, on loopback; and what the
log tells of refusals."""

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import settings

from pytest_synth_tunnels.http import refusal_log

from .support.examples import examples
from .support.manual_loop import ManualLoop, Wire

settings.register_profile("tests", settings(), max_examples=examples(100), deadline=None)
settings.load_profile("tests")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it came over the wire: ``target`` is the raw path and query."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass(slots=True)
class Recorder:
    """A backend that answers what it is told: the next of ``answers``, else ``answer``."""

    url: str
    requests: list[Recorded] = field(default_factory=list)
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    def reply(self, status: int, body: object, **headers: str) -> None:
        """Answer this from now on; ``body`` is JSON unless it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = (status, {"content-type": "application/json"} | names, data)

    @property
    def last(self) -> Recorded:
        return self.requests[-1]


class _Server(ThreadingHTTPServer):
    block_on_close = False
    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def _recording() -> Iterator[Recorder]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body in one write

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self._record
            raise AttributeError(name)

        def _record(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            _, target, _ = self.requestline.split(" ")
            recorder.requests.append(Recorded(self.command, target, headers, body))
            answer = recorder.answers.pop(0) if recorder.answers else recorder.answer
            status, answer_headers, data = answer
            self.send_response(status)
            for item in {**answer_headers, "Content-Length": str(len(data))}.items():
                self.send_header(*item)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        recorder = Recorder(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A recording backend."""
    with _recording() as started:
        yield started


@contextmanager
def _raw(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            handle(self.request)

    class Server(socketserver.ThreadingTCPServer):
        block_on_close = False
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture
def raw_server() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Start a server that does as it likes with each connection; gives its URL."""
    with ExitStack() as stack:
        yield lambda handle: stack.enter_context(_raw(handle))


@pytest.fixture
def refusing_url() -> Iterator[str]:
    """The URL of a port where nobody listens, and which nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep coverage out of the processes that a test starts: it loads modules of its own, and
    takes time."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture
def refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[str]]:
    """Return the log's lines on what was refused in this test."""
    caplog.set_level(logging.INFO, logger=refusal_log.__name__)
    fresh = [refusal_log.FloodFilter(lambda: 0.0)]
    monkeypatch.setattr(logging.getLogger(refusal_log.__name__), "filters", fresh)
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == refusal_log.__name__
    ]


@pytest.fixture
def loop() -> ManualLoop:
    """A loop whose time the test moves."""
    return ManualLoop()


@pytest.fixture
def wire() -> Wire:
    """The transport of one connection."""
    return Wire()
