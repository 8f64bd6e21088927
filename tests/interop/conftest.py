"""The published clients, each in a virtual environment of its own.

They need what this project must not depend on. The environments are made once and kept: in
``SYNTH_TUNNELS_INTEROP_DIR`` where that is set, else in pytest's cache.
"""

import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock

CLIENTS = Path(__file__).parent / "clients"
INSTALL_TIMEOUT_S = 540
# Read now: tests run with such variables removed.
KEPT_IN = os.environ.get("SYNTH_TUNNELS_INTEROP_DIR")
IN_CI = os.environ.get("CI") == "true"
"""Nothing that the tests talk to may be missing."""

UNREACHABLE = ("connection broken by", "Could not fetch URL", "Temporary failure in name")
"""What pip says where it cannot reach its index, and only then."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Allow for an installation in whichever test comes first."""
    for item in items:
        if item.get_closest_marker("interop") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )


def python_with(kept_in: Path, *requirements: str) -> Path:
    """Return the interpreter of an environment that has the requirements, making it if needed."""
    version = ".".join(map(str, sys.version_info[:2]))
    home = kept_in / f"{requirements[0].replace('==', '-')}-py{version}"
    windows = sys.platform == "win32"
    python = home / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")
    complete = home / "complete"
    wanted = " ".join(requirements)
    kept_in.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock", timeout=INSTALL_TIMEOUT_S):
        is_made = complete.exists() and complete.read_text() == wanted
        if is_made and run(python, "-c", "").returncode == 0:
            return python
        shutil.rmtree(home, ignore_errors=True)
        # Our own pip installs there, where there is one: to install another takes seconds.
        has_pip = importlib.util.find_spec("pip") is not None
        made = run(sys.executable, "-m", "venv", *(["--without-pip"] if has_pip else []), home)
        assert made.returncode == 0, made.stdout
        target: list[str | Path] = ["--python", python] if has_pip else []
        installed = run(
            *(sys.executable if has_pip else python, "-m", "pip", *target),
            *("install", "--quiet", "--no-input", "--no-compile"),
            *("--disable-pip-version-check", "--retries", "2", "--timeout", "30"),
            *requirements,
        )
        if installed.returncode != 0:
            if not IN_CI and any(words in installed.stdout for words in UNREACHABLE):
                pytest.skip(f"{requirements[0]} cannot be installed: PyPI cannot be reached")
            pytest.fail(f"{requirements[0]} cannot be installed:\n{installed.stdout}")
        complete.write_text(wanted)
    return python


@pytest.fixture(scope="session")
def python_of(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Give the interpreter of an environment with these requirements."""
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    if KEPT_IN:
        kept_in = Path(KEPT_IN)
    elif cache is not None:
        kept_in = cache.mkdir("interop")
    else:  # -p no:cacheprovider
        kept_in = tmp_path_factory.mktemp("interop")
    return lambda *requirements: python_with(kept_in, *requirements)


@pytest.fixture(scope="session")
def synth_ai_python(python_of: Callable[..., Path]) -> Path:
    """The interpreter of an environment with the published client."""
    return python_of("synth-ai==0.16.1")


@pytest.fixture(scope="session")
def synth_containers_python(python_of: Callable[..., Path]) -> Path:
    """The interpreter of an environment with the published agent."""
    return python_of("synth-containers==0.4.6", "websockets")


@pytest.fixture(scope="session")
def standalone_backend() -> Iterator[dict[str, str]]:
    """The embedded backend in a process of its own: what its first line says."""
    environment = {name: value for name, value in os.environ.items() if name != "SYNTH_API_KEY"}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest_synth_tunnels.backend", "--port", "0"],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()


class Tunnel:
    """A lease, the process whose agent serves it, and a caller's view of it."""

    def __init__(self, process: subprocess.Popen[str], backend: dict[str, str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the agent did not attach"
        self.lease: dict[str, str] = json.loads(line)
        self.process = process
        self._backend = backend

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.lease["public_url"]).netloc, timeout=20)

    def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        token: str | None = None,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self.connect()
        try:
            shown = {"Authorization": f"Bearer {token or self.lease['worker_token']}"}
            path = urlsplit(self.lease["public_url"]).path
            connection.request(method, path + target, body, shown | (headers or {}))
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        connection = self.connect()
        try:
            connection.request(
                "GET",
                f"/api/v1/synthtunnel/leases/{self.lease['lease_id']}",
                headers={"Authorization": f"Bearer {self._backend['api_key']}"},
            )
            found: dict[str, Any] = json.load(connection.getresponse())
            return found
        finally:
            connection.close()


@contextmanager
def agent_process(
    kind: str, request: pytest.FixtureRequest, backend: dict[str, str], app: str
) -> Iterator[Tunnel]:
    """Run an agent; it leaves in order unless the test has ended it."""
    if kind == "published":
        command = [request.getfixturevalue("synth_containers_python"), "-I"]
    else:
        command = [sys.executable]
    with subprocess.Popen(
        [
            *command,
            CLIENTS / f"{kind}_agent.py",
            backend["backend_url"],
            backend["api_key"],
            app,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Tunnel(process, backend)
        finally:
            process.kill()
