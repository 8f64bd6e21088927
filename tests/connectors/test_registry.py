import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.connectors import registry
from pytest_synth_tunnels.connectors.base import Assignment, ConnectorError
from pytest_synth_tunnels.connectors.loopback import LoopbackConnector
from pytest_synth_tunnels.connectors.registry import BUILT_IN, known_names, load

THEIRS = """\
class Good:
    brings_url, is_public = True, False
    def __init__(self, assignment): pass
    async def start(self): pass
    async def ready(self): return "http://127.0.0.1:1"
    def status(self): pass
    async def stop(self): pass
    def logs(self): return []

class Other(Good):
    pass

class Outer:
    class Inner(Good):
        pass

class Bad(Good):
    is_public = None
    stop = None
    def ready(self): pass

def function(): pass
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else."""
    name = f"theirs_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(THEIRS)
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def installed(theirs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that offers two connectors, one under a name that is taken."""
    points = EntryPoints(
        EntryPoint(name, f"{theirs}:Other", registry.GROUP) for name in ("bore", "loopback")
    )

    def entry_points(*, group: str, name: str | None = None) -> Any:
        assert group == "synth_tunnels.connectors"
        return points if name is None else points.select(name=name)

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_names_that_are_built_in() -> None:
    assert set(BUILT_IN) == {"loopback", "cloudflared", "cloudflared-quick", "ngrok"}
    assert load("loopback", {}) is LoopbackConnector
    assert known_names({}) == sorted(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_that_is_built_in_can_be_made(name: str) -> None:
    connector = load(name, {})(Assignment("http://127.0.0.1:1"))

    assert not connector.status().connected
    assert connector.logs() == []


@pytest.mark.usefixtures("installed")
def test_who_goes_first(theirs: str) -> None:
    registered = {"bore": f"{theirs}:Good", "loopback": f"{theirs}:Good"}

    assert load("bore", registered).__name__ == "Good"
    assert load("bore", {}).__name__ == "Other"
    assert load("loopback", registered) is LoopbackConnector
    assert known_names({"mine": ""}) == sorted([*BUILT_IN, "bore", "mine"])


def test_a_class_in_a_class(theirs: str) -> None:
    assert load("x", {"x": f"{theirs}:Outer.Inner"}).__name__ == "Inner"


def test_nothing_is_imported_but_what_is_asked_for(theirs: str) -> None:
    known_names({"x": f"{theirs}:Good"})

    assert theirs not in sys.modules


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        (None, ["no connector is called 'x'", "cloudflared, cloudflared-quick, loopback, ngrok"]),
        ("{}_missing:Good", ["'{}_missing:Good'", "ModuleNotFoundError"]),
        ("{}_broken:Good", ["cannot be imported", "RuntimeError: no licence"]),
        ("{}:Missing", ["AttributeError", "has no attribute 'Missing'"]),
        ("{}", ["must be module:Class"]),
        ("", ["must be module:Class"]),
        ("{}:function", ["is no class"]),
        (
            "{}:Bad",
            ["is_public is not True or False", "ready() is not async", "stop() is missing"],
        ),
    ],
)
def test_what_cannot_be_had(place: str | None, parts: list[str], theirs: str) -> None:
    registered = {} if place is None else {"x": place.format(theirs)}

    with pytest.raises(ConnectorError) as caught:
        load("x", registered)

    for part in parts:
        assert part.format(theirs) in str(caught.value)
