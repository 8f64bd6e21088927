import platform
import subprocess
import sys

import pytest

READ_AS_ASYNCIO_DOES = """
import resource, socket
from pytest_synth_tunnels.relay.reading import keep_read_buffers
{prepare}
near, far = socket.socketpair()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(500):
    near.send(b"x" * 2000)
    far.recv(256 * 1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(prepare: str) -> int:
    program = READ_AS_ASYNCIO_DOES.format(prepare=prepare)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries need no help")
def test_reads_share_their_memory() -> None:
    assert page_faults("keep_read_buffers()") < page_faults("pass") / 10
