"""The names of the package itself, which come on first use."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import pytest_synth_tunnels


def typed_homes() -> dict[str, str]:
    """Return the module of each public name, as type checkers are told."""
    tree = ast.parse(Path(pytest_synth_tunnels.__file__).read_text("utf-8"))
    return {
        alias.name: f".{node.module}"
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_know_every_public_name() -> None:
    assert set(typed_homes()) == set(pytest_synth_tunnels.__all__)
    assert dir(pytest_synth_tunnels) == pytest_synth_tunnels.__all__


@pytest.mark.parametrize("name", pytest_synth_tunnels.__all__)
def test_a_public_name_is_what_type_checkers_are_told(name: str) -> None:
    home = import_module(typed_homes()[name], "pytest_synth_tunnels")

    assert getattr(pytest_synth_tunnels, name) is getattr(home, name)


def test_another_name_is_an_attribute_error() -> None:
    name = "lease_of_nobody"
    with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
        getattr(pytest_synth_tunnels, name)
