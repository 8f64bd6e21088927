"""Much traffic: large bodies in little memory, and many requests at once."""

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

APP = """
import hashlib, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SIZE = 100 << 20
BLOCK = bytes(range(256)) * 1024

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        for _ in range(SIZE // len(BLOCK)):
            self.wfile.write(BLOCK)

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while left:
            data = self.rfile.read(min(left, 1 << 18))
            left -= len(data)
            digest.update(data)
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 256

@pytest.fixture(scope="session", autouse=True)
def app(exposed_port):
    server = Server(("127.0.0.1", exposed_port), App)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()
"""

LARGE_BODIES = """
import hashlib, json, os, pathlib
from http.client import HTTPConnection
from urllib.parse import urlsplit

from conftest import BLOCK, SIZE

def keeper_peak_mib():
    (run_file,) = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]).rglob("keeper.json")
    status = pathlib.Path(f"/proc/{json.loads(run_file.read_text())['pid']}/status").read_text()
    (peak,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak.split()[1]) / 1024

def request(lease, method, body=None):
    url = urlsplit(lease.url("/"))
    connection = HTTPConnection(url.netloc, timeout=60)
    headers = dict(lease.headers)
    if body is not None:
        headers["Content-Length"] = str(SIZE)
    connection.request(method, url.path, body, headers)
    return connection, connection.getresponse()

def test_down(synth_lease):
    connection, answer = request(synth_lease, "GET")
    count = 0
    while block := answer.read(len(BLOCK)):
        assert block == BLOCK
        count += 1
    connection.close()
    assert count == SIZE // len(BLOCK)
    assert keeper_peak_mib() < 100

def test_up(synth_lease):
    blocks = SIZE // len(BLOCK)
    connection, answer = request(synth_lease, "POST", (BLOCK for _ in range(blocks)))
    digest = answer.read().decode()
    connection.close()
    assert digest == hashlib.sha256(BLOCK * blocks).hexdigest()
    assert keeper_peak_mib() < 100

def test_down_to_a_caller_that_does_not_read(synth_lease):
    stalled, _ = request(synth_lease, "GET")
    test_up(synth_lease)
    stalled.close()
    assert keeper_peak_mib() < 100
"""

AT_ONCE = """
import hashlib
from concurrent.futures import ThreadPoolExecutor

import httpx

def test_200_at_once(synth_lease):
    bodies = [f"body {n} ".encode() * (n + 1) for n in range(200)]
    headers = dict(synth_lease.headers)
    url = synth_lease.url("/")
    with httpx.Client(limits=httpx.Limits(max_connections=200), timeout=60) as client:
        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda b: client.post(url, content=b, headers=headers), bodies))
    assert [answer.status_code for answer in answers] == [200] * 200
    assert [a.text for a in answers] == [hashlib.sha256(body).hexdigest() for body in bodies]
"""


def test_large_bodies(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(LARGE_BODIES)

    pytester.runpytest_subprocess("--import-mode=prepend").assert_outcomes(passed=3)
    runtime.assert_nothing_left()


def test_many_at_once(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(AT_ONCE)

    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    runtime.assert_nothing_left()
