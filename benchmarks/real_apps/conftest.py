"""Each test of this suite runs three times: the caller reaches the app directly, at the root of an
origin (the default of the embedded backend), and below a path (the form of a hosted relay)."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels import Lease

START_TIMEOUT_S = 90.0

WAYS = ("direct", "root", "path")


class Prefixed:
    """WSGI middleware for path style: the app's root is where the tunnel says it is."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ["SCRIPT_NAME"] = environ.get("HTTP_X_FORWARDED_PREFIX", "")
        return self._app(environ, start_response)


@pytest.fixture(params=WAYS)
def url(
    request: pytest.FixtureRequest,
    app: object,
    exposed_port: int,
    synth_lease: Lease,
    synth_expose: Callable[..., Any],
) -> Iterator[str]:
    """The app's URL, without a slash at its end."""
    if request.param == "direct":
        yield f"http://127.0.0.1:{exposed_port}"
    elif request.param == "root":
        yield synth_lease.public_url
    else:
        with synth_expose(exposed_port, url_style="path", host_header="public") as lease:
            yield lease.public_url


DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "frameworks.md"
BLOCK = re.compile(r"^```ini\n\[pytest\]\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BELOW_A_PATH = re.compile(r' --base \S+| --ServerApp\.base_url=\S+"| GRADIO_ROOT_PATH=\S+')
"""What the documented commands have at no root."""


class Documented:
    """A program's section of docs/how-to/frameworks.md: its command and its settings."""

    def __init__(self, program: str) -> None:
        blocks = BLOCK.findall(DOCUMENT.read_text("utf-8"))
        (block,) = (block for block in blocks if f" {program} " in block)
        settings = dict(line.split(" = ", 1) for line in block.splitlines())
        self._command = settings["synth_tunnels_command"]
        self._exposed = {
            "url_style": settings["synth_tunnels_url_style"],
            "strip_prefix": settings.get("synth_tunnels_strip_prefix") != "false",
            "host_header": settings.get("synth_tunnels_host_header"),
        }

    @contextmanager
    def running(
        self, request: pytest.FixtureRequest, folder: Path, **environment: str
    ) -> Iterator[str]:
        """Start it in a folder, as the request's parameter says; give its URL."""
        port = request.getfixturevalue("exposed_port")
        command = self._command
        if request.param == "path":
            url = request.getfixturevalue("synth_expose")(port, **self._exposed).public_url
        else:
            command = BELOW_A_PATH.sub("", command)
            direct = f"http://127.0.0.1:{port}"
            tunnelled = request.getfixturevalue("synth_lease").public_url
            url = direct if request.param == "direct" else tunnelled
        filled = command.replace("{port}", str(port)).replace("{public_url}", url)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        known = os.environ | {"PATH": path, "SYNTH_PUBLIC_URL": url, "NO_PROXY": "*"} | environment
        with running(*shlex.split(filled), port=port, cwd=folder, env=known):
            yield url


@contextmanager
def serving(server: Any) -> Iterator[None]:
    """Run a server of the standard library's kind in a thread."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join(10)


@contextmanager
def running(*command: str, port: int, **options: Any) -> Iterator[None]:
    """Run a program that serves a port."""
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            wait_for_port(port, process)
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)  # npx and sh have children
                    process.wait(10)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"{process.args} does not serve port {port}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each outcome for the table of ``real_apps.py``."""
    told = os.environ.get("REAL_APPS_REPORT")
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    if told and not in_worker and (report.when == "call" or report.outcome != "passed"):
        with open(told, "a") as file:
            file.write(json.dumps([report.nodeid.rpartition("/")[2], report.outcome]) + "\n")
