"""An app that is stopped and started again and again, under callers that keep their connections
and callers that open one for each request, over several leases and both links.

Nobody gets the answer of an app that was stopped before its request was sent, nor another caller's
answer. ``SYNTH_TUNNELS_TEST_REQUESTS`` sets how many requests there are.
"""

import asyncio
import os
import random
import socket
from collections import Counter
from contextlib import suppress

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target

from ..support.live_tunnels import Lease, Tunnels

pytestmark = pytest.mark.acceptance

REQUESTS = int(os.environ.get("SYNTH_TUNNELS_TEST_REQUESTS", "4000"))
RESTARTS = max(20, REQUESTS // 1_000)
CALLERS = 48
SEED = 11
MAY_BE_REFUSED = (b"502", b"503")
"""What callers are told while the app is down."""


class RestartedApp:
    """An app on one port. Each start is a generation, which its answers name."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = int(sock.getsockname()[1])
        self.generation = 0
        self.stopped = 0
        """The last generation that is stopped."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self.generation += 1
        generation = self.generation
        self._server = await asyncio.start_server(
            lambda r, w: self._talk(generation, r, w), "127.0.0.1", self.port, backlog=1024
        )

    async def stop(self) -> None:
        """Stop, with every connection: some are closed in order, some break off."""
        assert self._server is not None
        self._server.close()
        for number, writer in enumerate(list(self._writers)):
            if number % 2:
                writer.close()
            else:
                writer.transport.abort()
        self.stopped = self.generation

    async def _talk(
        self, generation: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                answer = b"%d %b %b" % (generation, head.split(b" ", 2)[1], body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
                writer.write(answer)
                if generation <= self.stopped:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


class Caller:
    """Sends one request after the other, on connections that it keeps or on new ones."""

    def __init__(self, test: "Restarts", number: int) -> None:
        self.test = test
        self.number = number
        self.keeps = number % 2 == 0
        self.dice = random.Random(f"{SEED} {number}")
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        while self.test.left > 0:
            self.test.left -= 1
            await self.ask(self.test.left)
        if self._kept is not None:
            self._kept[1].close()

    async def ask(self, number: int) -> None:
        lease = self.dice.choice(self.test.leases)
        body = b"%d-%d" % (self.number, number) if self.dice.random() < 0.5 else b""
        method, length = ("POST", f"Content-Length: {len(body)}\r\n") if body else ("GET", "")
        request = (
            f"{method} {lease.prefix}/{number} HTTP/1.1\r\nHost: a\r\n{length}"
            f"X-SynthTunnel-Worker-Token: {lease.worker_token}\r\n\r\n"
        ).encode() + body
        if self._kept is not None and self._kept[0].at_eof():
            self._kept[1].close()
            self._kept = None
        used = self._kept is not None
        reader, writer = self._kept or await asyncio.open_connection(
            "127.0.0.1", self.test.tunnels.port
        )
        self._kept = None
        stopped = self.test.app.stopped
        seen = self.test.seen
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if size:
                answer = await reader.readexactly(int(size))
            else:
                answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            # The app's end is the connection's: a caller of a new one is told of it in words.
            assert used, "a new connection ended without an answer"
            seen["ended"] += 1
            writer.close()
            return
        status = head.split(b" ", 2)[1]
        seen[status.decode()] += 1
        if status == b"200":
            generation, target, echoed = answer.split(b" ", 2)
            assert (target, echoed) == (b"/%d" % number, body), "another caller's answer"
            assert int(generation) > stopped, "the answer of an app that was stopped"
        else:
            assert status in MAY_BE_REFUSED, answer
        if self.keeps and b"\r\nConnection: close\r\n" not in head:
            self._kept = reader, writer
        else:
            writer.close()


class Restarts:
    """The app, its leases, and what its callers have seen."""

    def __init__(self, tunnels: Tunnels) -> None:
        self.tunnels = tunnels
        self.app = RestartedApp()
        self.leases: list[Lease] = []
        self.agents: list[Agent] = []
        self.left = REQUESTS
        self.seen: Counter[str] = Counter()

    async def begin(self) -> None:
        await self.app.start()
        for websocket in (False, True, True):
            lease = self.tunnels.lease(self.app.port, capabilities={"max_inflight": 1024})
            agent = await self.tunnels.attach(lease, {"": self.app.port}, websocket=websocket)
            agent.leases.set_target(lease.id, "", Target("127.0.0.1", self.app.port))
            self.leases.append(lease)
            self.agents.append(agent)

    async def restart(self) -> None:
        """Stop the app and start it again, each time after as many requests."""
        for restart in range(RESTARTS):
            due = REQUESTS - (restart + 1) * REQUESTS // (RESTARTS + 1)
            while self.left > due:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await self.app.stop()
            await asyncio.sleep(0.002 * (restart % 3))
            await self.app.start()

    async def run(self) -> None:
        callers = [asyncio.create_task(Caller(self, n).run()) for n in range(CALLERS)]
        restarting = asyncio.create_task(self.restart())
        try:
            await asyncio.gather(*callers)
            await restarting
        finally:
            for task in (*callers, restarting):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*callers, restarting, return_exceptions=True)
        await self.app.stop()


@pytest.mark.timeout(60 + REQUESTS // 100)
def test_nobody_gets_the_answer_of_a_stopped_app_or_of_another_caller() -> None:
    async def main() -> None:
        async with Tunnels() as tunnels:
            test = Restarts(tunnels)
            await test.begin()
            await test.run()
            assert sum(test.seen.values()) == REQUESTS
            assert test.app.generation == RESTARTS + 1
            assert test.seen["200"] > 0.8 * REQUESTS, test.seen
            print(dict(test.seen), RESTARTS, "restarts")
            # Nothing is left of the callers' connections.
            async with asyncio.timeout(10):
                pools = [pool for agent in test.agents for pool in agent.leases.pools]
                while any(pool._tied for pool in pools):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(main())
