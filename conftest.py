"""What all tests share. Real pytest runs happen in subprocesses, through pytester."""

import os

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _no_hosted_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test offline, whatever the developer's environment holds."""
    for name in list(os.environ):
        if name.startswith(("SYNTH_API", "SYNTH_BACKEND", "SYNTH_TUNNELS_")) and (
            name != "SYNTH_TUNNELS_PASS_ENV"
        ):
            monkeypatch.delenv(name)
