"""What every test of the data path is run with."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..support.garbage import Door


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library's client go straight to this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(params=["memory", "websocket"])
def kind(request: pytest.FixtureRequest) -> str:
    """How relay and agent are linked."""
    return str(request.param)


@pytest.fixture(scope="module")
def door() -> "Iterator[Door]":
    """A backend to which a module brings garbage."""
    from ..support.garbage import Door

    opened = Door()
    yield opened
    opened.close()
