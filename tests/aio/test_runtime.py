import asyncio
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pytest_synth_tunnels.aio.runtime import _fastest_loop, run

READ_AS_ASYNCIO_DOES = """
import resource, socket
from pytest_synth_tunnels.aio.runtime import _keep_read_buffers
{prepare}
near, far = socket.socketpair()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(500):
    near.send(b"x" * 2000)
    far.recv(256 * 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


class OtherLoop(asyncio.SelectorEventLoop):
    """What uvloop's stands for."""


def loop_that_runs() -> asyncio.AbstractEventLoop:
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())

    run(main())
    return loops[0]


def test_uvloop_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", SimpleNamespace(new_event_loop=OtherLoop))  # type: ignore[arg-type]
    assert isinstance(loop_that_runs(), OtherLoop)


def test_asyncio_does_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # type: ignore[arg-type]
    assert _fastest_loop() is None
    loop_that_runs()


def page_faults(prepare: str) -> int:
    program = READ_AS_ASYNCIO_DOES.format(prepare=prepare)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries need no help")
def test_reads_share_their_memory() -> None:
    assert page_faults("_keep_read_buffers()") < page_faults("pass") / 10


RAISE_THE_LIMIT = """
import resource

from pytest_synth_tunnels.aio.runtime import allow_many_files

resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {most}))
allow_many_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(("limit", "most", "after"), [(64, 4096, 4096), (4096, 4096, 4096)])
def test_the_limit_is_raised_as_far_as_it_may_be(limit: int, most: int, after: int) -> None:
    script = RAISE_THE_LIMIT.format(limit=limit, most=most)
    told = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert told.split() == [str(after), str(most)]
