"""A process that may become a keeper: told for which run, or dismissed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_synth_tunnels._unpatched import unpatched
from pytest_synth_tunnels.keeper.ipc.client import KeeperClient
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.messages import BackendInfo, GetBackend
from pytest_synth_tunnels.keeper.process.candidate import EMBEDDED_BACKEND, Candidate
from pytest_synth_tunnels.keeper.process.launch import Run
from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory
from pytest_synth_tunnels.settings import Settings

from ...support.processes import living_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

KEY = "sk-test-candidate"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment by which this test's candidates are found."""
    return {"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(tmp_path), "SYNTH_API_KEY": KEY}


@pytest.fixture
def run(run_dir: Path, environ: dict[str, str]) -> Iterator[KeeperClient]:
    """This process's hold on a keeper that is not started."""
    run_dir.parent.chmod(0o700)
    client = KeeperClient(
        Run(
            run_id="r",
            directory=RunDirectory(str(run_dir)),
            owner_pid=os.getpid(),
            address="",
            settings=Settings(),
            environ=environ,
            cwd=str(run_dir),
            sys_path=sys.path,
        )
    )
    yield client
    with suppress(KeeperError):  # there is none in a test of one that cannot start
        client.finish(20)
    wait_until_gone(environ)


def mark(environ: dict[str, str]) -> str:
    return f"XDG_CONFIG_HOME={environ['XDG_CONFIG_HOME']}"


def candidates(environ: dict[str, str]) -> list[int]:
    """Return the processes that are left once the first one, which forks, has ended."""
    deadline_s = time.monotonic() + 20
    while len(found := living_processes(mark(environ))) != 1 or os.getsid(found[0]) == found[0]:
        assert time.monotonic() < deadline_s, found
        threading.Event().wait(0.002)
    return found


def wait_until_gone(environ: dict[str, str]) -> None:
    deadline_s = time.monotonic() + 20
    while living_processes(mark(environ)):
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.002)


def test_one_that_is_told_is_the_keeper(environ: dict[str, str], run: KeeperClient) -> None:
    candidate = Candidate.start(environ, sys.path, [EMBEDDED_BACKEND])
    waiting = candidates(environ)
    assert KEY not in Path(f"/proc/{waiting[0]}/environ").read_text()

    run.start(candidate)

    assert run.ask(GetBackend(), BackendInfo).url.startswith("http://127.0.0.1:")
    assert living_processes(mark(environ)) == waiting, "and no other was started"


def test_one_that_is_dismissed_ends(environ: dict[str, str]) -> None:
    candidate = Candidate.start(environ, sys.path)

    candidate.dismiss()
    candidate.dismiss()

    wait_until_gone(environ)


def test_it_ends_with_the_process_that_started_it(environ: dict[str, str]) -> None:
    start = (
        "import os, sys\n"
        "from pytest_synth_tunnels.keeper.process.candidate import Candidate\n"
        f"Candidate.start({environ!r}, sys.path)\n"
        "input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE) as starter:
        candidates(environ)
        starter.kill()

    wait_until_gone(environ)


def test_another_is_started_for_one_that_was_killed(
    environ: dict[str, str], run: KeeperClient
) -> None:
    candidate = Candidate.start(environ, sys.path)
    (killed,) = candidates(environ)
    os.kill(killed, signal.SIGKILL)
    wait_until_gone(environ)

    run.start(candidate)

    assert run.ask(GetBackend(), BackendInfo).url
    assert killed not in living_processes(mark(environ))


def test_what_cannot_be_imported_is_told(environ: dict[str, str], run: KeeperClient) -> None:
    run.start(Candidate.start(environ, sys.path, ["no_such_module"]))

    with pytest.raises(KeeperError, match="No module named 'no_such_module'"):
        run.ask(GetBackend(), BackendInfo)


def test_an_interpreter_that_cannot_run_is_told_at_once(
    run: KeeperClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpatched, "executable", "/bin/false")

    with pytest.raises(KeeperError, match="/bin/false ended at once, with status 1"):
        run.ask(GetBackend(), BackendInfo)
