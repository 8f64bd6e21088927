"""The hold of a run whose inspector stays, with a session that the test makes."""

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels import inspector_hold
from pytest_synth_tunnels.inspector_hold import InspectorHold
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError


class FakeSession:
    """A run's session: notes what the hold does."""

    def __init__(self, url: str = "http://127.0.0.1:9/x/") -> None:
        self.inspector_url = url
        self.is_held = False
        self.trouble: list[str] = ["before"]
        self.report = None
        self.did: list[str] = []
        self.ends: list[BaseException] = [KeyboardInterrupt()]

    def check(self) -> list[object]:
        self.did.append("look")
        if len(self.did) > 2:
            raise self.ends[0]
        return []

    def finish(self) -> None:
        self.did.append("finish")
        if isinstance(self.ends[0], KeeperError):
            self.trouble.append(str(self.ends[0]))

    def secrets(self) -> set[str]:
        return set()


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def write_line(self, line: str, **_: object) -> None:
        self.text += f"{line}\n"

    line = section = write_line


def end(session: FakeSession, exitstatus: int) -> str:
    """End a pytest session; return what the terminal shows behind its summary."""
    terminal = Terminal()
    manager = SimpleNamespace(get_plugin=lambda _: terminal)
    pytest_session: Any = SimpleNamespace(config=SimpleNamespace(pluginmanager=manager))
    ours: Any = session
    wrapper = InspectorHold(ours).pytest_sessionfinish(pytest_session, exitstatus)
    next(wrapper)
    assert session.did == [], "all others come first"
    with pytest.raises(StopIteration) as stopped:
        wrapper.send("what the others returned")
    assert stopped.value.value == "what the others returned"
    return terminal.text


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector_hold, "_LOOK_S", 0.001)


@pytest.mark.parametrize("exitstatus", [pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED])
def test_it_waits_for_ctrl_c_and_ends_the_run(exitstatus: int) -> None:
    session = FakeSession()
    text = end(session, exitstatus)
    assert session.is_held
    assert session.did == ["look", "look", "look", "finish"]
    assert text == "synth tunnels: the inspector stays open until Ctrl-C, at the URL above\n"


@pytest.mark.parametrize(
    "exitstatus",
    [
        pytest.ExitCode.INTERRUPTED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
        pytest.ExitCode.USAGE_ERROR,
        pytest.ExitCode.INTERNAL_ERROR,
    ],
)
def test_a_run_without_results_is_not_held(exitstatus: int) -> None:
    session = FakeSession()
    assert end(session, exitstatus) == ""
    assert session.did == ["finish"]


def test_without_a_page_there_is_nothing_to_hold() -> None:
    session = FakeSession(url="")
    assert end(session, pytest.ExitCode.OK) == ""
    assert session.did == ["finish"]


def test_it_ends_with_the_keeper_and_says_so_once() -> None:
    session = FakeSession()
    session.ends = [KeeperError("the keeper has died")]
    assert end(session, pytest.ExitCode.OK).count("the keeper has died") == 1
    assert "before" not in session.trouble[1:]
    assert session.did[-1] == "finish"
