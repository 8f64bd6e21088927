"""Thousands of requests at once, with a body of its own each: nobody gets another's answer.

Several leases, addresses and agents (in memory and over WebSocket), callers that go away in the
middle, agents that lose their link and return. ``SYNTH_TUNNELS_TEST_REQUESTS`` sets how many.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.wire.websocket_link import WebSocketLink

from ..support.live_tunnels import Lease, Tunnels

pytestmark = pytest.mark.acceptance

REQUESTS = int(os.environ.get("SYNTH_TUNNELS_TEST_REQUESTS", "6000"))
CALLERS = 2000
LEASES = 6
LINKS_LOST = 8
ADDRESSES = ("gw0", "gw1")
SEED = 4


async def app(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say everything that came, and who says it; in pieces, and not always at once."""
    dice = random.Random(f"{name} {id(writer)}")
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.02)
            answer = b"%b %b %b" % (name.encode(), head.split(b" ")[1], body)
            if dice.random() < 0.5:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
                writer.write(answer)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                half = len(answer) // 2
                for piece in (answer[:half], answer[half:]):
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


class Served:
    """A lease with two apps, and an agent that now and then loses its link."""

    def __init__(self, tunnels: Tunnels, name: str, *, over_websocket: bool) -> None:
        self.tunnels = tunnels
        self.name = name
        self.over_websocket = over_websocket
        self.lease: Lease
        self.agent: Agent

    async def start(self) -> None:
        tunnels = self.tunnels
        self.lease = tunnels.lease(1, capabilities={"max_inflight": 1024})
        self.agent = Agent()
        self.agent.leases.serve(self.lease.id, self.lease.public_url, max_inflight=1024)
        for address in ADDRESSES:
            name = f"{self.name}-{address}"
            port = await tunnels.listen(lambda r, w, name=name: app(name, r, w))
            self.agent.leases.set_target(self.lease.id, address, Target("127.0.0.1", port))
        if self.over_websocket:
            await tunnels.dial(self.agent, self.lease)
        else:
            self.attach()

    @property
    def inflight(self) -> int:
        """Requests under way, as the relay counts them."""
        status = requests.get_synth_lease(self.lease.id)
        return int(self.tunnels.backend.call(status)["inflight"])

    def attach(self) -> None:
        self.tunnels.backend.attach(self.lease.id, self.agent, self.lease.agent_token)

    def lose_the_link(self) -> None:
        """Cut the link as a network would. It comes back by itself, or at once."""
        link = self.agent.uplink._link
        if not self.over_websocket:
            self.attach()  # the second attachment replaces the first
        elif isinstance(link, WebSocketLink) and link._transport is not None:
            link._transport.abort()


class Caller:
    """Makes one request after the other, on one connection as long as it lasts."""

    def __init__(self, tunnels: Tunnels, served: list[Served], dice: random.Random) -> None:
        self._tunnels = tunnels
        self._served = served
        self._dice = dice
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, number: int) -> str:
        """Make a request; return what came of it, in a word."""
        dice = self._dice
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._tunnels.port)
        reader, writer = self._streams
        served, address = dice.choice(self._served), dice.choice(ADDRESSES)
        size = dice.choice([0, 10, 10, 1_000, 20_000, 300_000])
        body = (f"<{number} {dice.getrandbits(64):x}>".encode() * (size // 10))[:size]
        path = f"/{number}/{dice.getrandbits(64):x}"
        lease = served.lease
        head = (
            f"{'POST' if size else 'GET'} {lease.prefix}/~{address}{path} HTTP/1.1\r\nHost: a\r\n"
            f"X-SynthTunnel-Worker-Token: {lease.worker_token}\r\nContent-Length: {size}\r\n\r\n"
        ).encode()
        leaves = dice.random() < 0.05
        writer.write(head + (body[: dice.randrange(size + 1)] if leaves else body))
        try:
            if leaves:
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.random() * 0.02)
                self._leave(abort=dice.random() < 0.5)
                return "left"
            status, keep, answer = await self._read(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._leave(abort=False)
            return "interrupted"
        if not keep:
            self._leave(abort=False)
        if status == 200:
            expected = f"{served.name}-{address} {path} ".encode() + body
            assert answer == expected, (answer[:100], expected[:100])
        return str(status)

    def close(self) -> None:
        self._leave(abort=False)

    async def _read(self, reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, found, length = head.partition(b"content-length: ")
        if found:
            body = await reader.readexactly(int(length.partition(b"\r\n")[0]))
        else:
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        return int(head.split(b" ")[1]), b"connection: close" not in head, body

    def _leave(self, *, abort: bool) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            if abort:
                writer.transport.abort()
            else:
                writer.close()


async def crosstalk(callers: int) -> tuple[Counter[str], int]:
    """Return how often what came of a request, and the most that were under way at once."""
    dice = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    peak = 0
    numbers = iter(range(REQUESTS))
    async with Tunnels(request_timeout_s=300) as tunnels:
        served = [Served(tunnels, f"app{n}", over_websocket=n % 2 == 0) for n in range(LEASES)]
        for one in served:
            await one.start()

        async def call(seed: float) -> None:
            nonlocal peak
            caller = Caller(tunnels, served, random.Random(seed))
            for number in numbers:
                outcomes[await caller.ask(number)] += 1
                if number % (REQUESTS // LINKS_LOST) == 0:
                    peak = max(peak, sum(one.inflight for one in served))
                    dice.choice(served).lose_the_link()
            caller.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call(dice.random()))
        # What the callers have left is still being cancelled.
        while any(one.inflight or one.agent.inflight for one in served):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return outcomes, peak


@pytest.fixture
def callers() -> Iterator[int]:
    """How many may call at once: each takes a few descriptors, on both sides of the tunnel."""
    try:
        import resource
    except ImportError:  # Windows counts no descriptors
        yield CALLERS
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 6 * CALLERS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    yield min(CALLERS, max(soft, allowed) // 6)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(max(120, REQUESTS // 20))
def test_no_answer_reaches_the_wrong_caller(callers: int) -> None:
    outcomes, peak = asyncio.run(crosstalk(callers))
    print(dict(outcomes), peak)
    assert peak > callers / 2
    assert sum(outcomes.values()) == REQUESTS
    # A lost link may cost a request, and nothing else may.
    assert set(outcomes) <= {"200", "502", "503", "left", "interrupted"}
    assert outcomes["left"] > REQUESTS * 0.02
    assert outcomes["200"] > REQUESTS * 0.5
