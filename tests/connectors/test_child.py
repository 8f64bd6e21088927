import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels.connectors import child as module
from pytest_synth_tunnels.connectors.child import _WINDOWS_GUARD, Child, Tail

from ..support.processes import gone, until

SECRET = "tt_a_secret_of_some_length"


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def python(code: str, **options: Any) -> Child:
    return Child([sys.executable, "-S", "-u", "-c", code], environ={}, **options)


def test_a_tail_is_lines() -> None:
    seen: list[str] = []
    tail = Tail(on_line=seen.append)
    assert tail.quoted() == "it printed nothing"

    tail.feed(b"one\ntw")
    assert seen == ["one"]
    assert tail.lines() == ["one", "tw"]
    tail.feed(b"o\r\n\n\xff\n")

    assert seen == tail.lines() == ["one", "two", "", "\ufffd"]
    assert tail.lines(1) == ["\ufffd"]
    assert tail.quoted() == "its last lines:\n  one\n  two\n  \n  \ufffd"


def test_a_tail_is_bounded() -> None:
    tail = Tail(max_lines=3)
    tail.feed(b"".join(b"%d\n" % number for number in range(100_000)))
    assert tail.lines() == ["99997", "99998", "99999"]

    for _ in range(100):
        tail.feed(b"x" * 10_000)
    assert len(tail._rest) < 10_000
    tail.feed(b"\nnext\n")
    assert [len(line) for line in tail.lines()] == [5, 1000, 4]


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_secrets_are_masked_however_they_come(pieces: int) -> None:
    tail = Tail([SECRET])
    text = f"token {SECRET}, again {SECRET} {'.' * 900}{SECRET} {'.' * 8000}{SECRET}\n".encode()
    size = len(text) // pieces + 1
    for start in range(0, len(text), size):
        tail.feed(text[start : start + size])
        assert SECRET not in repr(tail.lines())

    (line,) = tail.lines()
    assert line.startswith("token ***, again *** ....")
    assert "tt_" not in line


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    tail = Tail()
    tail.feed(b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x00tab\there\x7f\n")

    assert tail.lines() == ["red ]0;title tab\there"]


def test_its_lines_its_end_and_its_environment() -> None:
    async def main() -> None:
        seen: list[str] = []
        code = (
            "import os, sys; print(dict(os.environ).keys() - {'LC_CTYPE'}, os.getpgid(0) =="
            " os.getpid()); print('no', file=sys.stderr); sys.exit(3)"
        )
        child = python(code, on_line=seen.append)
        assert child.pid == 0
        await child.start()
        assert await child.wait() == "exit status 3"
        assert seen == ["set() True", "no"]
        await child.stop()
        await child.stop()
        assert child.outcome() == "exit status 3"

    run(main)


def test_what_it_is_given_stays_open_until_it_is_stopped() -> None:
    async def main() -> None:
        code = "import sys; print(sys.stdin.readline(), end=''); print(repr(sys.stdin.read()))"
        child = python(code, stdin_data=b"hello\n")
        await child.start()
        await until(lambda: child.tail.lines())
        assert child.tail.lines(1) == ["hello"]
        assert not child.exited.is_set()
        await child.stop()
        assert child.exited.is_set()

    run(main)


def test_one_that_ends_without_reading_what_it_is_given() -> None:
    async def main() -> None:
        child = python("import os; os.close(0)", stdin_data=b"x" * 1_000_000)
        await child.start()
        assert await child.wait() == "exit status 0"
        await child.stop()

    run(main)


@pytest.mark.skipif(os.name != "posix", reason="process groups and signals")
def test_one_that_does_not_want_to_end_and_its_own_child() -> None:
    async def main() -> None:
        code = (
            "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "os.fork(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
        )
        child = python(code)
        await child.start()
        await until(lambda: len(child.tail.lines()) == 2)
        pids = [int(line) for line in child.tail.lines()]
        await child.stop(grace_s=0.05)
        for pid in pids:
            await gone(pid)
        assert child.outcome() == "SIGKILL"

    run(main)


@pytest.mark.skipif(os.name != "posix", reason="process groups and signals")
def test_stopping_that_is_cancelled_still_kills() -> None:
    async def main() -> None:
        code = (
            "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print(os.getpid()); time.sleep(60)"
        )
        child = python(code)
        await child.start()
        await until(lambda: child.tail.lines())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await child.stop(grace_s=30)
        await gone(int(child.tail.lines()[0]))
        await child.exited.wait()

    run(main)


def test_one_that_cannot_be_run() -> None:
    async def main() -> None:
        with pytest.raises(OSError, match="No such file"):
            await Child(["/no/such/program"], environ={}).start()
        with pytest.raises(ValueError, match="null byte"):
            await python("\0").start()

    run(main)


@pytest.mark.skipif(os.name != "posix", reason="process groups and signals")
def test_the_number_of_one_that_is_gone_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        child = python("pass")
        await child.start()
        await child.wait()
        assert child._guard is None
        monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("somebody else's"))
        await child.stop()

    run(main)


@pytest.mark.skipif(os.name != "posix", reason="process groups and signals")
def test_one_that_is_gone_before_its_start_is_known_has_no_guard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        child = python("pass")
        loop = asyncio.get_running_loop()

        async def start_late(*args: Any, **options: Any) -> Any:
            started = await loop.subprocess_exec(*args, **options)
            await child.exited.wait()
            return started

        late = SimpleNamespace(subprocess_exec=start_late)
        known = {**vars(asyncio), "get_running_loop": lambda: late}
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(**known))
        await child.start()
        assert child._guard is None
        monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("somebody else's"))
        await child.stop()

    run(main)


@pytest.mark.skipif(os.name != "posix", reason="guards")
def test_without_a_guard_there_is_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int) -> None:
        raise OSError("no more processes")

    async def main() -> None:
        monkeypatch.setattr("pytest_synth_tunnels.connectors.child._guard", fail)
        child = python("import time; time.sleep(60)")
        with pytest.raises(OSError, match="no more processes"):
            await child.start()
        await gone(child.pid)

    run(main)


@pytest.mark.skipif(os.name != "posix", reason="plays taskkill with a script")
def test_what_a_guard_does_on_windows(tmp_path: Path) -> None:
    told = tmp_path / "told"
    taskkill = tmp_path / "taskkill"
    taskkill.write_text(f'#!/bin/sh\necho "$@" > {told}\n')
    taskkill.chmod(0o755)
    with subprocess.Popen(
        [*_WINDOWS_GUARD, "1234"], stdin=subprocess.PIPE, env={"PATH": str(tmp_path)}
    ) as guard:
        assert guard.stdin is not None
        assert not told.exists()
        guard.stdin.close()
        assert guard.wait(20) == 0

    assert told.read_text() == "/T /F /PID 1234\n"
