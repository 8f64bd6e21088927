"""The servers that people use, served in each worker, by a command, and on a fixed port."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from .conftest import RuntimeDirectory

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("unmeasured")]

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
settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], DATABASES={}, STATIC_URL="static/"
)
django.setup()

from django.http import HttpResponse
from django.core.servers.basehttp import ThreadedWSGIServer
from django.test.testcases import LiveServerThread, QuietWSGIRequestHandler, _StaticFilesHandler
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse(str(os.getpid())))]

class ServerThread(LiveServerThread):
    # Django's own asks for a port that nobody holds, and the keeper holds this one for us.
    def _create_server(self, connections_override=None):
        address = self.host, self.port
        return ThreadedWSGIServer(address, QuietWSGIRequestHandler, allow_reuse_address=True)

@pytest.fixture(scope="session")
def app(exposed_port):
    thread = ServerThread("127.0.0.1", _StaticFilesHandler, port=exposed_port)
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

    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=8)
    runtime.assert_nothing_left()


EXPOSED_BY_URL = (
    DJANGO[: DJANGO.index("class ServerThread")]
    + """
@pytest.fixture(scope="session")
def synth_lease(synth_expose):
    thread = LiveServerThread("localhost", _StaticFilesHandler, port=0)
    thread.start()
    thread.is_ready.wait(20)
    yield synth_expose(f"http://127.0.0.1:{thread.port}")
    thread.terminate()

@pytest.fixture
def app():
    pass
"""
)


def test_django_s_own_live_server(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeconftest(EXPOSED_BY_URL)
    pytester.makepyfile(CALLS)

    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=8)
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


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "n2"])
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


PRINTS_ITS_URL = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class App(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{sys.argv[2]} {os.environ['SYNTH_PUBLIC_URL']}".encode())

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"""

ASKS_FOR_ITS_URL = """
from urllib.request import Request, urlopen

def test_it(synth_lease):
    with urlopen(Request(synth_lease.url(), headers=synth_lease.headers), timeout=20) as answer:
        assert answer.read().decode() == f"{synth_lease.public_url} {synth_lease.public_url}"
"""


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "n2"])
def test_a_command_of_the_ini_file_runs_beside_it_and_knows_its_public_url(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    pytester.makepyfile(server=PRINTS_ITS_URL)
    pytester.makeini("[pytest]\nsynth_tunnels_command = python server.py {port} {public_url}\n")
    below = pytester.mkdir("below")
    (below / "test_below.py").write_text(ASKS_FOR_ITS_URL)
    pytester.chdir()
    os.chdir(below)

    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1)
    runtime.assert_nothing_left()


def test_a_command_of_the_command_line_runs_where_pytest_was_started(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makeini("[pytest]\n")
    below = pytester.mkdir("below")
    (below / "server.py").write_text(PRINTS_ITS_URL)
    (below / "test_below.py").write_text(ASKS_FOR_ITS_URL)
    os.chdir(below)

    command = "python server.py {port} {public_url}"
    pytester.runpytest_subprocess("--synth-tunnels-command", command).assert_outcomes(passed=1)
    runtime.assert_nothing_left()


SHARED = """
from urllib.request import Request, urlopen

import pytest

@pytest.mark.parametrize("n", range(4))
def test_shared(synth_lease, exposed_port, n):
    assert synth_lease.local_port == exposed_port
    with urlopen(Request(synth_lease.url(), headers=synth_lease.headers), timeout=20) as answer:
        assert answer.read() == b"shared by all"
"""


class Shared(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"shared by all")

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


def test_one_app_on_a_fixed_port(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(SHARED)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shared)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    result = pytester.runpytest_subprocess(
        "-n", "2", "--dist=each", f"--synth-tunnels-port={server.server_port}"
    )

    server.shutdown()
    server.server_close()
    thread.join()
    result.assert_outcomes(passed=8)
    runtime.assert_nothing_left()
