"""Send mixed traffic through a tunnel for a while, and see that nothing grows.

    python benchmarks/soak.py [--duration-s 600] [--interval-s 20] [--callers 32]

A backend and its agents (in memory and over WebSocket) run in a process of their own. Callers ask,
upload, download, stream, talk on WebSockets, leave in the middle, show wrong tokens and send
nonsense; agents lose their links; leases come and go. At every interval all of them pause, and
once it is quiet the process tells its memory, objects, blocks, descriptors and tasks. The exit code
is 1 if any of those has grown, if an answer was wrong, or if too little of the traffic came
through.
"""

import argparse
import asyncio
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from processes import Process, Processes
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, WebSocketException

SUBJECT = Path(__file__).parent / "agents" / "soaked.py"
PIECE = bytes(range(256)) * 256
WARM_UP = 0.25
"""The part of the samples that do not count: caches fill, and the allocator takes its share."""
MAY_GROW_KIB = 6 * 1024
"""Leases that are over stay in the backend's history for a while, a few KiB each."""
MAY_GROW_OBJECTS = 300
"""Those that the garbage collector knows, which tell a leak of a few bytes from the allocator's."""
MAY_GROW_BLOCKS = 6_000
"""Pieces of memory that the interpreter has given out. They tell a leak of what the garbage
collector does not know, such as bytes that compiled code does not let go: one in each request would
be ten times as many in ten minutes."""
MAY_GROW_DESCRIPTORS = 2
MAY_GROW_TASKS = 1
MIN_SAMPLES = 3
"""That count; with fewer nothing can be said."""
NEEDED_SAMPLES = 6
"""The warm-up's included."""
SUCCESS = {
    **dict.fromkeys(("get", "post", "upload", "download", "stream"), "200"),
    "talk": "talked",
    "leave": "left",
    "stranger": "401",
    "nonsense": "refused",
}
"""What comes of each kind of traffic where nothing disturbs it."""
MIN_SHARE = 0.9
"""Of each kind: a lost link costs what is under way on it."""
MAY_MISS = 2
"""Of a kind that came so seldom that a lost link's share is too large."""
QUIET_S = 10.0
"""For everything that is under way to come to its end."""


@dataclass
class Sample:
    """What the process uses at a quiet moment."""

    at_s: float
    memory_kib: int
    objects: int
    blocks: int
    descriptors: int
    tasks: int
    under_way: int

    def __str__(self) -> str:
        return (
            f"{self.at_s:7.1f} s {self.memory_kib / 1024:8.1f} MiB {self.objects:7d} objects"
            f" {self.blocks:8d} blocks"
            f" {self.descriptors:5d} descriptors {self.tasks:4d} tasks"
            f" {self.under_way:3d} under way"
        )


