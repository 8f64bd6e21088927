"""The SDK's clients and the published one: 500 calls at once, and calls one after another.

    python benchmarks/bench_sdk_async.py [--published PYTHON] [--rounds N]

``PYTHON`` is an interpreter that has synth-ai 0.16.1; without it only ours is measured. Every
contender runs in a process of its own against the same backend, in turn, so that a noisy machine
hits all alike. Exits with 1 where 500 calls at once to a backend that takes 100 ms for each take
longer than 1.5 s.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time

AT_ONCE = 500
BACKEND_S = 0.1
LIMIT_S = 1.5
IN_TURN_S = 1.0


class Backend(asyncio.Protocol):
    """Answers every request after ``delay_s``; as little work as can be."""

    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
        b'{"status":"ok"}'
    )

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            _, _, self.received = self.received.partition(b"\r\n\r\n")
            if self.delay_s:
                loop = asyncio.get_running_loop()
                loop.call_later(self.delay_s, self.transport.write, self.answer)
            else:
                self.transport.write(self.answer)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    ports = []
    for delay_s in (0.0, BACKEND_S):
        server = await loop.create_server(
            lambda delay_s=delay_s: Backend(delay_s), "127.0.0.1", 0, backlog=1024
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await loop.create_future()


def measure(module: str, ports: list[int]) -> None:
    """Measure the clients of ``module`` and print what they take, as JSON."""
    from importlib import import_module

    sdk = import_module(module)

    async def at_once() -> list[float]:
        client = sdk.AsyncTunnelsClient(api_key="k", base_url=f"http://127.0.0.1:{ports[1]}")
        took_s = []
        for _ in range(2):  # connections to make, and connections made
            started = time.perf_counter()
            answers = await asyncio.gather(*(client.health() for _ in range(AT_ONCE)))
            took_s.append(time.perf_counter() - started)
            assert answers == [{"status": "ok"}] * AT_ONCE
        await client.close()
        return took_s

    async def in_turn_async() -> float:
        client = sdk.AsyncTunnelsClient(api_key="k", base_url=f"http://127.0.0.1:{ports[0]}")
        await client.health()
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < IN_TURN_S:
            await client.health()
            count += 1
        await client.close()
        return count / (time.perf_counter() - started)

    cold_s, warm_s = asyncio.run(at_once())
    figures = {"500 at once, cold (s)": cold_s, "500 at once, warm (s)": warm_s}
    figures["async calls/s"] = asyncio.run(in_turn_async())

    started = time.perf_counter()
    client = sdk.TunnelsClient(api_key="k", base_url=f"http://127.0.0.1:{ports[0]}")
    client.health()
    figures["first sync call (s)"] = time.perf_counter() - started
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < IN_TURN_S:
        client.health()
        count += 1
    figures["sync calls/s"] = count / (time.perf_counter() - started)
    client.close()
    print(json.dumps(figures))


def compare(
    contenders: dict[str, tuple[str, str]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Measure all contenders in turn.

    Args:
        contenders: name → interpreter, and the module with its clients.
        rounds: how often.

    Returns:
        Name → what was measured → a figure a round.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    ) as backend:
        try:
            assert backend.stdout is not None
            ports = backend.stdout.readline().strip()
            for _ in range(rounds):
                for name, (python, module) in contenders.items():
                    done = subprocess.run(
                        [python, __file__, "--measure", module, ports],
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                        timeout=300,
                    )
                    for what, value in json.loads(done.stdout).items():
                        found[name].setdefault(what, []).append(value)
        finally:
            backend.kill()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", metavar="PYTHON", help="an interpreter with synth-ai 0.16.1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
    if options.measure:
        measure(options.measure[0], json.loads(options.measure[1]))
        return 0

    contenders = {"ours": (sys.executable, "pytest_synth_tunnels.sdk")}
    if options.published:
        contenders["published"] = (options.published, "synth_ai.sdk.tunnels")
    found = compare(contenders, options.rounds)

    print(f"{'median (lowest..highest)':<26}" + "".join(f"{name:>32}" for name in found))
    for what in found["ours"]:
        row = f"{what:<26}"
        for figures in found.values():
            low, high = min(figures[what]), max(figures[what])
            row += f"{f'{statistics.median(figures[what]):.4g} ({low:.4g}..{high:.4g})':>32}"
        print(row)
    return int(max(found["ours"]["500 at once, cold (s)"]) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
