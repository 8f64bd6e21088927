"""What is sent through a tunnel, and how it is timed."""

import re
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cache import tool
from processes import BenchmarkError

__all__ = ["Endpoint", "Load", "ask", "bulk_down", "bulk_up", "free_port", "wrk"]

_POST = Path(__file__).with_name("post.lua")
_PIECE = bytes(1 << 20)
_REQUESTS = re.compile(r"(\d+) requests in ([\d.]+)(\w+)")
_UNIT_S = {"ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Endpoint:
    """Where a caller reaches the app."""

    port: int
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, method: str, path: str, *more: str) -> bytes:
        """Return the head of a request."""
        headers = {"Host": f"127.0.0.1:{self.port}", **self.headers}
        lines = [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join((f"{method} {self.path}{path} HTTP/1.1", *lines, *more, "", "")).encode()

    def connect(self, timeout_s: float) -> socket.socket:
        """Return a new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)


@dataclass(frozen=True)
class Load:
    """What wrk did."""

    requests: int
    took_s: float
    failed: int
    """Answers that were no 200, and connections that broke."""

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return self.requests / self.took_s


def wrk(
    endpoint: Endpoint,
    *,
    post: bool,
    connections: int,
    duration_s: int,
    once: bool = False,
    path: str = "/",
) -> Load:
    """Send as many requests as are answered.

    Args:
        endpoint: where to.
        post: send 1 KiB with nine headers, instead of a GET.
        connections: how many are open at the same time.
        duration_s: for how long, in seconds.
        once: open a connection for each request, instead of keeping them.
        path: of the app, where it is not ``once``.

    Raises:
        BenchmarkError: nothing was answered.
    """
    command = [tool("wrk"), "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "5s"]
    if post:
        command += ["-s", str(_POST)]
    headers = {**endpoint.headers, **({"Connection": "close"} if once else {})}
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    target = f"{endpoint.path}{'/once' if once else path}"
    command.append(f"http://127.0.0.1:{endpoint.port}{target}")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=duration_s + 30, check=False
    )
    found = _REQUESTS.search(done.stdout)
    if done.returncode != 0 or found is None or found[1] == "0":
        raise BenchmarkError(f"wrk got no answer: {(done.stderr or done.stdout).strip()[-200:]}")
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+)", done.stdout)
    lost = sum(map(int, errors.groups())) if errors else 0
    return Load(
        requests=int(found[1]),
        took_s=float(found[2]) * _UNIT_S[found[3]],
        failed=(int(failed[1]) if failed else 0) + lost,
    )


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(endpoint: Endpoint, timeout_s: float = 5.0) -> int:
    """Return the status of one GET, or 0 where there is no whole answer."""
    try:
        with endpoint.connect(timeout_s) as connection:
            connection.sendall(endpoint.head("GET", "/", "Connection: close"))
            status, length, body = _answer_head(connection)
            if status == 200:
                _read(connection, length - len(body))
            return status
    except (OSError, BenchmarkError):
        return 0


def bulk_down(endpoint: Endpoint, size: int, timeout_s: float) -> float:
    """Return how long the app's answer of ``size`` bytes takes, in seconds."""
    with endpoint.connect(timeout_s) as connection:
        started = time.perf_counter()
        connection.sendall(endpoint.head("GET", f"/bytes/{size}"))
        status, length, body = _answer_head(connection)
        if status != 200:
            raise BenchmarkError(f"status {status}")
        if length < 0:  # chunked, with a few bytes more for each chunk
            length = size
        _read(connection, length - len(body), ends_at=started + timeout_s)
        return time.perf_counter() - started


def bulk_up(endpoint: Endpoint, size: int, timeout_s: float) -> float:
    """Return how long it takes until the app has taken ``size`` bytes and answered, in seconds."""
    with endpoint.connect(timeout_s) as connection:
        started = time.perf_counter()
        connection.sendall(endpoint.head("POST", "/", f"Content-Length: {size}"))
        left = size
        try:
            while left:
                connection.sendall(_PIECE[:left])
                left -= min(left, len(_PIECE))
                if time.perf_counter() - started > timeout_s:
                    raise BenchmarkError(f"not done within {timeout_s:g} s")
        except ConnectionError:
            pass  # it has answered already, or it is gone
        status, _, _ = _answer_head(connection)
        if status != 200 or left:
            raise BenchmarkError(f"status {status} after {(size - left) >> 20} MiB")
        return time.perf_counter() - started


def _answer_head(connection: socket.socket) -> tuple[int, int, bytes]:
    """Return status, length (-1 where it is not told) and what came of the body already."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise BenchmarkError("the connection ended without an answer")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length:\s*(\d+)", head, re.IGNORECASE)
    return int(head.split(b" ", 2)[1]), int(length[1]) if length else -1, body


def _read(connection: socket.socket, left: int, ends_at: float = float("inf")) -> None:
    buffer = bytearray(1 << 20)
    while left > 0:
        count = connection.recv_into(buffer)
        if not count:
            raise BenchmarkError(f"the answer ended {left} bytes early")
        left -= count
        if time.perf_counter() > ends_at:
            raise BenchmarkError("too slow")
