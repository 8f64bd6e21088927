"""Served applications, by uvicorn and by waitress, called over loopback."""

import asyncio
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import urlopen

import pytest

from pytest_synth_tunnels.listener import listen
from pytest_synth_tunnels.serving import AppServers, ServeError, Server
from pytest_synth_tunnels.serving import server as server_module

Serve = Callable[..., Server]


class AsgiApp:
    """Answers with a name and the path; notes its lifespan."""

    def __init__(self, name: str = "app", fails_with: BaseException | None = None) -> None:
        self.name = name
        self.fails_with = fails_with
        self.lifespan: list[str] = []
        self.thread: threading.Thread | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                self.lifespan.append(message["type"])
                if self.fails_with is not None:
                    await send({"type": "lifespan.startup.failed", "message": "told"})
                    raise self.fails_with
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        self.thread = threading.current_thread()
        await self.answer(scope, send)

    async def answer(self, scope: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = f"{self.name} {scope['path']}".encode()
        await send({"type": "http.response.body", "body": body})


def wsgi_app(name: str = "app") -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{name} {environ['PATH_INFO']}".encode()]

    return app


KINDS: dict[str, Callable[[str], Any]] = {"asgi": AsgiApp, "wsgi": wsgi_app}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def make(request: pytest.FixtureRequest) -> Any:
    """Make an application with a name, of each kind."""
    return request.param


@pytest.fixture
def servers() -> Iterator[AppServers]:
    with listen(0) as found:
        port = found.getsockname()[1]
    made = AppServers(root_path="/", start_timeout_s=20, exposed_port=lambda: port)
    yield made
    made.stop()


@pytest.fixture
def serve(servers: AppServers) -> Serve:
    return servers.serve


def get(server: Server, path: str = "/") -> str:
    with urlopen(server.url + path, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def test_an_app_answers_until_it_is_stopped(serve: Serve, make: Any) -> None:
    server = serve(make("shop"))
    assert get(server, "/paid") == "shop /paid"
    assert repr(server) == f"<Server {server.app} http://127.0.0.1:{server.port}>"

    server.stop()
    server.stop()

    with pytest.raises(OSError, match="refused"):
        get(server)


def test_one_app_after_the_other_on_the_exposed_port(serve: Serve, make: Any) -> None:
    ports = set()
    for number in range(5):
        with serve(make(f"app{number}")) as server:
            ports.add(server.port)
            assert get(server) == f"app{number} /"

    assert len(ports) == 1


def test_two_apps_at_the_same_time(serve: Serve, make: Any) -> None:
    one, other = serve(make("one")), serve(make("other"), port=0)

    assert one.port != other.port
    assert (get(one), get(other)) == ("one /", "other /")


def test_what_nobody_stopped_is_stopped_in_the_end(servers: AppServers, make: Any) -> None:
    threads = threading.active_count()
    running = [servers.serve(make("app"), port=0) for _ in range(3)]

    servers.stop()

    for server in running:
        with pytest.raises(OSError, match="refused"):
            get(server)
    assert threading.active_count() <= threads + 8 * len(running), "idle threads of waitress"


def test_many_callers_at_once(serve: Serve, make: Any) -> None:
    server = serve(make("app"))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: get(server, f"/{number}"), range(100)))

    assert answers == [f"app /{number}" for number in range(100)]


def test_apps_are_started_from_several_threads(serve: Serve, make: Any) -> None:
    with ThreadPoolExecutor(4) as threads:
        running = list(threads.map(lambda number: serve(make(str(number)), port=0), range(4)))

    assert [get(server) for server in running] == [f"{number} /" for number in range(4)]


def test_it_is_the_test_s_own_object_in_a_thread(serve: Serve) -> None:
    app = AsgiApp()

    get(serve(app))

    assert app.thread is not None
    assert app.thread.daemon
    assert app.thread.name.startswith("synth_serve ")


def test_lifespan_events_run(serve: Serve) -> None:
    app = AsgiApp()

    with serve(app) as server:
        assert app.lifespan == ["lifespan.startup"]
        get(server)

    assert app.lifespan == ["lifespan.startup", "lifespan.shutdown"]


