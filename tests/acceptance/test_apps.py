"""The servers that people use, served in each worker, by a command, and on a fixed port."""

import socket

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

CALLS = """
import os
from urllib.request import Request, urlopen

import pytest

@pytest.mark.parametrize("n", range(8))
def test_own_app_answers(synth_lease, app, n):
    with urlopen(Request(synth_lease.url(), headers=synth_lease.headers), timeout=20) as answer:
        assert answer.read() == f"{os.getpid()}".encode()
"""

UVICORN = """
import os, threading
import pytest, uvicorn

async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

@pytest.fixture(scope="session")
def app(exposed_port):
    config = uvicorn.Config(answer, port=exposed_port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield
    server.should_exit = True
    thread.join()
"""

FLASK = """
import os, threading
import pytest
from flask import Flask
from werkzeug.serving import make_server

flask = Flask(__name__)

@flask.get("/")
def answer():
    return str(os.getpid())

@pytest.fixture(scope="session")
def app(exposed_port):
    server = make_server("127.0.0.1", exposed_port, flask, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()
"""

DJANGO = """
import os
import django, pytest
from django.conf import settings

# Django's own check of Host stays on: the app must see the target's, not the relay's.
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], DATABASES={})
django.setup()

from django.http import HttpResponse
from django.test.testcases import LiveServerThread, _StaticFilesHandler
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse(str(os.getpid())))]

@pytest.fixture(scope="session")
def app(exposed_port):
    thread = LiveServerThread("127.0.0.1", _StaticFilesHandler, port=exposed_port)
    thread.start()
    thread.is_ready.wait(20)
    assert thread.error is None
    yield
    thread.terminate()
"""


@pytest.mark.parametrize("app", [UVICORN, FLASK, DJANGO], ids=["uvicorn", "flask", "django"])
def test_served_in_each_worker(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, app: str
) -> None:
    pytester.makeconftest(app)
    pytester.makepyfile(CALLS)

    pytester.runpytest_subprocess("-n", "4").assert_outcomes(passed=8)
    runtime.assert_nothing_left()


COMMAND = """
from urllib.request import Request, urlopen

import pytest

@pytest.fixture(scope="session")
def answer(synth_lease):
    with urlopen(Request(synth_lease.url(), headers=synth_lease.headers), timeout=20) as answer:
        return answer.read().decode()

@pytest.mark.parametrize("n", range(8))
def test_it(synth_lease, answer, n):
    started, token = answer.split()
    assert "~" not in synth_lease.public_url
    assert token == "from-the-user"
    print("started", started)
"""

SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class App(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        assert "SYNTH_API_KEY" not in os.environ
        self.wfile.write(f"{os.getpid()} {os.environ['FOR_THE_APP']}".encode())

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"""


@pytest.mark.parametrize("arguments", [[], ["-n", "4"]], ids=["plain", "n4"])
def test_started_once_by_a_command(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setenv("FOR_THE_APP", "from-the-user")
    monkeypatch.setenv("SYNTH_API_KEY", "sk-not-for-the-app")
    pytester.makepyfile(server=SERVER, test_command=COMMAND)
    pytester.makeini("[pytest]\nsynth_tunnels_command = python server.py {port}\n")

    result = pytester.runpytest_subprocess("-rP", *arguments)

    result.assert_outcomes(passed=8)
    assert len({line for line in result.outlines if line.startswith("started ")}) == 1
    runtime.assert_nothing_left()


def test_one_app_on_a_fixed_port(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pytester.makepyfile(
        f"""
        import os
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
        import threading
        from urllib.request import Request, urlopen

        import pytest

        class App(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"shared")

        @pytest.fixture(scope="session", autouse=True)
        def app(worker_id, synth_lease, exposed_port):
            assert exposed_port == {port}
            if worker_id == "gw0":
                server = ThreadingHTTPServer(("127.0.0.1", exposed_port), App)
                thread = threading.Thread(target=server.serve_forever)
                thread.start()
            synth_lease.wait_ready(20)
            yield
            if worker_id == "gw0":
                server.shutdown()
                server.server_close()
                thread.join()

        @pytest.mark.parametrize("n", range(4))
        def test_shared(synth_lease, n):
            call = Request(synth_lease.url(), headers=synth_lease.headers)
            with urlopen(call, timeout=20) as answer:
                assert answer.read() == b"shared"
        """
    )

    result = pytester.runpytest_subprocess("-n", "2", "--dist=each", f"--synth-tunnels-port={port}")
    result.assert_outcomes(passed=8)
    runtime.assert_nothing_left()
