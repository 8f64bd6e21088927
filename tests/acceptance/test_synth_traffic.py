"""Suites that wait for what comes through their tunnels, in real runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import API_KEY, RuntimeDirectory

pytestmark = pytest.mark.acceptance

APP = """
import json, os, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = 500 if self.path.startswith("/fail") else 200
        answer = json.dumps({"pid": os.getpid(), "secret_answer": "hidden"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *_):
        pass

@pytest.fixture(scope="session")
def app(exposed_port):
    server = ThreadingHTTPServer(("127.0.0.1", exposed_port), App)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()

@pytest.fixture(scope="session")
def post():
    def post(url, headers, data=None, method="POST"):
        body = None if data is None else json.dumps(data).encode()
        headers = {**headers, "Content-Type": "application/json"}
        try:
            call = Request(url, data=body, headers=headers, method=method)
            with urlopen(call, timeout=20) as answer:
                answer.read()
                return answer.status
        except HTTPError as error:
            with error:
                return error.code
    return post
"""

TESTS = """
import json, os, threading
from pathlib import Path

import pytest
from pytest_synth_tunnels import match

def test_a_callback(synth_traffic, app, post):
    url, headers = synth_traffic.url("/hooks/paid?order=7"), synth_traffic.headers
    caller = threading.Timer(0.1, post, (url, headers, {"status": "paid", "amount": 5}))
    caller.start()
    call = synth_traffic.wait_for("POST", "/hooks/*", json={"status": "paid"}, timeout_s=20)
    caller.join()
    assert call.query["order"] == "7"
    assert call.answered_by == "app"
    assert call.response.json()["pid"] == os.getpid()
    assert call.response.duration_s > 0
    assert all(token not in str(call.to_data()) for token in headers.values())
    synth_traffic.assert_count(1)
    synth_traffic.assert_none("GET")
    assert call.replay().response.status == 200
    assert len(synth_traffic.requests) == 2

def test_only_its_own(synth_traffic, app, post):
    assert synth_traffic.requests == []
    with synth_traffic.expect("POST", times=2, timeout_s=20) as expected:
        post(synth_traffic.url("/a"), synth_traffic.headers, {"n": 1})
        post(synth_traffic.url("/b"), synth_traffic.headers, {"n": 2})
    assert [request.json()["n"] for request in expected.requests] == [1, 2]
    assert synth_traffic.refusals == []

def test_the_order(synth_traffic, app, post):
    for path in ("/a", "/x", "/b"):
        post(synth_traffic.url(path), synth_traffic.headers)
    first, second = synth_traffic.wait_for_all([match(path="/a"), match(path="/b")], timeout_s=20)
    assert (first.path, second.path) == ("/a", "/b")

def test_what_the_tunnel_answers_itself(synth_traffic, app, post):
    assert post(synth_traffic.url("/a"), {}) == 401
    assert synth_traffic.requests == []
    (refusal,) = synth_traffic.refusals
    assert refusal.error.startswith("TUNNEL_AUTH_REQUIRED")
    with pytest.raises(AssertionError, match="TUNNEL_AUTH_REQUIRED"):
        synth_traffic.wait_for("POST", timeout_s=0)

def test_the_lease_itself(synth_traffic, synth_lease, app, post):
    post(synth_lease.url("/of-lease"), synth_lease.headers)
    with pytest.raises(AssertionError, match="include_lease=True"):
        synth_traffic.wait_for("POST", "/of-lease", timeout_s=0)
    assert synth_traffic.wait_for("POST", "/of-lease", include_lease=True, timeout_s=20)
    assert "/of-lease" in [request.path for request in synth_traffic.requests_of_lease]

def test_a_lease_of_its_own(synth_expose, exposed_port, app, post):
    with synth_expose(exposed_port) as lease:
        post(lease.url("/a"), lease.headers, {"n": 1})
        assert lease.traffic.wait_for("POST", "/a", timeout_s=20).json() == {"n": 1}
        assert lease.traffic is lease.traffic
        lease.traffic.assert_count(1)

def test_an_inbox(synth_inbox, post):
    synth_inbox.respond("POST", "/busy/**", status=503, json={"retry": True}, times=1)
    assert post(synth_inbox.url("/busy/now"), synth_inbox.headers, {"n": 1}) == 503
    assert post(synth_inbox.url("/busy/now"), synth_inbox.headers, {"n": 2}) == 200
    first, second = synth_inbox.wait_for_all([match("POST"), match("POST")], timeout_s=20)
    assert (first.response.status, second.json()) == (503, {"n": 2})
    assert first.response.json() == {"retry": True}
"""


@pytest.mark.parametrize("arguments", [[], ["-n", "2"], ["-p", "no:xdist"]], ids=" ".join)
@pytest.mark.parametrize("style", ["root", "path"])
def test_a_suite(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, style: str, arguments: list[str]
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("--synth-tunnels-url-style", style, "-v", *arguments)
    result.assert_outcomes(passed=7)
    assert "after the test" not in result.stdout.str()
    runtime.assert_nothing_left()


@pytest.mark.parametrize("provider", ["ngrok", "cloudflared"])
def test_other_providers(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, provider: str
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(TESTS)
    # Their callers need no token.
    chosen = ["-k", "not answers_itself"]
    result = pytester.runpytest_subprocess("--synth-tunnels-provider", provider, *chosen)
    result.assert_outcomes(passed=6, deselected=1)
    runtime.assert_nothing_left()


@pytest.mark.usefixtures("hosted")
def test_a_hosted_backend(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(TESTS)
    # A hosted relay keeps what it answers itself to itself.
    result = pytester.runpytest_subprocess("-k", "not answers_itself", "-n", "2")
    result.assert_outcomes(passed=6)
    runtime.assert_nothing_left()


def test_a_hosted_backend_of_another_make(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(TESTS)
    monkeypatch.setenv("SYNTH_API_KEY", API_KEY)
    monkeypatch.setenv("XDG_STATE_HOME", str(pytester.path / "state"))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.standins.foreign_backend"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    ) as backend:
        assert backend.stdout is not None
        try:
            url = json.loads(backend.stdout.readline())["backend_url"]
            monkeypatch.setenv("SYNTH_BACKEND_URL", url)
            result = pytester.runpytest_subprocess("-k", "not answers_itself", "-n", "2")
        finally:
            backend.terminate()
    result.assert_outcomes(passed=6)
    runtime.assert_nothing_left()


def test_an_application_that_an_option_serves(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makeini("[pytest]\nsynth_tunnels_app = shop:app\npythonpath = .")
    pytester.makepyfile(
        shop="""
        def app(environ, start_response):
            start_response("204 No Content", [])
            return []
        """,
        test_shop="""
        from urllib.request import Request, urlopen

        def test_first(synth_traffic):
            call = Request(synth_traffic.url("/a"), data=b"x", headers=synth_traffic.headers)
            assert urlopen(call, timeout=20).status == 204
            assert synth_traffic.wait_for("POST").response.status == 204
        """,
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    runtime.assert_nothing_left()


FAILING = """
import pytest

KEY = "hid" + "den"

def test_failing(synth_traffic, app, post):
    headers = {**synth_traffic.headers, "Authorization": f"Basic {KEY}"}
    post(synth_traffic.url(f"/fail/now?token={KEY}"), headers, {"password": KEY, "id": "shown"})
    post(synth_traffic.url("/fine"), headers)
    post(synth_traffic.url("/no-token"), {})
    synth_traffic.wait_for("POST", "/fail/later", json={"id": "other"}, timeout_s=0.1)

def test_failing_with_the_lease(synth_lease, app, post):
    assert post(synth_lease.url("/fail/lease"), synth_lease.headers) == 200

def test_failing_without_any(synth_lease):
    assert False

def test_passing(synth_traffic, app, post):
    post(synth_traffic.url("/fail/passing"), synth_traffic.headers)
"""


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=" ".join)
def test_the_report_of_a_failing_test(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess("--junitxml=junit.xml", "-rA", *arguments)
    result.assert_outcomes(passed=1, failed=3)
    report = result.stdout.str()
    assert report.count("synth tunnel traffic") == 2
    result.stdout.fnmatch_lines_random(
        [
            "*AssertionError: no request matched match('POST', '/fail/later', *",
            "*path: expected '/fail/later', got '/fail/now'",
            "*POST /fail/now[?]token=[*][*][*]  500*by the app",
            '    it sent: {"password": "[*][*][*]", "id": "shown"}',
            "    curl *Authorization: Basic [*][*][*]*",
            "*POST /fine  200*by the app",
            "*POST /no-token  401*by the tunnel: TUNNEL_AUTH_REQUIRED*",
            "*POST /fail/lease  500*by the app",
        ]
    )
    assert "hidden" not in report
    assert "hidden" not in (pytester.path / "junit.xml").read_text()
    assert "/fail/passing" not in report
    runtime.assert_nothing_left()


def test_what_a_plugin_takes_for_keys(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeconftest(
        APP
        + """
from dataclasses import replace

def pytest_synth_tunnels_settings(config, settings):
    return replace(settings, traffic_masked=("x-internal-*",))
"""
    )
    pytester.makepyfile(
        """
        def test_failing(synth_traffic, app, post):
            headers = {**synth_traffic.headers, "X-Internal-Id": "masked-value", "X-Id": "shown"}
            post(synth_traffic.url("/fail"), headers)
            assert synth_traffic.requests[0].headers["x-internal-id"].startswith("masked-")
            raise ValueError
        """
    )
    result = pytester.runpytest_subprocess("--show-capture=all")
    result.assert_outcomes(failed=1)
    (section,) = result.stdout.str().split("synth tunnel traffic")[1:]
    assert "masked-value" not in section
    assert "X-Id: shown" in section
    runtime.assert_nothing_left()


def test_bad_input(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(
        """
        import asyncio, os, signal
        from pathlib import Path
        import pytest
        from pytest_synth_tunnels import KeeperError

        def test_no_app(synth_traffic):
            synth_traffic.wait_for("POST", timeout_s=0.1)

        def test_in_a_loop(synth_inbox):
            async def main():
                synth_inbox.wait_for("POST")
            asyncio.run(main())

        def test_a_keeper_that_died(synth_inbox):
            (log,) = Path(os.environ["XDG_RUNTIME_DIR"]).rglob("keeper.json")
            import json
            os.kill(json.loads(log.read_text())["pid"], signal.SIGKILL)
            synth_inbox.wait_for("POST", timeout_s=30)
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "E *no app is running: nothing accepts connections at http://127.0.0.1:*",
            "E *RuntimeError: this would block the running event loop*wait_for_async here",
            "E *KeeperError: the tunnel keeper of this run is gone*",
        ]
    )


