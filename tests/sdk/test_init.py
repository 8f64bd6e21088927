"""The SDK's front page."""

import subprocess
import sys

import pytest

from pytest_synth_tunnels import sdk


def test_every_public_name_is_there() -> None:
    for name in sdk.__all__:
        assert getattr(sdk, name).__name__ == name
    assert set(sdk.__all__) <= set(dir(sdk))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sdk.Nothing


def test_httpx_is_loaded_only_with_a_client() -> None:
    program = (
        "import sys; from pytest_synth_tunnels import sdk; before = 'httpx' in sys.modules;"
        "sdk.TunnelsClient; print(before, 'httpx' in sys.modules,"
        "{'pytest', 'tenacity'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "True", "set()"]
