"""What goes wrong is told once, clearly and in time, and leaves nothing behind."""

import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from .conftest import API_KEY, CountingBackend, RuntimeDirectory

pytestmark = pytest.mark.acceptance

USES_LEASE = """
import pytest

@pytest.mark.parametrize("n", range(4))
def test_uses_it(synth_lease, n):
    pass
"""


@pytest.fixture
def user_suite(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> pytest.Pytester:
    pytester.makepyfile(USES_LEASE)
    return pytester


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "n2"])
def test_wrong_key(
    user_suite: pytest.Pytester,
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", "sk-wrong-9876543210")

    result = user_suite.runpytest_subprocess(*arguments)

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([f"*{hosted.url}*401*SYNTH_API_KEY*"])
    result.stdout.no_fnmatch_line("*sk-wrong*")
    assert hosted.creates == 1
    runtime.assert_nothing_left()


def test_unreachable_backend(
    user_suite: pytest.Pytester, runtime: RuntimeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("SYNTH_API_KEY", API_KEY)

    result = user_suite.runpytest_subprocess(f"--synth-tunnels-backend={url}")

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([f"*{url}*refused*"])
    runtime.assert_nothing_left()


@pytest.fixture
def odd_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that is no backend."""
    answer: bytes = request.param

    class Odd(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(201)
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_DELETE = do_POST  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "odd_backend", [b"<html>hello</html>", b"", b"[]", b"{}"], indirect=True, ids=repr
)
def test_a_server_that_is_no_backend(
    user_suite: pytest.Pytester,
    runtime: RuntimeDirectory,
    monkeypatch: pytest.MonkeyPatch,
    odd_backend: str,
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", API_KEY)

    result = user_suite.runpytest_subprocess(f"--synth-tunnels-backend={odd_backend}")

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([f"*{odd_backend}*"])
    runtime.assert_nothing_left()


def test_hosted_without_a_key(user_suite: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    result = user_suite.runpytest_subprocess("--synth-tunnels-backend=hosted")

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(["*SYNTH_API_KEY*"])
    runtime.assert_nothing_left()


def test_a_key_is_not_sent_in_the_clear(
    user_suite: pytest.Pytester, runtime: RuntimeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", API_KEY)

    result = user_suite.runpytest_subprocess("--synth-tunnels-backend=http://192.0.2.1")

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(["*https*"])
    runtime.assert_nothing_left()


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "n2"])
def test_a_wrong_option_ends_the_run_at_its_start(
    user_suite: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    result = user_suite.runpytest_subprocess("--synth-tunnels-port=99999", *arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *--synth-tunnels-port is '99999': it must be a port*"])
    runtime.assert_nothing_left()


def test_a_runtime_directory_that_is_open_to_others(
    user_suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    for directory in (runtime.path / "synth-tunnels-0", runtime.path / "synth-tunnels-1000"):
        directory.mkdir(mode=0o755)
    user_directory = next(iter(runtime.path.glob("synth-tunnels-*")))

    result = user_suite.runpytest_subprocess()

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([f"*{user_directory.parent}*is open to others*Remove it*"])
    runtime.assert_no_process()


COMMAND_ERRORS = {
    "exits": ("python -c 'print(\"no such app\"); raise SystemExit(3)'", ["3", "no such app"]),
    "missing": ("no-such-program-anywhere {port}", ["no-such-program-anywhere"]),
    "hangs": ("python -c 'import time; time.sleep(60)'", ["within 1 s"]),
}


@pytest.mark.parametrize(("command", "complaint"), COMMAND_ERRORS.values(), ids=COMMAND_ERRORS)
def test_a_command_that_does_not_serve(
    user_suite: pytest.Pytester, runtime: RuntimeDirectory, command: str, complaint: list[str]
) -> None:
    result = user_suite.runpytest_subprocess(
        f"--synth-tunnels-command={command}", "--synth-tunnels-command-timeout-s=1"
    )

    result.assert_outcomes(errors=4)
    assert _words_in_order(result, complaint)
    runtime.assert_nothing_left()


def _words_in_order(result: pytest.RunResult, words: list[str]) -> bool:
    return re.search(".*".join(map(re.escape, words)), result.stdout.str(), re.DOTALL) is not None


def test_a_command_whose_port_is_taken(
    user_suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = user_suite.runpytest_subprocess(
            "--synth-tunnels-command=python -m http.server {port}", f"--synth-tunnels-port={port}"
        )

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([f"*{port}*in use*"])
    runtime.assert_nothing_left()


def test_a_socket_on_a_port_that_is_taken(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile("def test_it(exposed_socket): pass")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = pytester.runpytest_subprocess(f"--synth-tunnels-port={port}")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"exposed_socket cannot listen on 127.0.0.1:{port}*"])
    runtime.assert_nothing_left()


APPS = """
import json, socket, threading
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from http.client import IncompleteRead

import pytest

def call(lease):
    return urlopen(Request(lease.url(), headers=lease.headers), timeout=20)

def refusal(lease):
    with pytest.raises(HTTPError) as caught:
        call(lease)
    with caught.value as answer:
        return answer.status, json.load(answer)

def serve_once(listener, answer, hold=None):
    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            if hold is not None:
                hold.wait(20)
    thread = threading.Thread(target=serve)
    thread.start()
    return thread

def test_app_not_up(synth_expose, exposed_port):
    with synth_expose(exposed_port) as lease:
        status, body = refusal(lease)
    assert status == 502
    assert body["code"] == "TUNNEL_ENDPOINT_UNREACHABLE"
    assert f"127.0.0.1:{exposed_port}" in body["message"] + body["detail"]

def test_app_hangs(synth_lease, exposed_socket):
    done = threading.Event()
    thread = serve_once(exposed_socket, b"", done)
    status, body = refusal(synth_lease)
    done.set()
    thread.join()
    assert (status, body["code"]) == (504, "TUNNEL_TIMEOUT")

def test_app_closes_at_once(synth_lease, exposed_socket):
    thread = serve_once(exposed_socket, b"")
    status, body = refusal(synth_lease)
    thread.join()
    assert (status, body["code"]) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")

@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_app_closes_mid_response(synth_lease, exposed_socket, framing):
    head = b"HTTP/1.1 200 OK\\r\\n" + framing + b"\\r\\n\\r\\n"
    thread = serve_once(exposed_socket, head + b"5\\r\\nhello\\r\\n")
    with call(synth_lease) as answer, pytest.raises((IncompleteRead, ConnectionResetError)):
        answer.read()
    thread.join()

def test_app_talks_nonsense(synth_lease, exposed_socket):
    thread = serve_once(exposed_socket, b"SSH-2.0-OpenSSH_9.2\\r\\n")
    assert refusal(synth_lease)[0] == 502
    thread.join()
"""


def test_apps_that_misbehave(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(APPS)

    result = pytester.runpytest_subprocess("--synth-tunnels-request-timeout-s=7")

    result.assert_outcomes(passed=6)
    runtime.assert_nothing_left()