def test_an_app_without_lifespan_is_served(serve: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await AsgiApp().answer(scope, send)

    assert get(serve(app)) == "app /"


def test_an_older_asgi_app_is_served(serve: Serve) -> None:
    def app(scope: Any) -> Any:
        async def instance(receive: Any, send: Any) -> None:
            await AsgiApp()(scope, receive, send)

        return instance

    assert get(serve(app)) == "app /"


def test_a_start_up_that_fails_shows_the_app_s_own_exception(serve: Serve) -> None:
    failure = OSError("no database")

    with pytest.raises(ServeError, match="did not start: OSError: no database") as caught:
        serve(AsgiApp(fails_with=failure))

    assert caught.value.__cause__ is failure
    assert caught.value.code == "SERVE_START_FAILED"
    assert get(serve(AsgiApp())) == "app /", "the port is free again"


def test_a_start_up_that_is_refused_without_an_exception(serve: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no licence"})

    with pytest.raises(ServeError, match=r"app: no licence$"):
        serve(app)


def test_a_start_up_that_hangs_is_not_waited_for() -> None:
    release = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(release.wait, 30)

    servers = AppServers(root_path="/", start_timeout_s=0.2, exposed_port=lambda: 0)
    try:
        with pytest.raises(ServeError, match=r"did not start within 0.2 s") as caught:
            servers.serve(app)
    finally:
        release.set()

    assert caught.value.code == "SERVE_START_TIMEOUT"


class Waits:
    """Notes what is waited for; the first time, it lets the application go on."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float] | str] = []
        self.go_on = threading.Event()

    def waiting_for(self, what: str, waited_s: float) -> None:
        self.told.append((what, waited_s))
        self.go_on.set()

    def over(self) -> None:
        self.told.append("over")


def test_a_start_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_TICK_S", 0.05)
    waits = Waits()

    class SlowApp(AsgiApp):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            waits.go_on.wait(20)
            await super().__call__(scope, receive, send)

    servers = AppServers(root_path="/", start_timeout_s=20, exposed_port=lambda: 0, waits=waits)
    with servers.serve(SlowApp()) as server:
        assert waits.told[0] == (f"{server.app} to start", 0.05)
        assert waits.told[-1] == "over"


def test_a_start_that_is_told_has_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_TICK_S", 0.05)
    waits = Waits()
    ended = threading.Event()

    class HangingApp(AsgiApp):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            ended.wait(20)

    servers = AppServers(root_path="/", start_timeout_s=0.12, exposed_port=lambda: 0, waits=waits)
    with pytest.raises(ServeError) as caught:
        servers.serve(HangingApp())
    ended.set()
    assert caught.value.code == "SERVE_START_TIMEOUT"
    assert len(waits.told) == 3
    assert waits.told[-1] == "over"


def test_the_exposed_port_serves_one_app(serve: Serve, make: Any) -> None:
    first = serve(make("first"))

    with pytest.raises(ServeError, match=r"cannot listen on .*in use.*is being served") as caught:
        serve(make("second"))
    assert caught.value.code == "SERVE_PORT_TAKEN"
    assert first.app in caught.value.hint
    assert get(first) == "first /"

    first.stop()
    assert get(serve(make("second"))) == "second /"


def test_a_port_that_another_socket_has(serve: Serve, make: Any) -> None:
    with listen(0) as other, pytest.raises(ServeError, match="Another socket listens there"):
        serve(make("app"), port=other.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 65_536, "8000", 80.0, True])
def test_a_port_is_a_number(serve: Serve, make: Any, port: Any) -> None:
    with pytest.raises(ValueError, match="port must be a port"):
        serve(make("app"), port=port)


@pytest.mark.parametrize(("kind", "library"), [("asgi", "uvicorn"), ("wsgi", "waitress")])
def test_a_library_that_is_missing_is_one_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, kind: str, library: str
) -> None:
    monkeypatch.delitem(sys.modules, f"pytest_synth_tunnels.serving.{library}_runner", False)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(ServeError, match=f"{library}, which serves it, is not installed") as caught:
        serve(KINDS[kind]("app"))

    assert "pip install 'pytest-synth-tunnels[serve]'" in caught.value.hint
    assert caught.value.code == "SERVE_EXTRA_MISSING"


def test_it_starts_and_serves_while_sockets_are_blocked(
    serve: Serve, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guard(socket.socket):
        def __new__(cls, *_: object, **__: object) -> "Guard":
            raise RuntimeError("blocked")

    real = socket.socket
    monkeypatch.setattr(socket, "socket", Guard)
    server = serve(make("app"))
    caller = real()
    caller.connect(("127.0.0.1", server.port))
    with caller:
        caller.settimeout(20)
        caller.sendall(b"GET /x HTTP/1.0\r\n\r\n")
        answer = b""
        while data := caller.recv(4096):
            answer += data
    server.stop()

    assert b"app /x" in answer


def test_its_clock_goes_on_while_time_is_frozen(serve: Serve, make: Any) -> None:
    freezegun = pytest.importorskip("freezegun")

    with freezegun.freeze_time("2001-02-03"):
        with serve(make("app")) as server:
            assert get(server) == "app /"
        assert time.time() == 981_158_400


def test_what_the_app_logs_is_captured(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        logging.getLogger("shop").warning("paid %s", environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b""]

    get(serve(app), "/42")

    assert "paid /42" in caplog.text


def test_a_wsgi_app_sees_the_headers_of_a_proxy(serve: Serve) -> None:
    from urllib.request import Request

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [environ["HTTP_X_FORWARDED_PREFIX"].encode()]

    server = serve(app)
    call = Request(server.url, headers={"X-Forwarded-Prefix": "/~gw1"})
    with urlopen(call, timeout=20) as answer:
        assert answer.read() == b"/~gw1"


class Slow:
    """An application, of both kinds, that answers when it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.begun.set()
        await asyncio.to_thread(self.release.wait, 30)
        await AsgiApp().answer(scope, send)

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        self.begun.set()
        self.release.wait(30)
        return wsgi_app()(environ, start_response)


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.release.set()


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_request_that_is_being_answered_may_end(serve: Serve, slow: Slow, kind: str) -> None:
    server = serve(getattr(slow, kind))
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(get, server, "/slow")
        assert slow.begun.wait(20)
        stopping = threads.submit(server.stop)
        # The port is closed first.
        while True:
            try:
                socket.create_connection(("127.0.0.1", server.port), 20).close()
            except OSError:
                break
        slow.release.set()
        assert call.result(20) == "app /slow"
        stopping.result(20)


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_an_app_that_hangs_is_named_and_left_behind(
    serve: Serve, slow: Slow, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("waitress_runner", "uvicorn_runner"):
        monkeypatch.setattr(f"pytest_synth_tunnels.serving.{module}.GRACE_S", 0.2)
    monkeypatch.setattr(server_module, "STOP_TIMEOUT_S", 1.0)
    server = serve(getattr(slow, kind))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(get, server, "/hang")
        assert slow.begun.wait(20)

        told = r"Slow\.\w+ has not ended 1 s after .* while it was answering GET /hang"
        with pytest.warns(pytest.PytestWarning, match=told):
            server.stop()

        assert get(serve(KINDS[kind]("next"))) == "next /", "its port is free"
        slow.release.set()
        assert call.exception(20) is not None


def test_a_request_that_is_cut_off_is_named(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.serving.uvicorn_runner.GRACE_S", 0.2)
    begun = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        begun.set()
        await asyncio.Event().wait()

    server = serve(app)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(get, server, "/hang")
        assert begun.wait(20)

        told = r"app was cut off .* after it was stopped while it was answering GET /hang"
        with pytest.warns(pytest.PytestWarning, match=told):
            server.stop()

        assert call.exception(20) is not None


def test_stopped_apps_are_forgotten(servers: AppServers, make: Any) -> None:
    for number in range(3):
        servers.serve(make(str(number))).stop()
    with servers.serve(make("last")) as server:
        assert servers._servers == [server]


def test_an_app_can_stop_its_own_server(serve: Serve) -> None:
    class App(AsgiApp):
        async def answer(self, scope: Any, send: Any) -> None:
            server.stop()
            await super().answer(scope, send)

    server = serve(App())

    assert get(server) == "app /"
