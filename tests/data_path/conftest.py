"""What every test of the data path is run with."""

import pytest


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library's client go straight to this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(params=["memory", "websocket"])
def kind(request: pytest.FixtureRequest) -> str:
    """How relay and agent are linked."""
    return str(request.param)
