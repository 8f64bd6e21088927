"""Measure this project beside its peers, and write the tables.

    python benchmarks/run.py [--quick] [--only PART ...] [--rounds N]

Peers that are missing are installed from PyPI and npm into a folder outside the project; what
Debian packages are missing is told. All traffic stays on 127.0.0.1, and all that is started is
stopped.
"""

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from types import FrameType

from bench import Bench
from cache import Cache
from contenders import KEYS
from origin import start_origin
from processes import BenchmarkError, Processes, busy_share
from report import Figures, Table
from summary import overview, shares, targets

_RESULTS = Path(__file__).with_name("RESULTS.md")
_TOO_BUSY = 0.15
PARTS = (
    *("traffic", "recording", "path", "bulk", "first_answer"),
    *("memory", "plugin", "felt", "sdk", "growth"),
)


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are asked for."""
    options = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    _raise_descriptor_limit()
    started = time.monotonic()
    busy_before = busy_share()
    if busy_before > _TOO_BUSY:
        print(f"warning: other work takes {busy_before:.0%} of this machine", file=sys.stderr)
    interrupted = False
    found: dict[str, Figures] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, Processes() as processes:
            cache = Cache(options.cache.expanduser().resolve(), offline=options.offline)
            bench = Bench(
                cache=cache,
                origin=start_origin(cache, processes, Path(folder)),
                rounds=options.rounds or (1 if options.quick else 5),
                duration_s=1 if options.quick else 2,
                bulk_bytes=(options.bulk_mib or (64 if options.quick else 256)) << 20,
                ends_at=started + options.minutes * 60,
                folder=Path(folder),
                only=options.contenders,
            )
            try:
                for name in options.only or PARTS:
                    part = import_module(f"parts.{name}")
                    figures = found[name] = Figures()
                    try:
                        part.measure(bench, figures)
                    except (BenchmarkError, OSError, subprocess.SubprocessError) as error:
                        bench.missing[name] = str(error)
            except KeyboardInterrupt:
                interrupted = True
                print("interrupted: what was started is stopped", file=sys.stderr)
            tables = [
                table
                for name in found
                for table in import_module(f"parts.{name}").tables(bench, found[name])
            ]
            busy = f"{busy_before:.0%} before and {busy_share():.0%} after"
            text = _document(bench, tables, found, busy)
    except KeyboardInterrupt:
        return 130
    print(text)
    whole = not (interrupted or options.only or options.contenders or options.quick)
    if options.output or whole:
        (options.output or _RESULTS).write_text(text)
    if options.json:
        options.json.write_text(json.dumps({k: v.as_json() for k, v in found.items()}, indent=1))
    return 130 if interrupted else 0


def _document(bench: Bench, tables: list[Table], found: dict[str, Figures], busy: str) -> str:
    """Return the tables with what one must know to read them."""
    method = (
        f"Written by `python benchmarks/run.py`: {bench.rounds} rounds, contenders in turn within "
        "each, so that a noisy machine hits all alike. Ratios are of the same round; a cell is "
        "the median and, in brackets, the lowest and the highest.\n"
    )
    kernel = platform.release().partition("-")[0]
    machine = (
        f"Machine: {_processor()}, {os.cpu_count()} cores, Linux {kernel}, Python "
        f"{platform.python_version()}; other work took {busy} of its processors' time. The app is "
        f"{bench.origin.name} that answers 1 KiB; small requests come from one thread of wrk with "
        f"keep-alive, {bench.duration_s} s for each cell and round. Caller, tunnel and app share "
        "the machine.\n"
    )
    tables = [targets(found), overview(bench, found), shares(found), *tables]
    pieces = ["# Benchmarks\n", method, machine]
    pieces += [table.markdown() for table in tables if table.rows]
    problems = [
        f"- {what}: {reason}"
        for figures in found.values()
        for what, reason in figures.problems.items()
    ]
    problems += [f"- {name}: {reason}" for name, reason in bench.missing.items()]
    if problems:
        pieces.append("\n".join(("## Not measured\n", *problems)) + "\n")
    return "\n".join(pieces)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "synth-tunnels-benchmarks"
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument(
        "--contenders", nargs="+", choices=KEYS, help="these alone, and the app itself"
    )
    parser.add_argument("--rounds", type=int, help="how often (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one short round, smaller bodies")
    parser.add_argument("--bulk-mib", type=int, help="of a large body (default: 256)")
    parser.add_argument(
        "--minutes", type=float, default=30, help="begin no round after this (default: 30)"
    )
    parser.add_argument("--cache", type=Path, default=home, help="where peers are installed")
    parser.add_argument("--offline", action="store_true", help="install nothing")
    parser.add_argument(
        "--output", type=Path, help="for the tables (default: RESULTS.md, of a whole run)"
    )
    parser.add_argument("--json", type=Path, help="also write all figures here")
    return parser


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _raise_descriptor_limit() -> None:
    """Allow for a thousand connections, here and in what is started."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
