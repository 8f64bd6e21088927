"""ShortageLog: what it writes, with a clock of its own; and a process that runs out of files."""

import errno
import logging
import subprocess
import sys
from typing import Any

import pytest

from pytest_synth_tunnels.aio.shortage import ShortageLog


class FakeLoop:
    def __init__(self) -> None:
        self.default: list[dict[str, Any]] = []

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.default.append(context)


class Bench:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.loop = FakeLoop()
        self.handler = ShortageLog(lambda: self.now_s)

    def fail(self, error: BaseException | None = None, **context: Any) -> None:
        error = error or OSError(errno.EMFILE, "Too many open files")
        context = {"message": "x", "exception": error, "socket": object(), **context}
        self.handler(self.loop, context)  # type: ignore[arg-type]


def test_a_shortage_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for _ in range(35):
        for _ in range(1024):
            bench.fail()
        bench.now_s += 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "no more connections can be accepted: Too many open files" in lines[0]
    assert "ulimit -n" in lines[0]
    # The second line comes after 10 s, the third 20 s later.
    assert "(10240 attempts since)" in lines[1]
    assert "(20480 attempts since)" in lines[2]
    assert bench.loop.default == []


def test_the_next_shortage_is_told_as_the_first(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for pause_s in (0, 59, 60):
        bench.now_s += pause_s
        bench.fail()
    assert [record.getMessage()[:5] for record in caplog.records] == ["no mo", "still", "no mo"]


def test_other_reports_go_where_they_did(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.fail(OSError(errno.EINVAL, "no"))
    bench.fail(ValueError("no"))
    bench.handler(bench.loop, {"message": "no exception"})  # type: ignore[arg-type]
    assert len(bench.loop.default) == 3
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


PROGRAM = """
import asyncio, logging, os, resource, socket, sys
from pytest_synth_tunnels.aio import runtime

async def main():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, backlog=1024)
    address = server.sockets[0].getsockname()
    callers = [socket.socket() for _ in range(20)]
    open_files = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    for caller in callers:
        caller.setblocking(False)
        caller.connect_ex(address)
    await asyncio.sleep(1.5)

logging.basicConfig()
sys.modules["uvloop"] = None  # its loop reports otherwise
runtime.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_a_process_without_files_says_so_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    (line,) = done.stderr.splitlines()
    assert "no more connections can be accepted" in line
