"""Tests that block, fake, freeze or patch things keep their tunnel, and see nothing of it.

Each kind of patch has a run of its own, in which a patched test is the first to ask for a tunnel:
the keeper is then found, or started, and asked under the patch. Callers and the app are in this
process, out of the patch's reach.
"""

import json
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from textwrap import dedent
from urllib.request import Request, urlopen

import pytest

from ..conftest import Recorder
from .conftest import OTHER_PLUGINS, RuntimeDirectory

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(sys.platform == "win32", reason="what is patched is POSIX's"),
]

CONFTEST = """
import _socket, asyncio, json, os, threading
from datetime import datetime

import pytest

APP_URL = os.environ["APP_URL"]

class Outside:
    # A caller in another process, over a connection that is older than any patch.
    dumps, loads, waitpid = staticmethod(json.dumps), staticmethod(json.loads), os.waitpid
    datetime = datetime

    def __init__(self):
        self._socket = _socket.socket()
        self._socket.connect(("127.0.0.1", int(os.environ["CALLER_PORT"])))

    def calls(self, lease, path):
        call = {"url": lease.url(path), "headers": dict(lease.headers)}
        self._socket.sendall(self.dumps(call).encode() + b"\\n")
        return self.loads(self._socket.recv(4096))

    def close(self):
        self._socket.close()

outside = Outside()

def pytest_unconfigure():
    outside.close()

@pytest.fixture
def use_tunnels(request):
    def use_tunnels():
        from pytest_synth_tunnels import KeeperError

        threads = threading.enumerate()
        lease = request.getfixturevalue("synth_lease")
        request.getfixturevalue("exposed_socket")
        lease.wait_ready(10)
        assert lease.status()["state"] == "active"
        assert lease.refresh_worker_token() in lease.headers.values()
        with request.getfixturevalue("synth_expose")(APP_URL) as exposed:
            assert outside.calls(exposed, request.node.name) == 200
            call = exposed.traffic.wait_for("GET", timeout_s=10)
            assert call.response.status == 200
            assert type(call.received_at) is outside.datetime
        inbox = request.getfixturevalue("synth_inbox")
        inbox.respond("GET", "/seen", status=202)
        assert outside.calls(inbox, "/seen") == 202
        with inbox.expect("GET", "/again", timeout_s=10):
            assert outside.calls(inbox, "/again") == 200
        assert inbox.wait_for("GET", "/seen").answered_by == "inbox"
        with pytest.raises(AssertionError, match="no request matched"):
            inbox.wait_for("PUT", timeout_s=0.05)
        assert type(lease.expires_at) is outside.datetime
        with pytest.raises(KeeperError, match="shared"):
            lease.close()
        assert threading.enumerate() == threads
        with pytest.raises(ChildProcessError):
            outside.waitpid(-1, os.WNOHANG)
        return lease
    return use_tunnels
"""

TESTS = """
def test_first(patched, use_tunnels):
    use_tunnels()

def test_again(patched, use_tunnels):
    use_tunnels()

def test_unpatched(use_tunnels):
    use_tunnels()
"""

