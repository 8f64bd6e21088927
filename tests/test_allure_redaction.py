"""What allure-pytest writes, by objects like those of its model."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest

from pytest_synth_tunnels.allure_redaction import clean_allure_results

TOKEN = "wt_0123456789abcdef"


class Model:
    """An object of Allure's model."""

    __attrs_attrs__ = ()

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Specs:
    @pluggy.HookspecMarker("allure")
    def report_result(self, result: Any) -> None: ...

    @pluggy.HookspecMarker("allure")
    def report_container(self, container: Any) -> None: ...


class Writer:
    """Notes what is written, as Allure's own file logger does."""

    def __init__(self) -> None:
        self.written: list[str] = []

    @pluggy.HookimplMarker("allure")
    def report_result(self, result: Any) -> None:
        self.written.append(_text(result))

    @pluggy.HookimplMarker("allure")
    def report_container(self, container: Any) -> None:
        self.written.append(_text(container))


def _text(value: Any) -> str:
    return repr(
        value
        if not isinstance(value, Model)
        else {
            name: [_text(one) for one in inner] if isinstance(inner, list) else _text(inner)
            for name, inner in vars(value).items()
        }
    )


def test_results_are_written_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = pluggy.PluginManager("allure")
    manager.add_hookspecs(Specs)
    writer = Writer()
    manager.register(writer)
    monkeypatch.setitem(sys.modules, "allure_commons", SimpleNamespace(plugin_manager=manager))
    cleanups: list[Callable[[], object]] = []
    config: Any = SimpleNamespace(add_cleanup=cleanups.append)

    clean_allure_results(config, lambda: {TOKEN})
    result = Model(
        name="test_paid",
        start=5,
        statusDetails=Model(message=f"bad {TOKEN}", trace=None),
        steps=[Model(name="send", parameters=[Model(name="token", value=TOKEN)], steps=[])],
        labels=["a", TOKEN],
    )
    manager.hook.report_result(result=result)
    manager.hook.report_container(container=Model(befores=[Model(name=TOKEN)]))

    assert result.statusDetails.message == "bad ***"
    assert (result.name, result.start, result.labels) == ("test_paid", 5, ["a", "***"])
    assert len(writer.written) == 2
    assert TOKEN not in "".join(writer.written)
    for cleanup in cleanups:
        cleanup()
    assert manager.get_plugins() == {writer}