@dataclass
class Soak:
    """The traffic and what became of it."""

    process: Process
    leases: list[dict[str, Any]]
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    going: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, **command: Any) -> Any:
        """Have the process do something; return its answer."""
        self.process.tell(command)
        return self.process.json_line()

    async def traffic(self) -> None:
        """Be one caller, until cancelled; pause between requests where that is asked for."""
        kinds: list[Callable[[dict[str, Any]], Awaitable[str]]] = [
            *([self.get] * 6 + [self.post] * 4),
            *(self.upload, self.download, self.stream, self.leave, self.talk),
            *(self.stranger, self.nonsense),
        ]
        while True:
            await self.going.wait()
            kind = self.dice.choice(kinds)
            try:
                async with asyncio.timeout(60):
                    outcome = await kind(self.dice.choice(self.leases))
            except (OSError, asyncio.IncompleteReadError, WebSocketException):
                outcome = "interrupted"
            except TimeoutError:
                outcome = "hung"
                self.wrong.append(f"{kind.__name__} has no end")
            self.outcomes[f"{kind.__name__}: {outcome}"] += 1

    async def get(self, lease: dict[str, Any]) -> str:
        """Ask a few times on one connection."""
        connection = await Connection.to(lease)
        try:
            for _ in range(self.dice.randrange(1, 10)):
                word = f"{self.dice.getrandbits(64):x}"
                status, body = await connection.ask("GET", f"/echo/{word}")
                if status != 200:
                    return str(status)
                self.expect(body == f"/echo/{word}".encode(), "an answer is another's")
            return "200"
        finally:
            connection.close()

    async def post(self, lease: dict[str, Any]) -> str:
        """Send a small body."""
        return await self._send(lease, f"{self.dice.getrandbits(64):x}".encode() * 20)

    async def upload(self, lease: dict[str, Any]) -> str:
        """Send a large one."""
        return await self._send(lease, self.dice.randbytes(1000) * 1500)

    async def _send(self, lease: dict[str, Any], data: bytes) -> str:
        connection = await Connection.to(lease)
        try:
            status, body = await connection.ask("POST", "/back", data)
            self.expect(status != 200 or body == data, "a body came back changed")
            return str(status)
        finally:
            connection.close()

    async def download(self, lease: dict[str, Any]) -> str:
        """Take a large body, slowly at first."""
        connection = await Connection.to(lease)
        try:
            await connection.send("GET", "/large")
            await asyncio.sleep(self.dice.random() * 0.05)
            status, body = await connection.answer()
            self.expect(status != 200 or len(body) == 32 * len(PIECE), "a body is short")
            return str(status)
        finally:
            connection.close()

    async def stream(self, lease: dict[str, Any]) -> str:
        """Take a body that comes in pieces."""
        connection = await Connection.to(lease)
        try:
            status, body = await connection.ask("GET", "/events")
            self.expect(status != 200 or body == b"event\n" * 5, "an event is lost")
            return str(status)
        finally:
            connection.close()

    async def leave(self, lease: dict[str, Any]) -> str:
        """Go away in the middle."""
        connection = await Connection.to(lease)
        try:
            await connection.send(*self.dice.choice([("GET", "/large"), ("POST", "/hang", PIECE)]))
            await asyncio.sleep(self.dice.random() * 0.05)
            return "left"
        finally:
            connection.close(abort=self.dice.random() < 0.5)

    async def talk(self, lease: dict[str, Any]) -> str:
        """Talk on a WebSocket."""
        url = lease["socket_url"].replace("http://", "ws://") + "/"
        headers = {"X-SynthTunnel-Worker-Token": lease["socket_token"]}
        async with connect(
            url, additional_headers=headers, compression=None, proxy=None, close_timeout=5
        ) as peer:
            for size in (10, 1000, 200_000):
                said = self.dice.choice(["x" * size, b"x" * size])
                await peer.send(said)
                self.expect(await peer.recv() == said, "a message is another's")
        return "talked"

    async def stranger(self, lease: dict[str, Any]) -> str:
        """Show a wrong token."""
        connection = await Connection.to({**lease, "worker_token": "wt_wrong"})
        try:
            status, _ = await connection.ask("GET", "/echo/x")
            self.expect(status == 401, "a wrong token was taken")
            return str(status)
        finally:
            connection.close()

    async def nonsense(self, lease: dict[str, Any]) -> str:
        """Send what is not quite HTTP."""
        connection = await Connection.to(lease)
        try:
            data = self.dice.choice([b"\x16\x03\x01", b"GET /\n\n", b"POST / HTTP/1.1\r\nX", b"\0"])
            connection.writer.write(data + self.dice.randbytes(50) + b"\r\n\r\n")
            await connection.reader.read()
            return "refused"
        finally:
            connection.close()

    def expect(self, condition: bool, otherwise: str) -> None:
        """Note what is wrong."""
        if not condition:
            self.wrong.append(otherwise)

    async def disturb(self) -> None:
        """Lose links, and have leases come and go, until cancelled."""
        while True:
            await self.going.wait()
            await asyncio.sleep(0.5)
            self.tell(do=self.dice.choice(["lose a link", "turn a lease over"]))

    async def sample(self, started: float) -> Sample:
        """Wait until it is quiet, and look."""
        ends_at = time.monotonic() + QUIET_S
        last: Sample | None = None
        while True:
            # Idle connections to the apps live for a second.
            await asyncio.sleep(1.2 if last is None else 0.3)
            found = Sample(time.monotonic() - started, **self.tell(do="sample"))
            settled = last is not None and found.descriptors >= last.descriptors
            if (settled and not found.under_way) or time.monotonic() > ends_at:
                return found
            last = found