def test_nothing_is_recorded(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(
        """
        def test_traffic(synth_traffic):
            pass

        def test_lease(synth_lease, app, post):
            assert post(synth_lease.url("/fail"), synth_lease.headers) == 200
        """
    )
    result = pytester.runpytest_subprocess("--synth-tunnels-traffic=false")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["this run records no traffic. Leave out synth_tunnels_traffic = false"]
    )
    assert "synth tunnel traffic" not in result.stdout.str()
    runtime.assert_nothing_left()


SENDER = """
import json, sys, threading, time, urllib.request

def send(call):
    time.sleep(call["delay_s"])
    request = urllib.request.Request(
        call["url"], data=json.dumps(call["data"]).encode(), headers=call["headers"]
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()

threads = []
for line in sys.stdin:
    threads.append(threading.Thread(target=send, args=(json.loads(line),)))
    threads[-1].start()
for thread in threads:
    thread.join()
"""

CALLBACKS = """
import json, random, subprocess, sys
from pathlib import Path

import pytest
from pytest_synth_tunnels import match

@pytest.fixture(scope="session")
def call_back(pytestconfig):
    # Another process, which the run waits for: what comes after the run can be told nowhere.
    sender = subprocess.Popen(
        [sys.executable, str(pytestconfig.rootpath / "sender.py")], stdin=subprocess.PIPE, text=True
    )
    def call_back(traffic, test, name, delay_s):
        call = {"url": traffic.url("/" + name), "headers": dict(traffic.headers)}
        call |= {"data": {"test": test, "name": name}, "delay_s": delay_s}
        sender.stdin.write(json.dumps(call) + "\\n")
        sender.stdin.flush()
    yield call_back
    sender.stdin.close()
    assert sender.wait(120) == 0

def note(config, **seen):
    with open(config.rootpath / "seen.txt", "a") as file:
        file.write(json.dumps(seen) + "\\n")

@pytest.mark.parametrize("number", range(TESTS))
def test_callbacks(synth_traffic, call_back, pytestconfig, APP_FIXTURE number):
    delays = random.Random(number)
    for name in ("first", "second", "third"):
        call_back(synth_traffic, number, name, delays.uniform(0, 0.3))
    matchers = [match("POST", json={"name": name}) for name in ("first", "second")]
    found = synth_traffic.wait_for_all(matchers, ordered=False, timeout_s=60)
    requests = synth_traffic.requests
    assert {request.json()["test"] for request in [*found, *requests]} == {number}
    assert all(request.response.status == 200 for request in found)
    note(pytestconfig, requests=len(requests))
"""


