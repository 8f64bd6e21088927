"""Run the tests of HTTP client libraries through a tunnel, and compare with what they do directly.

    python benchmarks/client_suites.py [--only NAME ...] [--ways WAY ...] [--cache FOLDER]

The suites of requests (against httpbin) and httpx are taken from their source distributions on PyPI
and stay as they are published; ``client_suites/through_tunnel.py`` gives their servers addresses of
the tunnel. A test that ends otherwise than directly is printed. The exit code is 1 where one
did that is not in ``KNOWN``.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cache import REPOSITORY, Cache, MissingError, child_environment
from real_apps import own_requirements

PLUGIN_FOLDER = Path(__file__).with_name("client_suites")
DOWNLOAD_TIMEOUT_S = 300
SUITE_TIMEOUT_S = 900


@dataclass(frozen=True)
class Suite:
    """The tests of one library.

    Attributes:
        release: the requirement whose source distribution has the tests.
        requirements: what they need besides.
        options: for pytest.
    """

    release: str
    requirements: tuple[str, ...]
    options: tuple[str, ...]


SUITES = {
    "requests": Suite(
        "requests==2.34.2",
        ("httpbin==0.10.4", "pytest-httpbin==2.1.0", "pytest-mock", "pysocks", "trustme"),
        (
            "--ignore=tests/test_testserver.py",  # of the server that the other tests use
            # Speaks SOCKS to the server, not HTTP.
            "--deselect=tests/test_lowlevel.py::test_use_proxy_from_environment",
        ),
    ),
    "httpx": Suite(
        "httpx==0.28.1",
        ("httpx[brotli,cli,http2,socks,zstd]==0.28.1", "chardet", "trio", "trustme", "uvicorn"),
        ("-W", "ignore"),
    ),
}

_NOT_HTTP = "what is no HTTP response is answered with 502, and the client's own check sees nothing"
KNOWN = {
    "tests/test_lowlevel.py::test_chunked_encoding_error": _NOT_HTTP,
    "tests/test_lowlevel.py::test_conflicting_content_lengths": _NOT_HTTP,
}
"""Tests that end otherwise, and why that is right."""


def source(cache: Cache, python: Path, suite: Suite) -> Path:
    """Return the folder of a source distribution, downloaded if needed."""
    name = suite.release.replace("==", "-")
    folder = cache.folder / name
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache.folder) as download:
            command = [str(python), "-m", "pip", "download", "--quiet", "--no-deps"]
            package = suite.release.partition("==")[0]
            command += ["--no-binary", package, "--dest", download, suite.release]
            done = subprocess.run(command, check=False, timeout=DOWNLOAD_TIMEOUT_S)
            archives = list(Path(download).glob("*.tar.gz"))
            if done.returncode or not archives:
                raise MissingError(f"{suite.release} cannot be downloaded")
            with tarfile.open(archives[0]) as archive:
                archive.extractall(download, filter="data")
            (Path(download) / name).rename(folder)
    return folder


def outcomes(python: Path, folder: Path, suite: Suite, way: str) -> dict[str, str]:
    """Run a suite one way; return for each test how it ended."""
    with tempfile.TemporaryDirectory(prefix="client-suites-") as reports:
        report = Path(reports) / "report.jsonl"
        environment = child_environment(
            PYTHONPATH=os.pathsep.join((str(PLUGIN_FOLDER), str(REPOSITORY))),
            CLIENT_SUITES_WAY=way,
            CLIENT_SUITES_REPORT=str(report),
        )
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
        command += ["-p", "pytest_synth_tunnels.plugin", "-p", "through_tunnel", "--tb=no"]
        command += ["--timeout=60", *suite.options, "tests"]
        subprocess.run(command, cwd=folder, env=environment, check=False, timeout=SUITE_TIMEOUT_S)
        found: dict[str, str] = {}
        for line in report.read_text().splitlines() if report.exists() else ():
            name, outcome = json.loads(line)
            if found.get(name) != "failed":
                found[name] = outcome
        return found


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--ways", nargs="+", choices=("root", "path"), default=["root"])
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "synth-tunnels-benchmarks"
    parser.add_argument("--cache", type=Path, default=home, help="where the suites are installed")
    options = parser.parse_args(argv)
    cache = Cache(options.cache.expanduser().resolve())
    lines = ["| suite | way | tests | failed | otherwise than directly |", "|---|---|---|---|---|"]
    unexpected = 0
    for name in options.only:
        suite = SUITES[name]
        requirements = (suite.release, *suite.requirements, "pytest<10", "pytest-timeout")
        python = cache.python(f"suite-{name}", *requirements, *own_requirements())
        folder = source(cache, python, suite)
        direct = outcomes(python, folder, suite, "direct")
        for way in ("direct", *options.ways):
            found = direct if way == "direct" else outcomes(python, folder, suite, way)
            differ = [test for test in {**direct, **found} if direct.get(test) != found.get(test)]
            # httpx's tests of its command line need the server's log not to be in theirs.
            worse = [test for test in differ if found.get(test) != "passed"]
            for test in worse:
                print(f"{name}, {way}: {test}: {KNOWN.get(test, 'DIFFERS')}", file=sys.stderr)
            unexpected += sum(test not in KNOWN for test in worse)
            failed = list(found.values()).count("failed")
            lines.append(f"| {name} | {way} | {len(found)} | {failed} | {len(worse)} |")
        if not direct:
            unexpected += 1
    print("\n".join(lines))
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
