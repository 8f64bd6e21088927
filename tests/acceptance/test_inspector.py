"""The live inspector of real runs."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

import pytest

from ..support.inspector_world import Events
from .conftest import RuntimeDirectory

playwright_api = pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, expect, sync_playwright  # noqa: E402

CHROMIUM = which("chromium")

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium in the PATH"),
    pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent to a process group"),
]

SUITE = """
from urllib.request import Request, urlopen

import pytest

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

@pytest.fixture(scope="session", autouse=True)
def served(synth_serve):
    synth_serve(app)

def call(traffic, path):
    headers = {**traffic.headers, "X-Api-Key": "key-9b1d"}
    urlopen(Request(traffic.url(path), headers=headers), timeout=20).read()

@pytest.mark.parametrize("number", range(8))
def test_called(synth_traffic, number, worker_id):
    call(synth_traffic, f"/{worker_id}/{number}")

def test_fails(synth_traffic):
    call(synth_traffic, "/stopped")
    assert False, "look at it"
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Run:
    """A pytest run that goes on, in a process group of its own."""

    def __init__(self, pytester: pytest.Pytester, *arguments: str) -> None:
        self.process = pytester.popen(
            pytester._getpytestargs() + tuple(arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = b""

    def read_until(self, pattern: bytes) -> "re.Match[bytes]":
        """Return the match of a pattern in the output, once it is there."""
        assert self.process.stdout is not None
        while not (found := re.search(pattern, self.output)):
            data = os.read(self.process.stdout.fileno(), 65_536)
            assert data, self.output.decode()
            self.output += data
        return found

    def url(self) -> str:
        """Return the inspector's URL, once the run shows it."""
        return self.read_until(rb"synth tunnels inspector: (http://\S+)\n")[1].decode()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Wait for the end, with all of the output; return the exit status."""
        rest, _ = self.process.communicate(timeout=60)
        self.output += rest
        return self.process.returncode


@contextmanager
def running(pytester: pytest.Pytester, *arguments: str) -> Iterator[Run]:
    run = Run(pytester, *arguments)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGTERM)
            run.process.communicate()


def ask(url: str, path: str, method: str = "GET", body: str | None = None) -> Any:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request(method, parts.path + path, body, headers)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def records(url: str, wanted: Callable[[dict[int, Any]], bool]) -> dict[int, Any]:
    """Return what the page lists, once it is as wanted."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.request("GET", f"{parts.path}events")
        return Events(connection.getresponse()).until(wanted)
    finally:
        connection.close()


def command_lines_and_environments() -> bytes:
    """Return those of all of this user's processes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                found.append((process / name).read_bytes())
            except OSError:
                continue
    return b"\n".join(found)


def test_a_held_run_of_workers_shows_its_requests_until_ctrl_c(
    browser: Browser, pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile(test_shop=SUITE)
    options = ("-n", "4", "--junit-xml=junit.xml", "--synth-tunnels-report=report.html")

    with running(pytester, "--synth-tunnels-inspector=hold", *options) as run:
        url = run.url()
        page = browser.new_page()
        page.goto(url)
        found = records(
            url,
            lambda found: (
                len(found) == 9 and all(record["request"]["over"] for record in found.values())
            ),
        )
        run.read_until(rb"8 passed.*\n")
        run.read_until(rb"the inspector stays open until Ctrl-C")
        number = next(n for n, r in found.items() if "[3]" in r["test"])
        detail = ask(url, f"requests/{number}")
        secret = urlsplit(url).path.strip("/")
        assert secret.encode() not in command_lines_and_environments()
        logs = [path.read_text() for path in runtime.path.rglob("*.log")]
        expect(page.locator("[role=option]")).to_have_count(9)
        groups = page.locator(".row.group").all_inner_texts()
        run.interrupt()
        assert run.end() == pytest.ExitCode.TESTS_FAILED
        expect(page.locator("#state")).to_contain_text("the run has ended")
        page.close()

    runtime.assert_nothing_left()
    tests = {record["test"].partition("::")[2] for record in found.values()}
    assert tests == {*(f"test_called[{number}]" for number in range(8)), "test_fails"}
    assert sorted(groups) == sorted(
        f"{record['test']} — {record['worker']} (1)" for record in found.values()
    )
    workers = {record["worker"] for record in found.values()}
    assert len(workers) > 1
    assert workers <= {"gw0", "gw1", "gw2", "gw3"}
    for record in found.values():
        if "test_called" in record["test"]:
            assert record["request"]["path"].split("/")[1] == record["worker"]
    assert "key-9b1d" not in json.dumps(detail)
    assert ["X-Api-Key", "***"] in detail["request"]["headers"]
    assert run.output.count(secret.encode()) == 1
    files = [(pytester.path / name).read_text() for name in ("junit.xml", "report.html")]
    assert not [text for text in files + logs if secret in text]
    assert b"Traceback" not in run.output


def test_the_page_goes_on_while_pdb_waits(
    browser: Browser, pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile(test_shop=SUITE)

    with running(
        pytester, "-q", "--pdb", "--synth-tunnels-inspector", "test_shop.py::test_fails"
    ) as run:
        url = run.url()
        run.read_until(rb"\(Pdb\) ")
        page = browser.new_page()
        page.goto(url)
        page.get_by_text("/stopped").click()
        expect(page.locator("#detail h2")).to_have_text("GET /stopped")
        page.keyboard.press("e")
        page.get_by_role("dialog").get_by_label("Path").fill("/again")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#detail h2")).to_have_text("GET /again")
        replayed = page.locator("#detail").inner_text()
        page.close()
        run.process.stdin.write(b"q\n")  # type: ignore[union-attr]
        run.process.stdin.flush()  # type: ignore[union-attr]
        run.end()

    runtime.assert_nothing_left()
    assert "200 OK" in replayed
    assert "hello" in replayed


def test_a_run_that_needs_no_tunnel_shows_an_empty_page_and_says_nothing(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile("def test_nothing(): pass")

    result = pytester.runpytest_subprocess("--synth-tunnels-inspector")

    result.assert_outcomes(passed=1)
    assert result.stdout.str().count("synth tunnels inspector: http://127.0.0.1:") == 1
    runtime.assert_nothing_left()
    assert "released" not in result.stdout.str()
