"""Servers of every kind on the exposed port, one after the other."""

import sys

import pytest

from .conftest import RuntimeDirectory

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(sys.platform != "linux", reason="only there a port can be made free"),
]

SUITE = """
import socketserver, threading
from http.server import BaseHTTPRequestHandler
from urllib.request import Request, urlopen

import pytest

class App(BaseHTTPRequestHandler):
    # HTTP/1.0: the server closes each connection first, and is left with it in TIME_WAIT.
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.test_name.encode())

    def log_message(self, *_):
        pass

class Plain(socketserver.ThreadingTCPServer):
    allow_reuse_address = False
    daemon_threads = True

@pytest.fixture
def app(exposed_port, request):
    server = Plain(("127.0.0.1", exposed_port), App)
    server.test_name = request.node.name
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{exposed_port}/"
    server.shutdown()
    server.server_close()
    thread.join()

@pytest.mark.parametrize("n", range(6))
def test_a_server_of_its_own(app, synth_lease, n, request):
    for call in [Request(app), Request(synth_lease.url(), headers=synth_lease.headers)] * 3:
        with urlopen(call, timeout=20) as answer:
            assert answer.read().decode() == request.node.name
"""


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "n2"])
def test_a_server_without_reuse_of_addresses_in_each_test(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    pytester.makepyfile(SUITE)

    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=6)
    runtime.assert_nothing_left()


LIVE_SERVER = """
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from django.conf import settings

settings.configure(ALLOWED_HOSTS=["*"], DATABASES={}, ROOT_URLCONF=__name__, STATIC_URL="/static/")
urlpatterns = []

@pytest.mark.parametrize("n", range(3))
def test_live_server(exposed_port, synth_lease, n):
    # As pytest_django.live_server_helper.LiveServer does it.
    import django
    django.setup()
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.test.testcases import LiveServerThread
    thread = LiveServerThread("127.0.0.1", StaticFilesHandler, port=exposed_port)
    thread.daemon = True
    thread.start()
    assert thread.is_ready.wait(20)
    assert thread.error is None
    with pytest.raises(HTTPError, match="404"):
        urlopen(Request(synth_lease.url(), headers=synth_lease.headers), timeout=20)
    thread.terminate()
"""


def test_pytest_django_s_live_server(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(LIVE_SERVER)

    pytester.runpytest_subprocess().assert_outcomes(passed=3)
    runtime.assert_nothing_left()
