"""Names of the package that texts mention: in documents, benchmarks and the tests' own strings.

Nothing runs those often, or at all, so that a name that has moved would stay wrong there for long.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "docs", "examples", "pytest_synth_tunnels", "tests")
MADE_UP = {"test_layers.py", "test_names_in_text.py"}
"""Files whose strings hold a package that is not there."""

IMPORT = re.compile(r"from (pytest_synth_tunnels[\w.]*) import (\([^)]*\)|[^\n(\\\";]+)")
MENTION = re.compile(r"(pytest_synth_tunnels(?:\.\w+)+)(?::(\w+))?")


def texts() -> Iterator[Path]:
    yield from sorted(ROOT.glob("*.md"))
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".md", ".toml", ".ini") and path.name not in MADE_UP:
                yield path


def mentioned(text: str) -> Iterator[str]:
    """Return the dotted names of the package in a text."""
    for module, names in IMPORT.findall(text):
        without_comments = re.sub(r"#.*", "", names).strip("()")
        for name in without_comments.split(","):
            if plain := name.partition(" as ")[0].strip():
                yield f"{module}.{plain}"
    for module, name in MENTION.findall(text):
        yield f"{module}.{name}".rstrip(".")


def exists(dotted: str) -> bool:
    """Whether it is a module, or an attribute of one."""
    module, parts = "", dotted.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
        else:
            for part in parts[count:]:
                if not hasattr(found, part):
                    return False
                found = getattr(found, part)
            return True
    return False


def test_every_name_that_a_text_mentions_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts()
        for name in sorted(set(mentioned(path.read_text("utf-8"))))
        if not exists(name)
    ]

    assert not missing, "\n".join(missing)


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "background" / "architecture.md").read_text("utf-8")
    layers = {path.name for path in (ROOT / "pytest_synth_tunnels").iterdir() if path.is_dir()}
    named = {
        name for name in re.findall(r"`(\w+(?:\.\w+)+)`", text) if name.partition(".")[0] in layers
    }

    assert len(named) > 10
    assert [name for name in sorted(named) if not exists(f"pytest_synth_tunnels.{name}")] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from pytest_synth_tunnels.http import a, b as c", ["http.a", "http.b"]),
        ("from pytest_synth_tunnels.http import (\n    a,\n    b,  # why\n)", ["http.a", "http.b"]),
        ('"from pytest_synth_tunnels.http import a\\n"', ["http.a"]),
        ("`python -m pytest_synth_tunnels.backend --port 0`", ["backend"]),
        ('{"edge": "pytest_synth_tunnels.connectors.ngrok:Edge"}', ["connectors.ngrok.Edge"]),
    ],
)
def test_a_name_is_found(text: str, names: list[str]) -> None:
    found = {name.partition(".")[2] for name in mentioned(text)}

    assert found >= set(names)


def test_what_is_not_there_is_missing() -> None:
    assert exists("pytest_synth_tunnels.http.headers")
    assert exists("pytest_synth_tunnels.TunnelsClient")
    assert not exists("pytest_synth_tunnels.http.nothing")
    assert not exists("pytest_synth_tunnels.Nothing")
