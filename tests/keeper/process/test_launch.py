from typing import Any

import pytest

from pytest_synth_tunnels.keeper.process.launch import Run, keeper_environment
from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory
from pytest_synth_tunnels.settings import Settings

ENVIRON = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "COVERAGE_RUN": "true",
    "PYTHONWARNINGS": "error",
    "MY_TOKEN": "mine",
    "SYNTH_API_KEY": "sk-1",
    "SYNTH_BACKEND_URL": "https://api.example",
}


def run(**settings: Any) -> Run:
    return Run(
        run_id="r1",
        directory=RunDirectory("/none"),
        owner_pid=1,
        address="",
        settings=Settings(**settings),
        environ=ENVIRON,
        cwd="/",
        sys_path=[],
    )


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"PATH", "LC_ALL"}),
        ({"pass_env": ("MY_TOKEN", "OTHER")}, {"PATH", "LC_ALL", "MY_TOKEN"}),
        (
            {"backend_url": "https://api.example"},
            {"PATH", "LC_ALL", "SYNTH_API_KEY", "SYNTH_BACKEND_URL"},
        ),
    ],
)
def test_the_keeper_gets_no_more_than_it_needs(settings: dict[str, Any], names: set[str]) -> None:
    environment = keeper_environment(run(**settings))

    assert environment == {name: ENVIRON[name] for name in names}


def test_a_run_does_not_show_its_environment() -> None:
    assert "sk-1" not in repr(run())
