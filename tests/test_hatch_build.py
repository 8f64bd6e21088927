"""The build hook: what it says where it cannot compile."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


class FakeInterface:
    """Stands for hatchling's class, for hatchling is only there while a wheel is built."""

    root = str(ROOT)


@pytest.fixture
def hatch_build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the hook, where a compiled wheel is wanted."""
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    vars(interface)["BuildHookInterface"] = FakeInterface
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setenv("SYNTH_TUNNELS_COMPILE", "1")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def does_not_compile(hatch_build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_sources(*_: object) -> None:
        raise AssertionError("it compiles")

    monkeypatch.setattr(hatch_build, "compile_sources", compile_sources)


@pytest.mark.usefixtures("does_not_compile")
@pytest.mark.skipif(os.name == "nt", reason="setuptools finds Visual Studio by itself")
@pytest.mark.parametrize(
    ("cc", "named"), [("", ""), ("ccache nocc -m64", "ccache"), ("nocc", "nocc")]
)
def test_without_a_compiler_it_says_what_to_do_before_it_compiles(
    hatch_build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cc: str, named: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", cc)

    with pytest.raises(SystemExit) as ended:
        hatch_build.CompileHook().initialize("standard", {})

    message = str(ended.value)
    assert f"the C compiler {named!r} is not there" in message or not named
    assert "Install a C compiler" in message
    assert "leave SYNTH_TUNNELS_COMPILE out" in message


@pytest.mark.usefixtures("does_not_compile")
@pytest.mark.parametrize(
    ("version", "wanted"), [("editable", "1"), ("standard", ""), ("standard", "0")]
)
def test_a_pure_wheel_needs_no_compiler(
    hatch_build: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str,
    wanted: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SYNTH_TUNNELS_COMPILE", wanted)
    data: dict[str, object] = {}

    hatch_build.CompileHook().initialize(version, data)

    assert data == {}