@pytest.mark.parametrize("app", ["own", "command"])
def test_callbacks_of_many_tests(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, app: str
) -> None:
    """No test sees another one's callbacks, none is lost, and the late ones are told.

    ``CALLBACK_TESTS`` says how many tests there are; with 200 eight workers run them.
    """
    number = int(os.environ.get("CALLBACK_TESTS", "12"))
    workers = 8 if number >= 100 else 2
    arguments = ["-n", str(workers), "--dist", "load", "-q"]
    pytester.makeconftest(APP)
    (pytester.path / "sender.py").write_text(SENDER)
    tests = CALLBACKS.replace("TESTS", str(number))
    if app == "own":
        tests = tests.replace("APP_FIXTURE", "app,")
    else:
        tests = tests.replace("APP_FIXTURE", "")
        (pytester.path / "app.py").write_text(
            APP.partition("@pytest.fixture")[0]
            + "import sys\n"
            + "ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), App).serve_forever()\n"
        )
        arguments.append(f"--synth-tunnels-command={sys.executable} app.py {{port}}")
    pytester.makepyfile(test_callbacks=tests)
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=number)
    seen = sum(
        int(found)
        for found in re.findall(r'"requests": (\d+)', (pytester.path / "seen.txt").read_text())
    )
    output = result.stdout.str()
    late = len(re.findall(r"test_callbacks\[\d+\]: POST /\w+ came [\d.]+ s after", output))
    more = re.search(r"and (\d+) more came after their tests", output)
    late += int(more[1]) if more else 0
    # What came while a test was ending was seen by no call, and was not late.
    assert 3 * number - max(2, number // 20) <= seen + late <= 3 * number
    assert late > 0
    assert "no longer recorded" not in output
    runtime.assert_nothing_left()
