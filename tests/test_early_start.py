"""Which process takes the run of an environment for its own. What tests see of it is in
tests/acceptance."""

import json
import os

import pytest

from pytest_synth_tunnels import early_start
from pytest_synth_tunnels.early_start import RUN_VARIABLE, hand_on_run
from pytest_synth_tunnels.settings import Settings, SettingsError, check_late_changes


class Owner:
    """A session that owns its run."""

    def worker_input(self, worker_id: str) -> dict[str, object]:
        return {"run_id": "r1", "base": "/run", "owner_pid": 7, "address": worker_id}


@pytest.fixture(autouse=True)
def handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner, which no xdist started, has handed its run on."""
    monkeypatch.setenv(RUN_VARIABLE, "")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    hand_on_run(Owner())  # type: ignore[arg-type]


def test_a_worker_takes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "u1")

    run = early_start._take_inherited_run()

    assert run == {"run_id": "r1", "base": "/run", "owner_pid": 7, "address": "gw1"}
    assert RUN_VARIABLE not in os.environ
    assert early_start._take_inherited_run() == {}


def test_what_the_owner_starts_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert early_start._take_inherited_run() == {}

    # An owner that is itself started by a worker of another run has that one's variables.
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "outer")
    hand_on_run(Owner())  # type: ignore[arg-type]

    assert early_start._take_inherited_run() == {}
    assert json.loads(os.environ[RUN_VARIABLE])["run_id"] == "r1"


def test_what_conftests_change_too_late_is_named() -> None:
    early = Settings(start="session")

    check_late_changes(early, Settings(start="session", har="on", traffic_masked=("x",)))
    with pytest.raises(SettingsError, match=r"changes ttl_s, require_token, and the tunnel"):
        check_late_changes(early, Settings(start="session", ttl_s=60.0, require_token=False))
