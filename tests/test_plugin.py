"""The plugin's hooks, with a configuration that the test makes. What fixtures give is in
tests/acceptance."""

from argparse import ArgumentParser
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels import plugin
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.options import OPTIONS
from pytest_synth_tunnels.serving import ServeError
from pytest_synth_tunnels.session import SESSION
from pytest_synth_tunnels.settings import Settings


def config(**session: Any) -> Any:
    return SimpleNamespace(stash={SESSION: SimpleNamespace(**session)})


def test_each_option_has_a_flag_and_an_ini_name(pytestconfig: pytest.Config) -> None:
    for option in OPTIONS:
        assert pytestconfig.getoption(option.ini, "absent") != "absent"
        assert pytestconfig.getini(option.ini) == ""


@pytest.mark.parametrize(("reason", "marks"), [("no hosted backend", 1), (None, 0)])
def test_hosted_tests_are_skipped_without_a_hosted_backend(reason: str | None, marks: int) -> None:
    added: list[Any] = []
    hosted: Any = SimpleNamespace(
        get_closest_marker=lambda name: name == "synth_hosted", add_marker=added.append
    )
    other: Any = SimpleNamespace(get_closest_marker=lambda name: None)

    plugin.pytest_collection_modifyitems(config(why_not_hosted=lambda: reason), [other, hosted])

    assert len(added) == marks


def test_a_test_fails_at_once_with_the_one_cause() -> None:
    def check() -> None:
        raise KeeperError("the tunnel keeper of this run is gone", hint="Look")

    item: Any = SimpleNamespace(fixturenames=["synth_lease"], config=config(check=check, lost=None))

    with pytest.raises(pytest.fail.Exception, match=r"^the tunnel keeper .* is gone\. Look$"):
        plugin.pytest_runtest_setup(item)


def test_a_test_without_tunnels_checks_nothing() -> None:
    item: Any = SimpleNamespace(fixturenames=["tmp_path"], config=None)

    plugin.pytest_runtest_setup(item)


@pytest.mark.parametrize(
    ("dist", "values", "is_refused"),
    [
        ("no", {"app": "a:b", "port": 8000}, False),
        ("load", {"app": "a:b", "port": 8000}, True),
        ("load", {"app": "a:b"}, False),
        ("load", {"port": 8000}, False),
    ],
)
def test_workers_do_not_serve_on_one_port(
    dist: str, values: dict[str, Any], is_refused: bool
) -> None:
    settings = Settings(**values, sources=dict.fromkeys(values, "--given"))
    given: Any = SimpleNamespace(getoption=lambda name, default: dist)

    if is_refused:
        with pytest.raises(pytest.UsageError, match="gives them all the port 8000"):
            plugin._check_workers(given, settings)
    else:
        plugin._check_workers(given, settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"command": "serve {port}"}, "synth_tunnels_command is 'serve {port}'"),
        ({"app": "shop:app"}, "synth_tunnels_app is 'shop:app'"),
    ],
)
def test_a_port_that_the_settings_serve(values: dict[str, Any], message: str) -> None:
    session: Any = SimpleNamespace(settings=Settings(**values), reserve_port=lambda: 8000)

    with pytest.raises(ServeError) as caught:
        plugin._port_to_serve(session)

    assert caught.value.message == f"the exposed port is served already: {message}"
    session.settings = Settings()
    assert plugin._port_to_serve(session) == 8000


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--synth-tunnels-inspector", "tests"], "on"),
        (["--synth-tunnels-inspector=on", "tests"], "on"),
        (["--synth-tunnels-inspector=hold", "tests"], "hold"),
        (["--synth-tunnels-inspector", "--synth-tunnels-inspector=off", "tests"], "off"),
        (["tests"], None),
    ],
)
def test_the_inspector_needs_no_value_and_takes_no_path_for_one(
    arguments: list[str], value: str | None
) -> None:
    arguments_of = ArgumentParser()
    arguments_of.add_argument("paths", nargs="*")
    group = SimpleNamespace(addoption=arguments_of.add_argument)
    parser: Any = SimpleNamespace(getgroup=lambda *_: group, addini=lambda *_, **__: None)
    plugin.pytest_addoption(parser)
    parsed = arguments_of.parse_args(arguments)
    assert parsed.synth_tunnels_inspector == value
    assert parsed.paths == ["tests"]
