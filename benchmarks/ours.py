"""This project's own ways: the default inside the keeper, and agents over WebSocket."""

import hashlib
import json
import shutil
import tempfile
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cache import REPOSITORY, Cache, child_environment
from load import Endpoint
from peers import AGENTS, Peer
from processes import BenchmarkError, Process, Processes, poll

__all__ = [
    "Embedded",
    "EmbeddedCompiled",
    "EmbeddedCompiledUnrecorded",
    "EmbeddedCompiledUvloop",
    "EmbeddedUnrecorded",
    "EmbeddedUvloop",
    "OwnAgent",
    "OwnAgentCompiled",
    "OwnAgentCompiledUvloop",
    "OwnAgentUvloop",
    "PublishedAgent",
    "RustAgent",
    "project_python",
]

_SUITE = AGENTS / "lease_in_use.py"


def project_python(cache: Cache, *others: str, compiled: bool = False) -> Path:
    """Return the interpreter of an environment that has this project and what it needs.

    Args:
        cache: where the environment is.
        others: packages that are there too.
        compiled: have the data path compiled.
    """
    if compiled:
        stamp = _sources_hash()
        name = "-".join(("project", "compiled", *others))
        return cache.python(name, str(cache.compiled_wheel(stamp)), *others, stamp=stamp)
    stamp = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes()).hexdigest()
    name = "-".join(("project", *others))
    return cache.python(name, "-e", str(REPOSITORY), *others, stamp=stamp)


