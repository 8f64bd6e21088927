"""What this project's own code costs a request: the whole way from a caller's bytes to the app
and back, through transports that copy nothing and call no system.

    python benchmarks/agents/own_path.py embedded|websocket GET|POST
        [--style root] [--record] [--profile]

Prints microseconds of CPU time for each of several runs, as JSON. A lowest value that repeats is
what the code costs; the rest is the machine's noise.
"""

import argparse
import asyncio
import cProfile
import json
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.traffic.log import TrafficLog
from pytest_synth_tunnels.traffic.recorder import Recorder

APP_PORT = 9
CALLERS = 16
BODY = b"x" * 1024
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + BODY
NINE = [
    line.split('"')[1] + ": " + line.split('"')[3]
    for line in (Path(__file__).parent.parent / "post.lua").read_text().splitlines()
    if line.startswith("wrk.headers")
]


class Transport(asyncio.Transport):
    """Hands what is written to somebody, in the next tick of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._loop = loop
        self._deliver: Callable[[bytes], None] = lambda data: None
        self._protocol: Any = None
        self._lost = False

    def lead_to(self, deliver: Callable[[bytes], None], protocol: asyncio.Protocol) -> None:
        """Begin."""
        self._deliver = deliver
        self._protocol = protocol
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        """Take what the other end wrote."""
        self._protocol.data_received(data)

    def write(self, data: Any) -> None:
        self._loop.call_soon(self._deliver, data)

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def write_eof(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._protocol.connection_lost, None)


class Loop(asyncio.SelectorEventLoop):
    """Connects, without sockets, to what listens in this process, or to an app."""

    factory: Callable[[], asyncio.Protocol]

    _make_socket_transport = property()  # type: ignore[assignment]
    """Not there, so that the pool takes this loop for one that adopts no sockets."""

    async def create_server(  # type: ignore[override]
        self, factory: Any, *given: Any, **named: Any
    ) -> asyncio.Server:
        self.factory = factory
        return await super().create_server(factory, *given, **named)

    async def create_connection(  # type: ignore[override]
        self, factory: Any, host: Any, port: Any, **_: Any
    ) -> Any:
        protocol = factory()
        near = Transport(self)
        if port == APP_PORT:
            near.lead_to(App(near).take, protocol)
        else:
            far = Transport(self)
            far.lead_to(near.receive, self.factory())
            near.lead_to(far.receive, protocol)
        return near, protocol


class App:
    """Answers a request once it has come whole."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._due = 0

    def take(self, data: bytes) -> None:
        """Take a piece of a request."""
        if not self._due:
            head, _, rest = data.partition(b"\r\n\r\n")
            self._due = len(BODY) if head.startswith(b"POST") else 0
            data = rest
        self._due -= len(data)
        if not self._due:
            self._transport.receive(ANSWER)


class Caller:
    """Sends the same request as soon as the last one is answered."""

    def __init__(self, loop: Loop, request: bytes, answered: Callable[[], bool]) -> None:
        self._request = request
        self._answered = answered
        self._due = 0
        self._transport = Transport(loop)
        self._transport.lead_to(self.take, loop.factory())

    def send(self) -> None:
        """Send it."""
        self._due = 0
        self._transport.receive(self._request)

    def take(self, data: bytes) -> None:
        """Take a piece of the answer."""
        if not self._due:
            assert data.startswith(b"HTTP/1.1 200 "), data[:300]
            self._due = data.index(b"\r\n\r\n") + 4 + len(BODY)
        self._due -= len(data)
        if not self._due and self._answered():
            self.send()


async def measure(
    link: str, method: str, style: str, count: int, runs: int, *, record: bool, profile: bool
) -> list[float]:
    """Return the CPU time of a request in each run, in microseconds."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    backend = Backend()
    await backend.start()
    lease = backend.call(
        requests.create_synth_lease(
            client_instance_id="client-benchmark",
            local_host="127.0.0.1",
            local_port=APP_PORT,
            requested_ttl_seconds=3600,
            metadata={},
            capabilities={"max_inflight": 1024},
        )
    )
    agent = Agent(recorder=Recorder(TrafficLog(), body_bytes=65_536) if record else None)
    agent.leases.serve(lease["lease_id"], lease["public_url"], max_inflight=1024)
    agent.leases.set_target(lease["lease_id"], "", Target("127.0.0.1", APP_PORT))
    connect = lease["agent_connect"]
    dialer = None
    if link == "embedded":
        backend.attach(lease["lease_id"], agent, connect["agent_token"])
    else:
        attached = asyncio.Event()
        dialer = Dialer(
            agent, connect["url"], connect["agent_token"], on_change=lambda *_: attached.set()
        )
        await dialer.start()
        await asyncio.wait_for(attached.wait(), 5)

    path = lease["public_url"].removeprefix(backend.url)
    if style == "root":
        # From here on the loop's factory is the origin's.
        origin = (await backend.open_origin(lease["lease_id"])).public_url
        target = Target("127.0.0.1", APP_PORT)
        agent.leases.set_target(lease["lease_id"], "", target, origin=origin)
        path = ""
    lines = [f"{method} {path}/ HTTP/1.1", f"Host: {backend.url.removeprefix('http://')}"]
    lines.append(f"X-SynthTunnel-Worker-Token: {lease['worker_token']}")
    body = b""
    if method == "POST":
        body = BODY
        lines += [*NINE, f"Content-Length: {len(BODY)}"]
    request = "\r\n".join((*lines, "", "")).encode() + body

    left = 0
    done = asyncio.Event()

    def answered() -> bool:
        nonlocal left
        left -= 1
        if left <= 0:
            done.set()
        return left >= CALLERS

    callers = [Caller(loop, request, answered) for _ in range(CALLERS)]
    profiler = cProfile.Profile()
    took_us = []
    for run in range(runs):
        left = count
        done.clear()
        if profile and run:
            profiler.enable()
        began_s = time.process_time()
        for caller in callers:
            caller.send()
        await done.wait()
        took_us.append((time.process_time() - began_s) / count * 1e6)
        profiler.disable()
    if profile:
        stats = pstats.Stats(profiler)
        stats.sort_stats("tottime").print_stats(45)
    if dialer is not None:
        await dialer.close()
    await agent.close()
    await backend.close()
    return took_us[1:]


def main() -> None:
    """Measure one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("link", choices=("embedded", "websocket"))
    parser.add_argument("method", choices=("GET", "POST"))
    parser.add_argument("--style", choices=("path", "root"), default="path")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--record", action="store_true", help="record all requests")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=Loop) as runner:
        took_us = runner.run(
            measure(
                *(given.link, given.method, given.style),
                *(given.requests, given.runs),
                record=given.record,
                profile=given.profile,
            )
        )
    print(json.dumps(took_us))


if __name__ == "__main__":
    main()
