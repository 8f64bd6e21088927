"""What our own code costs a request, without sockets: ``agents/own_path.py``."""

import json

from bench import Bench
from cache import MissingError, child_environment
from ours import project_python
from peers import AGENTS
from processes import BenchmarkError, Processes
from report import Figures, Table, spread

TITLE = "path"

LINKS = {"embedded": "ours, embedded", "websocket": "ours, WebSocket, both ends"}
"""How each is named in tables."""
_METHODS = ("GET", "POST")


def measure(bench: Bench, figures: Figures) -> None:
    """Run each way in turn."""
    try:
        python = project_python(bench.cache)
    except MissingError as error:
        bench.missing["our own code"] = str(error)
        return

    def once(round_: int) -> None:
        for link, name in LINKS.items():
            for method in _METHODS:
                with Processes() as processes:
                    try:
                        process = processes.start(
                            *(python, AGENTS / "own_path.py", link, method),
                            env=child_environment(),
                        )
                        took_us = json.loads(process.line())
                        figures.add(name, method, round_, min(took_us))
                    except BenchmarkError as error:
                        figures.fail(name, method, error)

    bench.in_rounds(TITLE, once)


def tables(bench: Bench, figures: Figures) -> list[Table]:
    """Return one table."""
    table = Table(
        "CPU µs a request of our own code and its libraries alone, without system calls",
        ("", *_METHODS),
    )
    for name in figures.contenders():
        table.rows.append((name, *(spread(figures.get(name, method)) for method in _METHODS)))
    table.notes.append("Each the lowest of nine runs of 4,000 requests from 16 callers.")
    return [table]