# The plugin that a patch needs, and its arguments; what a test module does with it.
PATCHES: dict[str, tuple[list[str], str]] = {
    "pytest-httpx": (
        ["pytest_httpx"],
        """
        @pytest.fixture
        def patched(httpx_mock):
            yield
            assert httpx_mock.get_requests() == []
        """,
    ),
    "respx": (
        ["respx"],
        """
        @pytest.fixture
        def patched(respx_mock):
            yield
            assert len(respx_mock.calls) == 0
        """,
    ),
    "pytest-socket": (
        ["socket", "--disable-socket"],
        """
        @pytest.fixture
        def patched():
            with pytest.raises(RuntimeError), pytest.warns(UserWarning, match="socket"):
                socket.socket()
        """,
    ),
    "pytest-socket-hosts": (
        ["socket", "--allow-hosts=127.0.0.1"],
        """
        @pytest.fixture
        def patched():
            with socket.socket() as blocked, pytest.raises(RuntimeError), pytest.warns(UserWarning):
                blocked.connect(("192.0.2.1", 9))
        """,
    ),
    "pytest-socket-mark": (
        ["socket"],
        """
        pytestmark = pytest.mark.disable_socket

        @pytest.fixture
        def patched():
            with pytest.raises(RuntimeError), pytest.warns(UserWarning, match="socket"):
                socket.socket()
        """,
    ),
    "block_network": (
        ["recording"],
        """
        pytestmark = pytest.mark.block_network

        @pytest.fixture
        def patched():
            with socket.socket() as blocked, pytest.raises(RuntimeError):
                blocked.connect(("127.0.0.1", 9))
        """,
    ),
    "vcr": (
        ["recording", "--record-mode=none"],
        """
        pytestmark = pytest.mark.vcr

        @pytest.fixture
        def patched(vcr):
            yield
            assert vcr.play_count == 0
            assert not vcr.dirty
        """,
    ),
    "freezegun": (
        [],
        """
        import freezegun

        @pytest.fixture
        def patched():
            with freezegun.freeze_time("2001-02-03", auto_tick_seconds=60):
                yield

        @pytest.fixture
        def use_tunnels(use_tunnels):
            def use():
                before = time.time()
                lease = use_tunnels()
                if before < 1e9:
                    assert time.time() - before == 60, "somebody else looked at the clock"
                with freezegun.freeze_time("2001-02-03"):
                    asyncio.run(lease.wait_ready_async(5))
            return use
        """,
    ),
    "time-machine": (
        ["time_machine"],
        """
        import time_machine

        @pytest.fixture
        def patched():
            with time_machine.travel(0, tick=False):
                yield
                assert time.time() == 0
        """,
    ),
    "pyfakefs": (
        ["fakefs"],
        """
        @pytest.fixture
        def patched(fs):
            before = os.listdir("/")
            yield
            assert os.listdir("/") == before
        """,
    ),
    "pyfakefs-session": (
        ["fakefs"],
        """
        @pytest.fixture
        def patched(fs_session):
            assert not os.path.exists(__file__)
        """,
    ),
    "pytest-subprocess": (
        ["pytest-subprocess"],
        """
        @pytest.fixture
        def patched(fp):
            yield
            assert not fp.calls
        """,
    ),
    "mock": (
        [],
        """
        NAMES = {
            "builtins": ["open"],
            "hmac": ["new"],
            "io": ["open"],
            "json": ["dumps", "loads"],
            "os": [
                "access", "close", "fork", "getpid", "kill", "listdir", "lstat", "mkdir", "open",
                "pipe", "posix_spawn", "read", "rmdir", "stat", "unlink", "urandom", "waitpid",
                "write",
            ],
            "secrets": ["token_hex"],
            "select": ["poll", "select"],
            "socket": ["create_connection", "socket"],
            "subprocess": ["Popen", "run"],
            "tempfile": ["gettempdir"],
            "threading": ["Thread"],
            "time": ["monotonic", "sleep", "time"],
        }

        @pytest.fixture
        def patched():
            with contextlib.ExitStack() as stack:
                mocks = [
                    stack.enter_context(mock.patch(f"{module}.{name}"))
                    for module, names in NAMES.items() for name in names
                ]
                yield
            assert [m.mock_calls for m in mocks if m.mock_calls] == []
        """,
    ),
    "another-platform": (
        [],
        """
        @pytest.fixture
        def patched():
            pass

        @pytest.fixture
        def use_tunnels(use_tunnels):
            def use():
                with (
                    mock.patch("os.name", "nt"),
                    mock.patch("sys.platform", "win32"),
                    mock.patch("sys.executable", "/none"),
                ):
                    use_tunnels()
            return use
        """,
    ),
    "another-place": (
        [],
        """
        @pytest.fixture
        def patched(monkeypatch, tmp_path):
            for name in list(os.environ):
                monkeypatch.delenv(name)
            for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
                monkeypatch.setenv(name, str(tmp_path / name))
            monkeypatch.setattr(tempfile, "tempdir", None)
            monkeypatch.chdir(tmp_path)
            monkeypatch.setattr(sys, "path", [])
            yield
            monkeypatch.undo()
            assert list(tmp_path.iterdir()) == []
        """,
    ),
    "other-modules": (
        [],
        """
        @pytest.fixture
        def patched():
            hidden = {"asyncio": None, "httpx": None, "json": None, "select": mock.Mock()}
            with mock.patch.dict(sys.modules, hidden):
                yield
        """,
    ),
    "os-wait": (
        [],
        """
        @pytest.fixture
        def patched():
            yield
            with pytest.raises(ChildProcessError):
                while True:
                    os.wait()
        """,
    ),
    "sigchld": (
        [],
        """
        @pytest.fixture
        def patched():
            seen = []

            def handle(*_):
                seen.append(os.waitpid(-1, os.WNOHANG))

            before = signal.signal(signal.SIGCHLD, handle)
            yield
            assert seen == []
            child = os.posix_spawn("/bin/true", ["true"], {})
            while not seen:
                signal.pause()
            assert seen == [(child, 0)]
            signal.signal(signal.SIGCHLD, before)
        """,
    ),
}

