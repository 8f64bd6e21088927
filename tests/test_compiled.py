from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from pytest_synth_tunnels import compiled
from pytest_synth_tunnels._version import __version__
from pytest_synth_tunnels.aio import deadlines
from pytest_synth_tunnels.cli import main


def test_a_module_counts_as_compiled_where_python_prefers_an_extension(tmp_path: Path) -> None:
    source = tmp_path / "connection.py"
    source.touch()
    (tmp_path / "connection.txt").touch()
    assert not compiled.is_compiled(source)
    source.with_name("connection" + EXTENSION_SUFFIXES[0]).touch()
    assert compiled.is_compiled(source)


def test_it_tells_what_python_imports() -> None:
    assert compiled.is_compiled() is (not deadlines.__file__.endswith(".py"))


@pytest.mark.parametrize(("is_compiled", "form"), [(True, "compiled"), (False, "pure Python")])
def test_the_version_names_the_form(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_compiled: bool,
    form: str,
) -> None:
    monkeypatch.setattr(compiled, "is_compiled", lambda: is_compiled)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"pytest-synth-tunnels {__version__} ({form})\n"
