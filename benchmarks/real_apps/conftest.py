"""Each test of this suite runs three times: the caller reaches the app directly, at the root of an
origin (the default of the embedded backend), and below a path (the form of a hosted relay)."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_synth_tunnels import Lease

START_TIMEOUT_S = 90.0


class Prefixed:
    """WSGI middleware for path style: the app's root is where the tunnel says it is."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ["SCRIPT_NAME"] = environ.get("HTTP_X_FORWARDED_PREFIX", "")
        return self._app(environ, start_response)


@pytest.fixture(params=["direct", "root", "path"])
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


@pytest.fixture(params=["direct", "root", "path"])
def url_before_app(
    request: pytest.FixtureRequest,
    exposed_port: int,
    synth_lease: Lease,
    synth_expose: Callable[..., Any],
) -> Iterator[str]:
    """The same for an app that has to know its base path when it starts, and wants to see it."""
    if request.param == "direct":
        yield f"http://127.0.0.1:{exposed_port}"
    elif request.param == "root":
        yield synth_lease.public_url
    else:
        with synth_expose(
            exposed_port, url_style="path", strip_prefix=False, host_header="public"
        ) as lease:
            yield lease.public_url


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
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


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