def _sources_hash() -> str:
    files = [REPOSITORY / "pyproject.toml", REPOSITORY / "hatch_build.py"]
    files += sorted((REPOSITORY / "pytest_synth_tunnels").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class Embedded(Peer):
    """A real pytest run with ``synth_lease``, and the keeper that it starts."""

    name = "ours, embedded"
    lacks = ""
    _others: tuple[str, ...] = ()
    _compiled = False
    _records = True

    def find(self, cache: Cache) -> None:
        """Install this project."""
        self._python = project_python(cache, *self._others, compiled=self._compiled)

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Make a folder for the run."""
        super().prepare(processes, app)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-run-")
        # A copy, since pytest puts the folders of a suite and its conftests before what is
        # installed: the repository's own package would be measured instead of the compiled one.
        shutil.copy(_SUITE, self._folder.name)
        self.keeper_pid = 0
        self.took_s = 0.0
        """From the fixture to the first 200."""

    def open(self) -> Endpoint:
        """Start pytest, and wait for its lease."""
        self._client = self._pytest("test_tunnel_in_use")
        about = self._client.json_line()
        self.took_s = about["took_s"]
        (run_file,) = Path(self._folder.name).glob("synth-tunnels*/*/keeper.json")
        self.keeper_pid = json.loads(run_file.read_text())["pid"]
        form = "(compiled)" if self._compiled else "(pure Python)"
        if form not in run_file.with_name("keeper.log").read_text():
            raise BenchmarkError(f"this is not the form that is wanted: {form}")
        url = urlsplit(about["url"])
        return Endpoint(url.port or 80, url.path, about["headers"])

    def close(self) -> None:
        """End pytest, and see that its keeper ends too."""
        super().close()
        if self.keeper_pid:
            status = Path(f"/proc/{self.keeper_pid}")
            self.keeper_pid = 0
            poll(lambda: not status.exists(), "the keeper did not end", 15.0)

    def pids(self) -> list[int]:
        """Return the keeper alone: pytest carries nothing."""
        return [self.keeper_pid] if self.keeper_pid else []

    def from_nothing_s(self) -> float:
        """Return the time from the fixture to the first 200 where no keeper runs yet."""
        pytest = self._pytest("test_tunnel_from_nothing")
        try:
            took_s: float = pytest.json_line()["took_s"]
            return took_s
        finally:
            self._processes.stop(pytest)

    def _pytest(self, test: str) -> Process:
        folder = self._folder.name
        return self._processes.start(
            *(self._python, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"),
            *("--rootdir", folder, "-c", "/dev/null"),
            *("--synth-tunnels-port", str(self._app.port), f"{_SUITE.name}::{test}"),
            env=child_environment(
                XDG_RUNTIME_DIR=folder, SYNTH_TUNNELS_TRAFFIC=str(self._records).lower()
            ),
            cwd=folder,
            polite=True,
        )


class EmbeddedUvloop(Embedded):
    """The same where uvloop is installed."""

    name = "ours, embedded, uvloop"
    _others = ("uvloop",)


class EmbeddedCompiled(Embedded):
    """The same with a compiled data path."""

    name = "ours, embedded, compiled"
    _compiled = True


class EmbeddedCompiledUvloop(EmbeddedUvloop):
    """The same with both."""

    name = "ours, embedded, compiled, uvloop"
    _compiled = True


class EmbeddedUnrecorded(Embedded):
    """The pure one, without recording traffic."""

    name = "ours, embedded, recording off"
    _records = False


class EmbeddedCompiledUnrecorded(EmbeddedCompiledUvloop):
    """The compiled one on uvloop, without recording traffic."""

    name = "ours, embedded, compiled, uvloop, recording off"
    _records = False


class OwnAgent(Peer):
    """The embedded backend on its own, and this project's agent over WebSocket."""

    name = "ours, WebSocket"
    lacks = ""
    _script = "own_agent.py"
    _others: tuple[str, ...] = ()
    _compiled = False

    def find(self, cache: Cache) -> None:
        """Install this project."""
        python = project_python(cache, *self._others, compiled=self._compiled)
        self._relay_python = self._agent_python = python

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Start the backend."""
        super().prepare(processes, app)
        self._server = processes.start(
            *(self._relay_python, "-m", "pytest_synth_tunnels.backend", "--port", "0"),
            env=child_environment(),
        )
        about = self._server.json_line()
        self._url, self._key = urlsplit(about["backend_url"]), about["api_key"]

    def open(self) -> Endpoint:
        """Take a lease and start the agent."""
        lease = self._lease()
        self._client = self._processes.start(
            self._agent_python, AGENTS / self._script, env=child_environment()
        )
        self._client.tell({"lease": lease, "port": self._app.port})
        url = urlsplit(lease["public_url"])
        headers = {"X-SynthTunnel-Worker-Token": lease["worker_token"]}
        return Endpoint(url.port or 80, url.path, headers)

    def _lease(self) -> Any:
        body = {
            "client_instance_id": "client-benchmark",
            "local_target": {"host": "127.0.0.1", "port": self._app.port},
            "requested_ttl_seconds": 3600,
            "metadata": {},
            "capabilities": {"max_inflight": 1024},
        }
        connection = HTTPConnection(self._url.netloc, timeout=10)
        try:
            connection.request(
                "POST",
                "/api/v1/synthtunnel/leases",
                json.dumps(body),
                {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            if answer.status != 201:
                raise BenchmarkError(f"no lease: {answer.status} {answer.read()[:200]!r}")
            return json.loads(answer.read())
        finally:
            connection.close()


class OwnAgentUvloop(OwnAgent):
    """The same where uvloop is installed, at both ends."""

    name = "ours, WebSocket, uvloop"
    _others = ("uvloop",)


class OwnAgentCompiled(OwnAgent):
    """The same with a compiled data path at both ends."""

    name = "ours, WebSocket, compiled"
    _compiled = True


class OwnAgentCompiledUvloop(OwnAgentUvloop):
    """The same with both, at both ends."""

    name = "ours, WebSocket, compiled, uvloop"
    _compiled = True


class RustAgent(OwnAgent):
    """synth-ai 0.9.11's Rust agent on this project's relay."""

    name = "synth-ai's Rust agent, our relay"
    lacks = "request bodies are collected before the app sees them; at most 256 requests at a time"
    _script = "rust_agent.py"

    def find(self, cache: Cache) -> None:
        """Install both; the agent is a compiled module that needs none of its dependencies."""
        super().find(cache)
        self._agent_python = cache.python("synth-ai-0.9.11", "synth-ai==0.9.11", dependencies=False)


class PublishedAgent(OwnAgent):
    """synth-containers' agent on this project's relay."""

    name = "synth-containers' agent, our relay"
    lacks = "bodies are collected, each way"
    _script = "containers_agent.py"

    def find(self, cache: Cache) -> None:
        """Install both."""
        super().find(cache)
        self._agent_python = cache.python(
            "synth-containers-0.4.6", "synth-containers==0.4.6", "websockets"
        )
