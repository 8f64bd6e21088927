import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.app_command import AppCommand
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.ports import PortReservation, accepts
from pytest_synth_tunnels.keeper.process.process_watch import watch_process

SERVE = """\
import socket, sys, os, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
print("pid", os.getpid(), os.environ.get("COLOUR"), os.getcwd(), flush=True)
s.listen()
"""

STAY = "time.sleep(60)\n"


@pytest.fixture
def port():
    reservation = PortReservation()
    yield reservation.port
    reservation.close()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(code: str) -> str:
        path = tmp_path / "app.py"
        path.write_text(code)
        return f"'{sys.executable}' -S '{path}' {{port}}"

    return write


def command(template: str, port: int, tmp_path: Path, **options: Any) -> AppCommand:
    defaults: dict[str, Any] = {
        "environ": {"COLOUR": "blue", "PATH": os.environ["PATH"]},
        "cwd": str(tmp_path),
        "timeout_s": 20.0,
        "on_death": lambda message: None,
        "public_url": None,
        "is_secret": False,
    }
    return AppCommand(template, port=port, **(defaults | options))


def lines(app: AppCommand) -> list[str]:
    assert app._child is not None
    return app._child.tail.lines()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


def failure(main: Callable[[], Awaitable[None]]) -> str:
    with pytest.raises(KeeperRequestError) as caught:
        run(main)
    assert caught.value.code == "COMMAND_FAILED"
    return caught.value.message


async def gone(pid: int) -> None:
    died = asyncio.Event()
    watch_process(pid, died.set)
    await died.wait()


def test_it_serves_until_stopped(port: int, script: Any, tmp_path: Path) -> None:
    async def main() -> None:
        app = command(script(SERVE + STAY), port, tmp_path)
        await app.start()
        assert await accepts("127.0.0.1", port, 5)
        _, pid, colour, cwd = lines(app)[0].split()
        assert (colour, cwd) == ("blue", str(tmp_path))

        await app.stop()

        await gone(int(pid))
        assert not await accepts("127.0.0.1", port, 5)
        await app.stop()

    run(main)


def test_what_it_started_and_what_ignores_the_request_ends_too(
    port: int, script: Any, tmp_path: Path
) -> None:
    code = (
        "import signal, os\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\nif not child:\n    import time; time.sleep(60)\n"
        "print(child, flush=True)\n"
    )

    async def main() -> None:
        app = command(script(code + SERVE + STAY), port, tmp_path)
        await app.start()
        child = int(lines(app)[0])
        pid = int(lines(app)[1].split()[1])

        await app.stop(grace_s=0.1)

        await gone(pid)
        await gone(child)

    run(main)


def test_a_child_left_behind_by_a_command_that_ended(
    port: int, script: Any, tmp_path: Path
) -> None:
    code = SERVE + "child = os.fork()\nif not child: time.sleep(60)\nprint(child, flush=True)\n"
    code += "time.sleep(60 if not child else 0.3)\n"

    async def main() -> None:
        died: asyncio.Queue[str] = asyncio.Queue()
        app = command(script(code), port, tmp_path, on_death=died.put_nowait)
        await app.start()
        assert "exit status 0" in await died.get()
        child = int(lines(app)[-1])
        await app.stop()
        await gone(child)

    run(main)


def test_its_death_is_told_once_with_its_last_lines(port: int, script: Any, tmp_path: Path) -> None:
    code = SERVE + "s.accept()\nprint('out of memory', flush=True)\nos.kill(os.getpid(), 9)"

    async def main() -> None:
        died: asyncio.Queue[str] = asyncio.Queue()
        app = command(script(code), port, tmp_path, on_death=died.put_nowait)
        await app.start()
        message = await died.get()
        assert "SIGKILL" in message
        assert message.endswith("out of memory")
        await app.stop()
        assert died.empty()

    run(main)


def test_it_is_told_its_public_url(port: int, script: Any, tmp_path: Path) -> None:
    code = "import os, sys\nprint(sys.argv[2:], os.environ['SYNTH_PUBLIC_URL'], flush=True)\n"
    url = "http://127.0.0.1:8015/s/rt_1"

    async def main() -> None:
        template = f"{script(code + SERVE + STAY)} --origin={{public_url}}/{{port}}"
        app = command(template, port, tmp_path, public_url=url)
        await app.start()
        assert lines(app)[0] == f"['--origin={url}/{port}'] {url}"
        await app.stop()

    run(main)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "each worker has a URL of its own"),
        ({"public_url": "https://x.example/r_1", "is_secret": True}, "can read a command's"),
    ],
)
def test_a_public_url_that_no_argument_may_have(
    options: dict[str, Any], part: str, port: int, tmp_path: Path
) -> None:
    async def main() -> None:
        await command("serve {port} {public_url}", port, tmp_path, **options).start()

    message = failure(main)
    assert part in message
    assert "r_1" not in message


def test_a_secret_public_url_is_in_its_environment(port: int, script: Any, tmp_path: Path) -> None:
    code = "import os; print(os.environ['SYNTH_PUBLIC_URL'], flush=True)\n" + SERVE + STAY

    async def main() -> None:
        url = "https://x.example/r_1"
        app = command(script(code), port, tmp_path, public_url=url, is_secret=True)
        await app.start()
        assert lines(app)[0] == url
        await app.stop()

    run(main)


def test_a_port_in_use(port: int, script: Any, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        message = failure(command(script(SERVE), taken, tmp_path).start)

    assert f"port {taken} is in use" in message


def test_it_ends_before_it_listens(port: int, script: Any, tmp_path: Path) -> None:
    message = failure(command(script("raise SystemExit('no such app')"), port, tmp_path).start)

    assert "ended (exit status 1) before it listened" in message
    assert message.endswith("no such app")


def test_it_never_listens(port: int, script: Any, tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    app = command(script(code), port, tmp_path, timeout_s=0.5)

    message = failure(app.start)

    assert "did not listen" in message
    assert "within 0.5 s" in message
    pid = int(lines(app)[0])
    run(lambda: gone(pid))


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("no-such-program --port {port}", "'no-such-program': No such file"),
        ("'unclosed", "cannot be read: No closing quotation"),
    ],
)
def test_it_cannot_be_started(template: str, part: str, port: int, tmp_path: Path) -> None:
    assert part in failure(command(template, port, tmp_path).start)


KEEPER = """
import asyncio, sys
from pytest_synth_tunnels.keeper.app_command import AppCommand

async def keep():
    template, port, cwd = sys.argv[1:]
    app = AppCommand(
        template,
        port=int(port),
        public_url=None,
        is_secret=False,
        environ={},
        cwd=cwd,
        timeout_s=20,
        on_death=lambda message: None,
    )
    await app.start()
    print(app._child.tail.lines()[0], flush=True)
    await asyncio.sleep(60)

asyncio.run(keep())
"""


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_it_dies_with_a_keeper_that_is_killed(port: int, script: Any, tmp_path: Path) -> None:
    arguments = [KEEPER, script(SERVE + STAY), str(port), str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        pid = int(keeper.stdout.readline().split()[1])
        keeper.kill()

    run(lambda: gone(pid))
