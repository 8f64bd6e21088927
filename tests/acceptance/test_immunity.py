"""Tests that block, fake, freeze or patch things keep their tunnel, and see nothing of it.

Each kind of patch has a run of its own, in which a patched test is the first to ask for a tunnel:
our modules are then loaded, the keeper started and its answers read under the patch. Callers and
the app are in this process, out of the patch's reach.
"""

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest

from ..conftest import Recorder
from .conftest import RuntimeDirectory

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(sys.platform == "win32", reason="the patches are those of POSIX"),
]

CONFTEST = """
import _socket, json, os, threading

import pytest

APP_URL = os.environ["APP_URL"]

class Outside:
    '''A caller in another process, over a connection that is older than any patch.'''

    dumps, loads, waitpid = staticmethod(json.dumps), staticmethod(json.loads), os.waitpid

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
        threads = threading.enumerate()
        lease = request.getfixturevalue("synth_lease")
        request.getfixturevalue("exposed_socket")
        lease.wait_ready(10)
        assert lease.status()["state"] == "active"
        with request.getfixturevalue("synth_expose")(APP_URL) as exposed:
            assert outside.calls(exposed, request.node.name) == 200
        assert threading.enumerate() == threads
        with pytest.raises(ChildProcessError):
            outside.waitpid(-1, os.WNOHANG)
        return lease
    return use_tunnels
"""

USE = """
def test_first(patched, use_tunnels):
    use_tunnels()

def test_again(patched, use_tunnels):
    use_tunnels()

def test_unpatched(use_tunnels):
    use_tunnels()
"""

BY_NAME = """
def test_by_name(synth_lease, patched, use_tunnels):
    use_tunnels()
"""

PATCHES = {
    "pytest-httpx": """
        @pytest.fixture
        def patched(httpx_mock):
            yield
            assert httpx_mock.get_requests() == []
        """,
    "respx": """
        @pytest.fixture
        def patched(respx_mock):
            yield
            assert len(respx_mock.calls) == 0
        """,
    "pytest-socket's mark": """
        pytestmark = pytest.mark.disable_socket

        @pytest.fixture
        def patched():
            with pytest.raises(RuntimeError), pytest.warns(UserWarning, match="socket"):
                socket.socket()
        """,
    "block_network": """
        pytestmark = pytest.mark.block_network

        @pytest.fixture
        def patched():
            with socket.socket() as blocked, pytest.raises(RuntimeError):
                blocked.connect(("127.0.0.1", 9))
        """,
    "VCR": """
        @pytest.fixture
        def patched(tmp_path):
            import vcr

            with vcr.use_cassette(tmp_path / "none.yaml", record_mode="none") as cassette:
                yield
            assert cassette.play_count == 0
            assert not cassette.dirty
        """,
    "freezegun": """
        @pytest.fixture
        def patched():
            import freezegun

            with freezegun.freeze_time("2001-02-03", auto_tick_seconds=60):
                yield

        @pytest.fixture
        def use_tunnels(use_tunnels):
            def use():
                before = time.time()
                lease = use_tunnels()
                assert time.time() - before in (0, 60), "somebody else looked at the clock"
                return lease
            return use
        """,
    "time-machine": """
        @pytest.fixture
        def patched():
            import time_machine

            with time_machine.travel(0, tick=False):
                yield
        """,
    "pyfakefs": """
        @pytest.fixture
        def patched(fs):
            yield
            assert sorted(os.listdir("/")) == ["tmp"]
        """,
    "pyfakefs for the session": """
        @pytest.fixture
        def patched(fs_session):
            yield
            assert sorted(os.listdir("/")) == ["tmp"]
        """,
    "pytest-subprocess": """
        @pytest.fixture
        def patched(fp):
            yield
            assert not fp.calls
        """,
    "mock.patch": """
        @pytest.fixture
        def patched():
            names = ["subprocess.Popen", "subprocess.run", "builtins.open", "io.open"]
            names += ["os." + name for name in (
                "open", "read", "write", "close", "pipe", "mkdir", "stat", "lstat", "getpid",
                "fork", "posix_spawn", "waitpid", "kill", "urandom",
            )]
            names += ["socket.socket", "socket.create_connection", "select.select", "select.poll"]
            names += ["time.time", "time.sleep", "time.monotonic", "threading.Thread"]
            names += ["json.loads", "json.dumps", "tempfile.gettempdir", "secrets.token_hex"]
            with contextlib.ExitStack() as stack:
                for name in names:
                    stack.enter_context(mock.patch(name, side_effect=NotImplementedError(name)))
                yield
        """,
    "another platform": """
        @pytest.fixture
        def patched(monkeypatch):
            monkeypatch.setattr(os, "name", "nt")
            monkeypatch.setattr(sys, "platform", "win32")
            monkeypatch.setattr(sys, "executable", "/none")
            yield
            monkeypatch.undo()
        """,
    "another place": """
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
    "other modules": """
        @pytest.fixture
        def patched():
            with mock.patch.dict(sys.modules, {"asyncio": mock.Mock(), "httpx": None}):
                yield
        """,
    "a loop of os.wait": """
        @pytest.fixture
        def patched():
            yield
            with pytest.raises(ChildProcessError):
                while True:
                    os.wait()
        """,
}

IMPORTS = (
    "import contextlib, os, socket, sys, tempfile, time\nfrom unittest import mock\nimport pytest\n"
)


@pytest.fixture
def immune(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[pytest.Pytester]:
    """A suite that has a caller and an app outside."""

    class Caller(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                with urlopen(Request(**json.loads(line)), timeout=20) as answer:
                    self.wfile.write(json.dumps(answer.status).encode())

    with socketserver.TCPServer(("127.0.0.1", 0), Caller) as caller:
        monkeypatch.setenv("APP_URL", recorder.url)
        monkeypatch.setenv("CALLER_PORT", str(caller.server_address[1]))
        thread = threading.Thread(target=caller.serve_forever, args=(0.01,))
        thread.start()
        pytester.makeconftest(CONFTEST)
        yield pytester
        caller.shutdown()
        thread.join()


def module(patch: str, tests: str) -> str:
    from textwrap import dedent

    return IMPORTS + dedent(patch) + tests


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
def test_first_use_under_a_patch(
    immune: pytest.Pytester, runtime: RuntimeDirectory, recorder: Recorder, patch: str
) -> None:
    immune.makepyfile(test_patched=module(patch, USE))

    result = immune.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=3)
    assert [r.target for r in recorder.requests] == ["/test_first", "/test_again", "/test_unpatched"]
    runtime.assert_nothing_left()
