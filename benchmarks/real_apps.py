"""Run real apps through a tunnel, as their users do, and write a table of what came of it.

    python benchmarks/real_apps.py [--only NAME ...] [-n WORKERS] [--cache FOLDER]

Each app answers directly, at the root of an origin and below a path. The apps are installed from
PyPI and npm into a folder outside the project; pages are looked at in Chromium, by Playwright. The
suite is the folder ``real_apps`` beside this file, and an ordinary user of the plugin.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib import metadata
from pathlib import Path

from cache import REPOSITORY, Cache, MissingError, child_environment
from packaging.requirements import Requirement

SUITE = Path(__file__).with_name("real_apps")

QUICK = ("django_admin", "fastapi", "flask", "git", "live_server", "socketio", "webdav")
"""Those that install quickly and need no browser; the project's own tests run them too."""
QUICK_REQUIREMENTS = (
    *(
        "cheroot",
        "django>=5.0",
        "fastapi",
        "flask>=3.0",
        "flask-socketio",
        "httpx",
        "pytest-django",
        "pytest-timeout",
    ),
    *("python-socketio[client]", "simple-websocket", "uvicorn", "websockets", "wsgidav"),
)

SLOW = ("gradio", "jupyter", "mcp", "streamlit", "vite")
SLOW_REQUIREMENTS = (
    *("gradio", "httpx", "jupyterlab", "mcp>=2", "playwright", "pytest-timeout", "streamlit"),
    *("uvicorn", "websockets"),
)
VITE = '{"private": true, "type": "module", "dependencies": {"vite": "^5.4"}}'

WAYS = ("direct", "root", "path")


def own_requirements() -> list[str]:
    """Return what the plugin itself needs; it is taken from this checkout."""
    wanted = map(Requirement, metadata.requires("pytest-synth-tunnels") or [])
    return [str(each) for each in wanted if each.marker is None or "extra" not in str(each.marker)]


def run(
    python: Path, names: list[str], *arguments: str, node_modules: Path | None = None
) -> tuple[int, dict[str, dict[str, set[str]]]]:
    """Run the suite for these apps.

    Returns:
        pytest's exit code; and for each test and way what became of it.
    """
    with tempfile.TemporaryDirectory(prefix="real-apps-") as folder:
        report = Path(folder) / "report.jsonl"
        environment = child_environment(
            PYTHONPATH=str(REPOSITORY), REAL_APPS_REPORT=str(report), GIT_TERMINAL_PROMPT="0"
        )
        for name in [name for name in environment if name.startswith("PYTEST_")]:
            del environment[name]  # of the run that this one is a test of
        if node_modules is not None:
            environment["REAL_APPS_NODE_MODULES"] = str(node_modules)
        files = [str(SUITE / f"test_{name}.py") for name in names]
        done = subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "pytest_synth_tunnels.plugin", *arguments, *files],
            env=environment,
            check=False,
        )
        found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for line in report.read_text().splitlines() if report.exists() else ():
            name, outcome = json.loads(line)
            test, _, parameters = name.partition("[")
            way = next((way for way in WAYS if way in parameters.rstrip("]").split("-")), "")
            found[test][way].add(outcome)
        return done.returncode, found


def table(found: dict[str, dict[str, set[str]]]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = ["| test | directly | at the root of an origin | below a path |", "|---|---|---|---|"]
    for test, outcomes in sorted(found.items()):
        cells = []
        for way in WAYS:
            seen = outcomes.get(way) or outcomes.get("", set())
            worst = [name for name in ("failed", "passed", "skipped") if name in seen]
            cells.append(worst[0] if worst else "")
        lines.append(f"| {test} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=QUICK + SLOW, default=QUICK + SLOW)
    parser.add_argument("-n", default="0", metavar="WORKERS", help="xdist's; 0 for none")
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "synth-tunnels-benchmarks"
    parser.add_argument("--cache", type=Path, default=home, help="where apps are installed")
    options = parser.parse_args(argv)
    cache = Cache(options.cache.expanduser().resolve())
    code, found = 0, {}
    for all_names, requirements in ((QUICK, QUICK_REQUIREMENTS), (SLOW, SLOW_REQUIREMENTS)):
        names = [name for name in all_names if name in options.only]
        if not names:
            continue
        label = "quick-apps" if all_names is QUICK else "slow-apps"
        python = cache.python(label, *requirements, *own_requirements())
        try:
            node_modules = cache.node_modules("vite", VITE) if "vite" in names else None
        except MissingError as error:
            print(error, file=sys.stderr)
            node_modules = None
        failed, outcomes = run(python, names, "-n", options.n, node_modules=node_modules)
        code = code or failed
        found |= outcomes
    print(table(found))
    return code


if __name__ == "__main__":
    sys.exit(main())
