"""``synth-tunnels expose`` and ``inbox`` as a person starts them: in a terminal of their own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from .conftest import RuntimeDirectory

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals"),
]

TIMEOUT_S = 30.0

SLOW_APP = """
import http.server, sys, time
from pathlib import Path
while not Path("go").exists():
    time.sleep(0.01)
Path("pid").write_text(str(__import__("os").getpid()))
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


class Terminal:
    """A program in a pseudo-terminal, of which it is the foreground group."""

    def __init__(self, path: Path, *arguments: str) -> None:
        import pty

        self.text = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest_synth_tunnels", *arguments],
            cwd=path,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
            env={**os.environ, "COLUMNS": "200"},
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # the program and all that it started are gone
                return
            if not data:
                return
            self.text += data.decode()

    def shows(self, part: str) -> None:
        """Wait until a text is on the screen."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while part not in self.text:
            assert self.process.poll() is None or part in self.text, self.text
            assert time.monotonic() < deadline_s, self.text
            time.sleep(0.01)

    @property
    def url(self) -> str:
        self.shows("Ctrl-C ends it.")
        return next(word for word in self.text.split() if word.startswith("http://"))

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def end(self) -> int:
        """Wait for the end of the program, and return its exit code."""
        code = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(TIMEOUT_S)
        os.close(self._master)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def start(tmp_path: Path, runtime: RuntimeDirectory) -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        terminals.append(Terminal(tmp_path, *arguments))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def status(url: str, data: bytes | None = None) -> int:
    with urlopen(url, data, timeout=20) as answer:
        found: int = answer.status
        return found


def is_refused(url: str) -> bool:
    try:
        status(url)
    except URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


def nothing_is_left(runtime: RuntimeDirectory, url: str) -> None:
    """Check that no process, file or listener is left, within the time that a keeper needs."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while runtime.processes() or runtime.files() or not is_refused(url):
        left = runtime.processes(), runtime.files()
        assert time.monotonic() < deadline_s, left
        time.sleep(0.02)


def test_a_port_is_exposed_until_ctrl_c(
    start: Callable[..., Terminal], runtime: RuntimeDirectory
) -> None:
    app = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    port = app.server_port
    app.server_close()
    terminal = start("expose", str(port))
    url = terminal.url
    assert f"{url} leads to http://127.0.0.1:{port}" in terminal.text
    assert "wt_" not in terminal.text
    terminal.shows(f"Nothing listens at http://127.0.0.1:{port} yet")

    app = HTTPServer(("127.0.0.1", port), SimpleHTTPRequestHandler)
    thread = threading.Thread(target=app.serve_forever, args=(0.01,))
    thread.start()
    try:
        terminal.shows("Something listens")
        assert status(f"{url}/?password=hidden") == 200
        terminal.shows("GET /?password=***  200  ")
        terminal.press_ctrl_c()
        assert terminal.end() == 0
    finally:
        app.shutdown()
        app.server_close()
        thread.join()
    assert "hidden" not in terminal.text
    assert "Traceback" not in terminal.text
    runtime.assert_nothing_left()
    assert is_refused(url)


def test_a_killed_program_leaves_neither_tunnel_nor_command(
    start: Callable[..., Terminal], runtime: RuntimeDirectory, tmp_path: Path
) -> None:
    (tmp_path / "slow_app.py").write_text(SLOW_APP)
    terminal = start("expose", "--command", f"{sys.executable} slow_app.py {{port}}")
    terminal.shows(" s for --command to listen on 127.0.0.1:")
    (tmp_path / "go").touch()
    url = terminal.url
    assert status(f"{url}/go") == 200
    terminal.shows("GET /go  200")
    command_pid = int((tmp_path / "pid").read_text())

    terminal.process.kill()
    assert terminal.end() == -signal.SIGKILL
    nothing_is_left(runtime, url)
    with pytest.raises(ProcessLookupError):
        os.kill(command_pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_inbox_ends_with_a_signal(
    start: Callable[..., Terminal], runtime: RuntimeDirectory, number: signal.Signals
) -> None:
    terminal = start("inbox")
    url = terminal.url
    assert urlsplit(url).path == ""
    assert status(f"{url}/hooks", b"x=1") == 200
    terminal.shows("POST /hooks  200")

    terminal.process.send_signal(number)
    assert terminal.end() == 0
    runtime.assert_nothing_left()


def test_a_command_that_ends_is_told(
    start: Callable[..., Terminal], runtime: RuntimeDirectory
) -> None:
    terminal = start("expose", "--command", f"{sys.executable} -c 'exit(\"bad luck\")'")

    assert terminal.end() == 1
    assert "synth-tunnels: --command ended (exit status 1) before it listened" in terminal.text
    assert "bad luck" in terminal.text
    runtime.assert_nothing_left()
