import subprocess
import sys

import pytest

pytest.importorskip("resource")

SCRIPT = """
import resource

from pytest_synth_tunnels.aio.files import allow_many_files

resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {most}))
allow_many_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("limit", "most", "after"), [(64, 4096, 4096), (4096, 4096, 4096)])
def test_the_limit_is_raised_as_far_as_it_may_be(limit: int, most: int, after: int) -> None:
    script = SCRIPT.format(limit=limit, most=most)
    told = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert told.split() == [str(after), str(most)]
