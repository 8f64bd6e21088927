import subprocess
import sys

import pytest

import pytest_synth_tunnels


@pytest.mark.parametrize("name", pytest_synth_tunnels.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(pytest_synth_tunnels, name) is not None
    assert name in dir(pytest_synth_tunnels)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = getattr(pytest_synth_tunnels, "nothing")  # noqa: B009 - texts name what exists


def test_an_import_of_the_package_loads_none_of_its_modules() -> None:
    code = (
        "import pytest_synth_tunnels, sys; "
        "print([name for name in sys.modules if name.startswith('pytest_synth_tunnels.')])"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )

    assert loaded.stdout == "[]\n"