IMPORTS = """
import asyncio, contextlib, os, signal, socket, sys, tempfile, time
from unittest import mock

import pytest
"""


class Caller(socketserver.StreamRequestHandler):
    """Calls what it is told to, and answers with the status."""

    def handle(self) -> None:
        for line in self.rfile:
            with urlopen(Request(**json.loads(line)), timeout=20) as answer:
                self.wfile.write(json.dumps(answer.status).encode())


@pytest.fixture
def run(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., pytest.RunResult]]:
    """Run tests that have a caller and an app outside."""
    # A tracer would run under the patches as well, and is not made for that.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    monkeypatch.setenv("APP_URL", recorder.url)
    pytester.makeconftest(CONFTEST)

    def run(tests: str, plugin: str = "", *arguments: str) -> pytest.RunResult:
        others = [name for name in OTHER_PLUGINS if name != plugin]
        monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in others))
        pytester.makepyfile(IMPORTS + dedent(tests))
        return pytester.runpytest_subprocess("-W", "error", *arguments)

    with socketserver.TCPServer(("127.0.0.1", 0), Caller) as caller:
        monkeypatch.setenv("CALLER_PORT", str(caller.server_address[1]))
        thread = threading.Thread(target=caller.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield run
        finally:
            caller.shutdown()
            thread.join()


@pytest.mark.parametrize(("arguments", "patch"), PATCHES.values(), ids=PATCHES)
def test_first_use_under_a_patch(
    run: Callable[..., pytest.RunResult],
    runtime: RuntimeDirectory,
    recorder: Recorder,
    arguments: list[str],
    patch: str,
) -> None:
    result = run(dedent(patch) + TESTS, *arguments)

    result.assert_outcomes(passed=3)
    seen = [request.target for request in recorder.requests]
    assert seen == ["/test_first", "/test_again", "/test_unpatched"]
    runtime.assert_nothing_left()


def test_use_by_name_while_the_run_is_patched(
    run: Callable[..., pytest.RunResult], runtime: RuntimeDirectory
) -> None:
    result = run(
        """
        @pytest.fixture(scope="session", autouse=True)
        def patched():
            with mock.patch("time.time", return_value=0), mock.patch("subprocess.Popen"):
                yield

        def test_by_name(synth_lease, exposed_socket, use_tunnels):
            use_tunnels()

        def test_inherited(tunnelled, use_tunnels):
            use_tunnels()

        @pytest.fixture
        def tunnelled(synth_lease):
            return synth_lease
        """,
        "socket",
        "--disable-socket",
    )

    result.assert_outcomes(passed=2)
    runtime.assert_nothing_left()


# From Python 3.12 on, a fork warns where threads run.
def test_forks(run: Callable[..., pytest.RunResult], runtime: RuntimeDirectory) -> None:
    result = run(
        """
        import multiprocessing, subprocess, warnings

        @pytest.fixture
        def in_a_child():
            def in_a_child(what):
                with warnings.catch_warnings(record=True) as told:
                    # As an error, a fork swallows it.
                    warnings.simplefilter("always")
                    child = os.fork()
                if child == 0:
                    failed = True
                    with contextlib.suppress(BaseException):
                        what()
                        failed = False
                    os._exit(failed)
                assert os.waitpid(child, 0) == (child, 0)
                assert told == []
            return in_a_child

        def test_first_use_in_a_child(request, in_a_child):
            in_a_child(lambda: request.getfixturevalue("synth_lease").status())

        def test_use_on_both_sides(use_tunnels, in_a_child):
            lease = use_tunnels()
            in_a_child(lambda: lease.wait_ready(5))
            in_a_child(lease.refresh_worker_token)
            in_a_child(lambda: None)
            use_tunnels()

        def test_processes(use_tunnels):
            process = multiprocessing.get_context("fork").Process(target=use_tunnels().status)
            process.start()
            process.join()
            assert process.exitcode == 0
            process.close()
            subprocess.run(["true"], preexec_fn=os.getpid, check=True)
            use_tunnels()
        """
    )

    result.assert_outcomes(passed=3)
    runtime.assert_nothing_left()
