"""No key and no token is in any output, file, argument or foreign environment of a run."""

import json
import re
import sys
from pathlib import Path

import pytest

from .conftest import API_KEY, CountingBackend, RuntimeDirectory

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

NOSY = [
    *("-l", "--tb=long", "-rA", "--color=no"),
    *("--log-level=DEBUG", "--log-file=log.txt", "--log-file-level=DEBUG"),
    *("--junitxml=report.xml", "-o", "junit_logging=all"),
]
"""All that makes pytest talkative."""

APP = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class App(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = str(self.headers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

subprocess.Popen(["sleep", "60"])
HTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"""

PREFACE = """
import asyncio, json, logging, os, pathlib, stat, warnings

import httpx
import pytest
import websockets

NOTES = pathlib.Path(os.environ["NOTES"])

def note(secret):
    with open(NOTES / f"secrets-{os.getpid()}", "a") as notes:
        notes.write(secret + "\\n")
    return secret
"""

TESTS = """
@pytest.fixture
def token(synth_lease):
    # Plain text, as what a test makes of it.
    return "".join(note(synth_lease.worker_token))

@pytest.fixture(autouse=True)
def talkative(synth_lease, token):
    print("setup", token)
    yield
    print("teardown", json.dumps(synth_lease.headers))

def test_locals(synth_lease):
    h = synth_lease.headers
    t = synth_lease.worker_token + ""
    b = t.encode()
    both = {"t": t, "l": [t, (t,)]}
    assert False, t

@pytest.mark.parametrize("pad", (82, 98, 110))
def test_cut_short(token, pad):
    padded = "x" * pad + " " + token + " " + "x" * 300
    mirrored = "x" * 300 + " " + token + " " + "x" * pad
    assert False, padded

def test_compared(synth_lease, token):
    first, second = token + "a", token + "b"
    with pytest.raises(AssertionError) as same:
        assert synth_lease.worker_token == token + "!"
    assert first == second, str(same.value)

def test_output(synth_lease, token, capsys, request, record_property):
    print(token)
    os.write(2, token.encode())
    logging.getLogger("user").debug("with %s", token)
    warnings.warn(token)
    record_property("token", token)
    record_property("headers", synth_lease.headers)

def test_subtests(token, subtests):
    with subtests.test(token=token):
        print(token)
        assert False, token

def test_skipped(token):
    pytest.skip(token)

def test_expected_to_fail(token):
    pytest.xfail(token)

def test_a_fixture_fails(token, request):
    @request.addfinalizer
    def fail():
        raise RuntimeError(token)

def test_rotated(synth_lease, token):
    old, new = token, note(synth_lease.refresh_worker_token()) + ""
    assert old == new

def test_http_clients(synth_lease):
    answer = httpx.get(synth_lease.url(), headers=synth_lease.headers)
    assert answer.status_code == 200
    assert "worker-token" not in answer.text.lower()
    async def connect():
        url = synth_lease.url().replace("http", "ws")
        await websockets.connect(url, additional_headers=synth_lease.headers)
    asyncio.run(connect())

def test_refused_connection(synth_lease):
    httpx.get("http://127.0.0.1:1", headers={**synth_lease.headers})

def test_own_errors(synth_lease):
    synth_lease.close()

def test_a_timeout(synth_expose):
    lease = synth_expose(1)
    note(lease.worker_token)
    lease.wait_ready(0.1)

def test_refused_target(synth_expose):
    synth_expose("ftp://localhost")

def test_the_client(synth_tunnels):
    key = note(synth_tunnels.api_key) + ""
    synth_tunnels.list_leases()
    synth_tunnels.delete_lease("lease_unknown")

def test_the_environment():
    environ, key = dict(os.environ), os.environ["SYNTH_API_KEY"]
    assert False, key

def test_seen_from_outside(synth_lease):
    found, parents = {}, {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().replace(b"\\0", b" ").decode().strip()
            environ = (entry / "environ").read_bytes().split(b"\\0")
            parents[entry.name] = (entry / "stat").read_text().rpartition(")")[2].split()[1]
        except (OSError, ValueError):
            continue
        is_ours = f"XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}".encode() in environ
        has_key = any(os.environ["SYNTH_API_KEY"].encode() in line for line in environ)
        found[entry.name] = [arguments, is_ours, has_key]
    # Others use this machine too. A child of ours is ours, whatever its environment is.
    processes = []
    for pid, (arguments, is_ours, has_key) in found.items():
        above = pid
        while not is_ours and (above := parents.get(above)) in found:
            is_ours = found[above][1]
        if is_ours:
            processes.append([arguments, has_key])
    files = {}
    for root in (os.environ["XDG_RUNTIME_DIR"], os.environ["XDG_STATE_HOME"], os.getcwd()):
        for path in pathlib.Path(root).rglob("*"):
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                files[str(path)] = [stat.S_IMODE(mode), path.read_text("latin-1")]
    note(json.loads(next(v[1] for k, v in files.items() if k.endswith("/keeper.json")))["secret"])
    (NOTES / "seen.json").write_text(json.dumps([processes, files]))
"""

MADE = re.compile(r"(?:at|sk|wt)_[0-9a-f]{6}")
"""How each token begins that our backend makes, the agent's too, which no test gets to see."""

PART_LENGTH = 12

KINDS = {
    "keeper": r"pytest_synth_tunnels\.keeper\.process\.main",
    "command": r"app\.py [0-9]+$",
    "its child": r"^sleep 60$",
}
"""Processes that need no key, or may not, by their arguments."""


class Searcher:
    """Finds secrets, and good parts of them."""

    def __init__(self, secrets: set[str]) -> None:
        self._parts = {
            secret[start : start + PART_LENGTH]
            for secret in secrets
            for start in range(len(secret) - PART_LENGTH + 1)
        }

    def found(self, text: str) -> list[str]:
        """Return the lines that show one."""
        return [
            line
            for line in text.splitlines()
            if MADE.search(line) or any(part in line for part in self._parts)
        ]


@pytest.fixture
def notes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the run's tests note the secrets that they see, out of what is searched."""
    path = tmp_path_factory.mktemp("notes")
    monkeypatch.setenv("NOTES", str(path))
    return path


def searcher(notes: Path) -> Searcher:
    texts = [path.read_text() for path in notes.glob("secrets-*")]
    return Searcher({API_KEY, *"\n".join(texts).split()})


@pytest.mark.parametrize(
    ("backend", "arguments"),
    [
        ("embedded", ["--full-trace"]),
        ("hosted", ["-vv"]),
        ("hosted", ["-n", "2", "-vv"]),
    ],
)
def test_a_talkative_run_shows_no_secret(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    notes: Path,
    backend: str,
    arguments: list[str],
) -> None:
    app = pytester.makefile(".py", app=APP)
    command = f"--synth-tunnels-command={sys.executable} {app} {{port}}"
    pytester.makepyfile(PREFACE + TESTS)

    options = [f"--synth-tunnels-backend={backend.replace('hosted', hosted.url)}", command]
    result = pytester.runpytest_subprocess(*NOSY, *arguments, *options)

    search = searcher(notes)
    assert search.found(result.stdout.str()) == []
    assert search.found(result.stderr.str()) == []
    assert search.found((pytester.path / "report.xml").read_text()) == []
    log = (pytester.path / "log.txt").read_text()
    assert search.found(log) == []
    # Workers overwrite each other's log files.
    assert "-n" in arguments or "with ***" in log
    processes: list[tuple[str, bool]]
    files: dict[str, tuple[int, str]]
    processes, files = json.loads((notes / "seen.json").read_text())
    assert search.found("\n".join(arguments for arguments, _ in processes)) == []
    has_key = {
        kind: has_key
        for arguments, has_key in processes
        for kind, pattern in KINDS.items()
        if re.search(pattern, arguments)
    }
    assert has_key == {"keeper": False, "command": False, "its child": False}
    assert [name for name in files if name.endswith("/keeper.log")]
    for name, (mode, text) in files.items():
        if name.endswith("/keeper.json"):
            assert mode == 0o600
        else:
            assert search.found(text) == [], name
    for path in pytester.path.rglob("*"):
        if path.is_file():
            assert search.found(path.read_text("latin-1")) == [], path
    runtime.assert_nothing_left()


def test_our_own_errors_show_no_secret(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, notes: Path
) -> None:
    pytester.makepyfile(
        PREFACE
        + """
def run_file():
    return next(pathlib.Path(os.environ["XDG_RUNTIME_DIR"]).rglob("keeper.json"))

def test_an_impostor(synth_lease):
    found = json.loads(run_file().read_text())
    note(found["secret"])
    found["secret"] = note("5ec7e7" * 10)
    run_file().write_text(json.dumps(found))
    del found
    asyncio.run(synth_lease.wait_ready_async(1))

def test_the_keeper_is_dead(synth_lease):
    os.kill(json.loads(run_file().read_text())["pid"], 9)
    synth_lease.status()
"""
    )

    result = pytester.runpytest_subprocess(*NOSY, "--full-trace", "-vv")

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*KeeperError: the tunnel keeper of this run is gone*"])
    assert searcher(notes).found(result.stdout.str() + result.stderr.str()) == []


@pytest.mark.parametrize("key", ["sk-wrong-fedcba9876543210", "sk-odd-fedcba98765\x0143210"])
def test_a_refused_key_is_not_shown(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", key)
    pytester.makepyfile("def test_it(synth_lease): pass")

    result = pytester.runpytest_subprocess(*NOSY, "--full-trace", "-vv")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*API*key*"])
    assert Searcher({key}).found(result.stdout.str() + result.stderr.str()) == []
    runtime.assert_nothing_left()
