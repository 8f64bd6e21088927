"""What all tests share. Real pytest runs happen in subprocesses, through pytester."""

import asyncio
import os

import pytest

pytest_plugins = ["pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--uvloop", action="store_true", help="run what is asynchronous on uvloop's event loop"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("uvloop"):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


@pytest.fixture(autouse=True)
def _no_hosted_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test offline, whatever the developer's environment holds."""
    for name in list(os.environ):
        if name.startswith(("SYNTH_API", "SYNTH_BACKEND", "SYNTH_TUNNELS_")) and (
            name != "SYNTH_TUNNELS_PASS_ENV"
        ):
            monkeypatch.delenv(name)
