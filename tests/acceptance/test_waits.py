"""What a person sees while a run waits."""

import os
import subprocess
import sys
import time

import pytest

from .conftest import RuntimeDirectory

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals"),
]

TIMEOUT_S = 40.0

GATED_APP = """
import http.server, sys, time
from pathlib import Path
while not Path("go").exists():
    time.sleep(0.01)
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""
"""A command that listens once the person has seen that it is waited for."""

TESTS = """
def test_first(): pass
def test_lease(synth_lease): print("captured")
def test_last(): pass
"""


def run_until_shown(
    pytester: pytest.Pytester, *arguments: str, times: int, in_terminal: bool
) -> str:
    """Run tests until they have said some times that they wait, let the command listen, and return
    all that was written."""
    import pty

    pytester.makepyfile(gated_app=GATED_APP, test_gated=TESTS)
    command = f"--synth-tunnels-command={sys.executable} gated_app.py {{port}}"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", command, *arguments],
        cwd=pytester.path,
        stdin=slave,
        stdout=slave if in_terminal else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "150"},
    )
    os.close(slave)
    source = master if process.stdout is None else process.stdout.fileno()
    text = ""
    deadline_s = time.monotonic() + TIMEOUT_S
    while data := _read(source):
        text += data.decode()
        assert time.monotonic() < deadline_s, text
        if text.count("synth tunnels: waiting ") >= times:
            (pytester.path / "go").touch()
    assert process.wait(TIMEOUT_S) == 0, text
    os.close(master)
    if process.stdout is not None:
        process.stdout.close()
    return text


def _read(source: int) -> bytes:
    try:
        return os.read(source, 65_536)
    except OSError:  # the terminal has no program any more
        return b""


def test_one_line_is_rewritten_on_a_terminal(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    text = run_until_shown(pytester, times=2, in_terminal=True)

    lines = text.split("\r\n")
    (waited,) = [line for line in lines if "synth_tunnels_command to" in line]
    states = [state.partition(" s for ")[0] for state in waited.split("\r") if state]
    times_s = [int(state.removeprefix("synth tunnels: waiting ")) for state in states[:-1]]
    assert times_s == sorted(set(times_s))
    assert len(times_s) >= 2
    assert times_s[0] >= 2
    assert states[-1].startswith("synth tunnels: waited ")
    assert lines[lines.index(waited) - 1] == "test_gated.py ."
    assert "captured" not in text
    assert "3 passed" in text
    runtime.assert_nothing_left()


def test_the_controller_of_workers_writes_a_line(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    text = run_until_shown(pytester, "-n", "2", times=1, in_terminal=False)

    lines = text.splitlines()
    (waiting,) = [line for line in lines if line.startswith("synth tunnels: waiting ")]
    assert " s for synth_tunnels_command to listen on 127.0.0.1:" in waiting
    around = lines[lines.index(waiting) - 1], lines[lines.index(waiting) + 1].split()[0]
    assert set("".join(around)) == {"."}
    assert "3 passed" in text
    runtime.assert_nothing_left()
