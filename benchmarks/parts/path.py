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
_FORMS = {"": (), ", recording": ("--record",)}
"""What is measured of each, in both forms: what is added to its name, and to the command."""
_METHODS = ("GET", "POST")


def measure(bench: Bench, figures: Figures) -> None:
    """Run each way in turn."""
    pythons = {}
    for compiled, form in ((False, ""), (True, ", compiled")):
        try:
            pythons[form] = project_python(bench.cache, compiled=compiled)
        except MissingError as error:
            bench.missing[f"our own code{form}"] = str(error)
    ways = [
        (f"{name}{form}{what}", (python, AGENTS / "own_path.py", link), options)
        for what, options in _FORMS.items()
        for link, name in LINKS.items()
        for form, python in pythons.items()
    ]

    def once(round_: int) -> None:
        for method in _METHODS:
            for name, command, options in ways:
                with Processes() as processes:
                    try:
                        process = processes.start(
                            *command, method, *options, env=child_environment()
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