class Connection:
    """A caller's connection."""

    def __init__(
        self, lease: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._lease = lease
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, lease: dict[str, Any]) -> "Connection":
        url = urlsplit(lease["public_url"])
        return cls(lease, *await asyncio.open_connection(url.hostname, url.port))

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        await self.send(method, path, body)
        return await self.answer()

    async def send(self, method: str, path: str, body: bytes = b"") -> None:
        prefix = urlsplit(self._lease["public_url"]).path
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = (
            f"{method} {prefix}{path} HTTP/1.1\r\nHost: a\r\n{length}"
            f"X-SynthTunnel-Worker-Token: {self._lease['worker_token']}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        _, told, length = head.partition(b"content-length: ")
        if told:
            body = await self.reader.readexactly(int(length.partition(b"\r\n")[0]))
        else:
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        return int(head.split(b" ")[1]), body

    def close(self, *, abort: bool = False) -> None:
        if abort:
            self.writer.transport.abort()
        else:
            self.writer.close()


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer whatever the callers ask."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1]
            _, told, length = head.lower().partition(b"content-length: ")
            body = await reader.readexactly(int(length.partition(b"\r\n")[0]) if told else 0)
            if path == b"/hang":
                await reader.read()
                return
            if path == b"/large":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (32 * len(PIECE)))
                for _ in range(32):
                    writer.write(PIECE)
                    await writer.drain()
            elif path == b"/events":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(5):
                    writer.write(b"6\r\nevent\n\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.005)
                writer.write(b"0\r\n\r\n")
            else:
                body = body if path == b"/back" else path
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()


async def echo(peer: ServerConnection) -> None:
    """Say what is said."""
    with suppress(ConnectionClosed):
        async for message in peer:
            await peer.send(message)


def grown(samples: list[Sample]) -> list[str]:
    """Return what has grown since the warm-up, in words."""
    counted = samples[math.ceil(len(samples) * WARM_UP) :]
    if len(counted) < MIN_SAMPLES:
        return [f"only {len(counted)} samples count: let it run longer"]
    third = len(counted) // 3
    found = []
    for name, unit, allowed in (
        ("memory_kib", "KiB", MAY_GROW_KIB),
        ("objects", "objects", MAY_GROW_OBJECTS),
        ("blocks", "blocks", MAY_GROW_BLOCKS),
        ("descriptors", "descriptors", MAY_GROW_DESCRIPTORS),
        ("tasks", "tasks", MAY_GROW_TASKS),
        ("under_way", "requests under way", 0),
    ):
        first, last = (
            statistics.median(getattr(sample, name) for sample in part)
            for part in (counted[:third], counted[-third:])
        )
        if last > first + allowed:
            found.append(f"{name} has grown from {first:g} to {last:g} {unit}")
    return found


def too_few(outcomes: Counter[str]) -> list[str]:
    """Return what kinds of traffic did not come through, in words."""
    found = []
    for kind, success in SUCCESS.items():
        total = sum(n for outcome, n in outcomes.items() if outcome.startswith(f"{kind}: "))
        good = outcomes[f"{kind}: {success}"]
        if good < max(min(total * MIN_SHARE, total - MAY_MISS), 1):
            found.append(f"{kind}: only {good} of {total} came to {success!r}")
    return found


def goes_on(elapsed_s: float, duration_s: float, samples: int) -> bool:
    """Whether another sample is taken: a busy machine gets longer for those that are needed."""
    return elapsed_s < duration_s or (samples < NEEDED_SAMPLES and elapsed_s < 4 * duration_s)


async def soak(options: argparse.Namespace, process: Process) -> int:
    """Run it; return the exit code."""
    async with (
        await asyncio.start_server(app, "127.0.0.1", 0, backlog=256) as web,
        serve(echo, "127.0.0.1", 0, compression=None) as sockets,
    ):
        (sock,) = sockets.sockets
        ports = {"port": web.sockets[0].getsockname()[1], "socket_port": sock.getsockname()[1]}
        process.tell(ports)
        run = Soak(process, process.json_line()["leases"])
        samples: list[Sample] = []
        started = time.monotonic()
        tasks = [asyncio.create_task(run.traffic()) for _ in range(options.callers)]
        tasks.append(asyncio.create_task(run.disturb()))
        while goes_on(time.monotonic() - started, options.duration_s, len(samples)):
            run.going.set()
            await asyncio.sleep(options.interval_s)
            run.going.clear()
            samples.append(await run.sample(started))
            print(samples[-1], flush=True)
            if crashed := [task for task in tasks if task.done()]:
                await crashed[0]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for outcome, count in sorted(run.outcomes.items()):
        print(f"{count:8d} {outcome}")
    failures = grown(samples) + too_few(run.outcomes) + sorted(set(run.wrong))
    print("\n".join(failures) or "nothing has grown, and no answer was wrong")
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--duration-s", type=float, default=600)
    parser.add_argument("--interval-s", type=float, default=20, help="of traffic between samples")
    parser.add_argument("--callers", type=int, default=32)
    options = parser.parse_args(argv)
    with Processes() as processes:
        return asyncio.run(soak(options, processes.start(sys.executable, SUBJECT, polite=True)))


if __name__ == "__main__":
    sys.exit(main())
