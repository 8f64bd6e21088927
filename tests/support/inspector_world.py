"""An inspector of a run whose requests a test writes by hand, and the app that they are sent to
again."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.inspector.server import Inspector
from pytest_synth_tunnels.keeper.traffic import RunTraffic
from pytest_synth_tunnels.traffic.place import Place, RecordedApp
from pytest_synth_tunnels.traffic.recorder import RecordedRequest

TOKEN = "wt_0123456789abcdef"
"""What opens the lease."""

LEASE_ID = "lease-1"

Headers = list[tuple[str, str]]


class Answer(NamedTuple):
    """What the inspector answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Seen(NamedTuple):
    """A request as the app got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class _Leases:
    """The run's leases, of which there is one (a ``LeaseRegistry``, as far as it is used)."""

    def __init__(self, agent: Agent) -> None:
        self._lease = SimpleNamespace(lease_id=LEASE_ID, targets=SimpleNamespace(agent=agent))

    def find(self, lease_id: str) -> Any:
        if lease_id != LEASE_ID:
            raise KeeperRequestError("UNKNOWN_LEASE", f"this run holds no lease {lease_id}")
        return self._lease

    def secrets(self) -> set[str]:
        return {TOKEN}


class InspectorWorld:
    """See :func:`inspector_world`.

    Attributes:
        url: of the page.
        traffic: what the inspector shows.
        seen: what the app got.
        app_has_begun: set once the app has got a request.
        hold: the app answers once this is set.
    """

    def __init__(self, body_bytes: int | None) -> None:
        self.url = ""
        self.seen: list[Seen] = []
        self.app_has_begun = threading.Event()
        self.hold = threading.Event()
        self.hold.set()
        self.traffic = RunTraffic(body_bytes)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._app = ThreadingHTTPServer(("127.0.0.1", 0), self._app_class())
        self._app.daemon_threads = True
        self._app.block_on_close = False
        self._app_thread = threading.Thread(target=self._app.serve_forever, args=(0.01,))
        self.app_url = f"http://127.0.0.1:{self._app.server_port}"
        self._agent: Agent
        self.inspector: Inspector

    def _app_class(self) -> type[BaseHTTPRequestHandler]:
        world = self

        class App(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                world.seen.append(Seen(self.command, self.path, dict(self.headers), body))
                world.app_has_begun.set()
                world.hold.wait(20)
                self.send_response(201)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: object) -> None:
                """Stay quiet."""

        return App

    # --- the loop

    def call(self, function: Callable[..., object], *arguments: object) -> Any:
        """Call a function, or a coroutine function, in the inspector's thread."""

        async def call() -> object:
            found = function(*arguments)
            return await found if asyncio.iscoroutine(found) else found

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(20)

    def start(self) -> None:
        self._thread.start()
        self._app_thread.start()
        self.call(self._prepare)

    def _prepare(self) -> None:
        self._agent = Agent()
        leases = self._agent.leases
        leases.serve(LEASE_ID, "http://127.0.0.1:9/s/rt_1")
        for address in ("t1", "t2"):
            leases.set_target(LEASE_ID, address, Target("127.0.0.1", self._app.server_port))
        registry: Any = _Leases(self._agent)
        self.inspector = Inspector(self.traffic, registry)

    def open(self) -> str:
        """Open the page and return its URL."""
        self.url = self.call(self.inspector.open, ["x-internal-*"])
        return self.url

    def end(self) -> None:
        """Have the run end."""
        self.call(self.inspector.aclose)

    def stop(self) -> None:
        self.hold.set()
        self.end()
        self.call(self._agent.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()
        self._app.shutdown()
        self._app.server_close()
        self._app_thread.join(20)

    # --- what comes

    def begin_test(self, name: str, worker: str = "", address: str = "t1") -> None:
        """Have an address belong to a test."""
        self.call(self.traffic.log.begin_test, Place(LEASE_ID, address), name, worker)

    def come(
        self,
        method: str = "POST",
        path: str = "/",
        body: bytes | str = b"",
        *,
        headers: Headers = [],  # noqa: B006 - nobody changes it
        status: int | None = 200,
        answer: bytes | str = b"",
        answer_headers: Headers = [],  # noqa: B006 - nobody changes it
        address: str = "t1",
        lease_id: str = LEASE_ID,
        took_s: float = 0.0,
    ) -> RecordedRequest:
        """Have a request come, and the app answer it unless ``status`` is ``None``."""
        recorder = self.traffic.recorder
        assert recorder is not None
        data, answered = (x.encode() if isinstance(x, str) else x for x in (body, answer))

        def come() -> RecordedRequest:
            fields = [("Host", "127.0.0.1:9"), *headers]
            if data:
                fields.append(("Content-Length", str(len(data))))
            head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields)
            app = RecordedApp(Place(lease_id, address), self.app_url)
            request = recorder.begin(app, head, recorder.now() - took_s)
            if data:
                request.take_body(data)
            request.end()
            request.reach()
            if status is not None:
                request.response_started(status, answer_headers)
                if answered:
                    request.response_body(answered)
                request.response_ended()
            return request

        found: RecordedRequest = self.call(come)
        return found

    def come_many(self, number: int, path: str = "/") -> None:
        """Have many requests come at once."""
        recorder = self.traffic.recorder
        assert recorder is not None

        def come() -> None:
            app = RecordedApp(Place(LEASE_ID, "t1"), self.app_url)
            for one in range(number):
                request = recorder.begin(app, f"GET {path}{one} HTTP/1.1\r\n", recorder.now())
                request.end()
                request.reach()
                request.response_started(200, [])
                request.response_ended()

        self.call(come)

    def open_websocket(self, path: str = "/ws", address: str = "t1") -> RecordedRequest:
        """Have a WebSocket open."""
        recorder = self.traffic.recorder
        assert recorder is not None

        def come() -> RecordedRequest:
            head = f"GET {path} HTTP/1.1\r\nUpgrade: websocket\r\n"
            request = recorder.begin(
                RecordedApp(Place(LEASE_ID, address), self.app_url), head, recorder.now()
            )
            request.websocket = True
            request.end()
            request.reach()
            request.opened(101, [("Upgrade", "websocket")])
            return request

        found: RecordedRequest = self.call(come)
        return found

    def say(self, request: RecordedRequest, sender: str, data: str | bytes) -> None:
        """Have a message pass a WebSocket."""
        raw = data.encode() if isinstance(data, str) else data
        is_text = isinstance(data, str)
        self.call(lambda: request.message(sender, raw, text=is_text, fin=True))

    # --- what a page asks

    def connection(self) -> http.client.HTTPConnection:
        url = urlsplit(self.url)
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=20)

    def ask(
        self,
        path: str = "",
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        full_path: str | None = None,
    ) -> Answer:
        """Ask the inspector.

        Args:
            path: below the page's URL.
            full_path: instead, from the root.
        """
        connection = self.connection()
        try:
            target = urlsplit(self.url).path + path if full_path is None else full_path
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())
        finally:
            connection.close()

    def replay(self, sequence: int, **edits: Any) -> Answer:
        """Have a request sent again."""
        content = {"Content-Type": "application/json"}
        body = json.dumps(edits).encode()
        return self.ask(f"requests/{sequence}/replay", "POST", body, content)

    @contextmanager
    def events(self) -> Iterator["Events"]:
        """Listen to the stream of events."""
        connection = self.connection()
        connection.request("GET", urlsplit(self.url).path + "events")
        answer = connection.getresponse()
        try:
            yield Events(answer)
        finally:
            answer.close()
            connection.close()


class Events:
    """A stream of server-sent events.

    Attributes:
        answer: its head.
    """

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer

    def next(self) -> tuple[str, Any]:
        """Return the next event's name and data."""
        found: dict[str, str] = {}
        while "data" not in found:
            line = self.answer.readline()
            assert line, "the stream has ended"
            name, _, value = line.decode().rstrip("\n").partition(": ")
            found[name] = value
        self.answer.readline()
        return found["event"], json.loads(found["data"])

    def until(self, wanted: Callable[[dict[int, Any]], bool]) -> dict[int, Any]:
        """Return the records by number, once they are as wanted."""
        records: dict[int, Any] = {}
        while not wanted(records):
            name, data = self.next()
            assert name == "records"
            records |= {record["request"]["sequence"]: record for record in data["records"]}
        return records


@contextmanager
def inspector_world(body_bytes: int | None = 100_000) -> Iterator[InspectorWorld]:
    """Run an inspector, not opened yet, and an app.

    Args:
        body_bytes: how much of each body is recorded; ``None`` to record nothing.
    """
    world = InspectorWorld(body_bytes)
    world.start()
    try:
        yield world
    finally:
        world.stop()
