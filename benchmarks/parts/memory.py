"""What the keeper's process takes: idle, after load, and with many requests held."""

import socket
import time
from collections.abc import Callable

from bench import Bench
from load import Endpoint, ask, wrk
from ours import Embedded, EmbeddedUnrecorded
from processes import BenchmarkError, memory_kib, poll
from report import Figures, Table, spread

TITLE = "memory"
HELD = 1_000

NAME = Embedded.name


def measure(bench: Bench, figures: Figures) -> None:
    """Look at the keepers of new runs in each round, with the recording of traffic and without."""

    def once(round_: int) -> None:
        for kind in (Embedded, EmbeddedUnrecorded):
            look(kind, round_)

    def look(kind: type[Embedded], round_: int) -> None:
        embedded = kind()
        with bench.tunnels([embedded], figures) as tunnels:
            for tunnel in tunnels:
                pid = embedded.keeper_pid

                def note(measure_: str, pid: int = pid) -> None:
                    figures.add(kind.name, measure_, round_, memory_kib(pid) / 1024)

                note("idle")
                wrk(tunnel.endpoint, post=True, connections=64, duration_s=bench.duration_s)
                note("after load")
                if bench.origin.whole:
                    _hold(tunnel.endpoint, bench.origin.endpoint, lambda: note("held"))
                    note("after holding")

    try:
        bench.in_rounds(TITLE, once, rounds=min(bench.rounds, 3))
    except (OSError, BenchmarkError) as error:
        figures.fail(NAME, TITLE, error)


def _hold(tunnel: Endpoint, app: Endpoint, meanwhile: Callable[[], None]) -> None:
    """Have many requests under way, and let all be answered.

    Raises:
        BenchmarkError: one of them was not.
    """
    callers: list[socket.socket] = []
    try:
        for _ in range(HELD):
            caller = tunnel.connect(10)
            caller.sendall(tunnel.head("GET", "/hold"))
            caller.setblocking(False)
            callers.append(caller)
        time.sleep(1)
        meanwhile()
        early = [caller for caller in callers if _answered(caller)]
        if early:
            raise BenchmarkError(f"{len(early)} of {HELD} requests were not held")

        def released() -> bool:
            # A request that was still on its way to the app at the first release needs another.
            ask(Endpoint(app.port, "/release"))
            return all(_answered(caller) for caller in callers)

        poll(released, f"not all of {HELD} requests were answered", 10, pause_s=0.2)
        bad = [caller for caller in callers if not caller.recv(64).startswith(b"HTTP/1.1 200 ")]
        if bad:
            raise BenchmarkError(f"{len(bad)} of {HELD} held requests got something else than 200")
    finally:
        for caller in callers:
            caller.close()


def _answered(caller: socket.socket) -> bool:
    try:
        caller.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table."""
    table = Table("Memory of the keeper's process, resident", ("", "MiB", "MiB, recording off"))
    for measure_, what in (
        ("idle", "idle, with a lease and an agent"),
        ("after load", "after 64 connections of POST"),
        ("held", f"with {HELD:,} requests held, each with its connections to caller and app"),
        ("after holding", "after they were answered"),
    ):
        names = (NAME, EmbeddedUnrecorded.name)
        table.rows.append((what, *(spread(figures.get(name, measure_)) for name in names)))
    table.notes.append(
        "Traffic is recorded up to 32 MiB or 10,000 requests a run, and the load fills that."
    )
    return [table]
