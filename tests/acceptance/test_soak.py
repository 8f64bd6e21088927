"""The short form of ``benchmarks/soak.py``: mixed traffic, and nothing grows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc"),
]

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="the source distribution has no benchmarks")
def test_nothing_grows() -> None:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--duration-s", "6", "--interval-s", "0.5", "--callers", "16"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "nothing has grown" in done.stdout
