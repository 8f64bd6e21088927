"""The package's layers: who may import whom.

Imports point downwards, those under ``TYPE_CHECKING`` and inside functions included. The test
reads the source and imports nothing, so that it is quick and needs no working package.
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

import pytest_synth_tunnels

PACKAGE = Path(pytest_synth_tunnels.__file__).parent

LAYERS = (
    ("_version", "_unpatched", "environment", "options"),
    ("compiled", "settings", "socket_table"),
    ("sdk", "aio"),
    ("http",),
    ("wire", "traffic"),
    ("websocket",),
    ("relay", "agent"),
    ("in_process",),
    ("gateway", "backend", "connectors"),
    ("keeper",),
)
"""Folders and modules, the lowest layer first. Those of one layer do not import each other. What
is not named here is the plugin and the command line, the top layer, which may import everything."""

LEVEL_OF = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP_LEVEL = len(LAYERS)


class Import(NamedTuple):
    """One name that a module imports from the package."""

    importer: str
    imported: str
    """The module that it comes from, relative to the package; ``""`` is the package itself."""
    name: str | None
    """The name, or ``None`` where the module itself is imported."""


class Tree(NamedTuple):
    """The modules of a package by their names relative to it, and what they import."""

    modules: dict[str, ast.Module]
    imports: list[Import]


def read(root: Path) -> Tree:
    """Parse the package at ``root``."""
    modules, packages = {}, set()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
            packages.add(".".join(parts))
        modules[".".join(parts)] = ast.parse(path.read_text("utf-8"))
    imports = [
        found
        for module, tree in modules.items()
        for found in _imports(module, tree, root.name, packages, modules.keys())
    ]
    return Tree(modules, imports)


def _imports(
    module: str, tree: ast.Module, package: str, packages: set[str], modules: set[str]
) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, _, rest = alias.name.partition(".")
                if first == package:
                    yield Import(module, rest, None)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                # "." is the module's own package; each further dot is one package up.
                up = node.level - (module in packages)
                base = module.split(".")[: len(module.split(".")) - up] if module else []
                source = ".".join([*base, *([node.module] if node.module else [])])
            elif node.module and node.module.split(".")[0] == package:
                source = node.module.partition(".")[2]
            else:
                continue
            for alias in node.names:
                submodule = f"{source}.{alias.name}".lstrip(".")
                if submodule in modules:
                    yield Import(module, submodule, None)
                else:
                    yield Import(module, source, alias.name)


def upward_imports(tree: Tree) -> set[str]:
    """Return the imports of a higher layer, or of another folder of the same one."""
    found = set()
    for importer, imported, _ in tree.imports:
        own, other = importer.split(".")[0], imported.split(".")[0]
        own_level, other_level = LEVEL_OF.get(own, TOP_LEVEL), LEVEL_OF.get(other, TOP_LEVEL)
        beside = own_level == other_level != TOP_LEVEL
        if own != other and (beside or other_level > own_level):
            found.add(f"{importer or '__init__'} may not import {imported or '__init__'}")
    return found


def circles(tree: Tree) -> set[str]:
    """Return the groups of modules that import each other, directly or through one another."""
    targets = defaultdict(set)
    for importer, imported, _ in tree.imports:
        if importer != imported:
            targets[importer].add(imported)
    reached = {module: _reachable(module, targets) for module in tree.modules}
    return {
        "circle: " + ", ".join(sorted(other or "__init__" for other in group))
        for module in tree.modules
        if len(group := {other for other in reached[module] if module in reached[other]}) > 1
    }


def _reachable(module: str, targets: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for other in targets[waiting.pop()] - reached:
            reached.add(other)
            waiting.append(other)
    return reached


def classes_twice(tree: Tree) -> set[str]:
    """Return the public classes whose name more than one module gives to a class."""
    modules_of = defaultdict(set)
    for module, parsed in tree.modules.items():
        for node in _at_module_level(parsed.body):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules_of[node.name].add(module)
    return {
        f"class {name} is in {' and in '.join(sorted(modules))}"
        for name, modules in modules_of.items()
        if len(modules) > 1
    }


def _at_module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            parts = (node.body, node.orelse, getattr(node, "finalbody", []))
            yield from _at_module_level(list(chain(*parts)))


def private_names(tree: Tree) -> set[str]:
    """Return the uses of another module's ``_names``, imported or as its attributes."""
    found = set()
    for importer, imported, name in tree.imports:
        if name is not None and _is_private(name):
            found.add(f"{importer} uses {imported}.{name}")
    for module, parsed in tree.modules.items():
        known = {
            imported.rpartition(".")[2]: imported
            for importer, imported, name in tree.imports
            if importer == module and name is None
        }
        for node in ast.walk(parsed):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in known
                and _is_private(node.attr)
            ):
                found.add(f"{module} uses {known[node.value.id]}.{node.attr}")
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def pytest_below_the_plugin(tree: Tree) -> set[str]:
    """Return the modules below the top layer that import pytest."""
    return {
        f"{module} imports pytest"
        for module, parsed in tree.modules.items()
        if LEVEL_OF.get(module.split(".")[0], TOP_LEVEL) < TOP_LEVEL
        for node in ast.walk(parsed)
        if (isinstance(node, ast.Import) and any(a.name == "pytest" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and node.module == "pytest")
    }


RULES = (upward_imports, circles, classes_twice, private_names, pytest_below_the_plugin)


def test_the_package_keeps_its_layers() -> None:
    tree = read(PACKAGE)

    found = set().union(*(rule(tree) for rule in RULES))

    assert not found, "\n".join(sorted(found))


def test_every_layer_is_there() -> None:
    assert Counter(chain(*LAYERS)).most_common(1)[0][1] == 1
    there = {module.split(".")[0] for module in read(PACKAGE).modules}
    assert set(LEVEL_OF) <= there


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package without a fault."""
    root = tmp_path / "pytest_synth_tunnels"
    write(root, "__init__", "")
    for layer in ("http", "relay", "agent", "keeper"):
        write(root, f"{layer}/__init__", "")
    write(root, "http/server", "class Server: ...")
    write(root, "relay/relay", "from ..http.server import Server")
    write(root, "agent/agent", "from pytest_synth_tunnels.http import server")
    write(root, "keeper/service", "from ..agent import agent\nfrom ..relay.relay import Server")
    write(root, "plugin", "import pytest\ndef fixture():\n    from .keeper import service")
    assert {finding for rule in RULES for finding in rule(read(root))} == set()
    return root


def write(root: Path, module: str, text: str) -> None:
    path = root / f"{module}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


@pytest.mark.parametrize(
    "line",
    [
        "from ..keeper.service import Server",
        "from ..keeper import service",
        "from pytest_synth_tunnels.keeper.service import Server",
        "import pytest_synth_tunnels.keeper.service",
        "def later():\n    from ..keeper import service",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..keeper import service",
    ],
)
def test_an_upward_import_is_found(package: Path, line: str) -> None:
    write(package, "http/request", line)

    assert upward_imports(read(package)) == {"http.request may not import keeper.service"}


def test_an_import_of_the_plugin_is_upward(package: Path) -> None:
    write(package, "keeper/ports", "from .. import plugin")

    assert upward_imports(read(package)) == {"keeper.ports may not import plugin"}


def test_relay_and_agent_may_not_import_each_other(package: Path) -> None:
    write(package, "relay/route", "from ..agent.agent import Agent")
    write(package, "agent/target", "from ..relay.relay import Relay")

    assert upward_imports(read(package)) == {
        "relay.route may not import agent.agent",
        "agent.target may not import relay.relay",
    }


def test_a_circle_is_found_once_with_all_its_modules(package: Path) -> None:
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .{} import X"
    write(package, "http/request", hidden.format("connection"))
    write(package, "http/connection", "from .exchange import X")
    write(package, "http/exchange", "def later():\n    from . import request")

    assert circles(read(package)) == {"circle: http.connection, http.exchange, http.request"}
    assert upward_imports(read(package)) == set()


def test_a_circle_through_a_package_is_found(package: Path) -> None:
    write(package, "http/__init__", "from .server import Server")
    write(package, "http/server", "from . import LIMIT\nclass Server: ...")

    assert circles(read(package)) == {"circle: http, http.server"}


def test_two_classes_of_one_name_are_found(package: Path) -> None:
    write(package, "relay/server", "if True:\n    class Server: ...")
    write(package, "agent/server", "class _Server: ...\nclass Outer:\n    class Server: ...")

    assert classes_twice(read(package)) == {"class Server is in http.server and in relay.server"}


def test_foreign_private_names_are_found(package: Path) -> None:
    write(package, "http/request", "from .server import _limit, __doc__")
    write(package, "http/connection", "from . import server\nserver._limit\nself._limit")

    assert private_names(read(package)) == {
        "http.request uses http.server._limit",
        "http.connection uses http.server._limit",
    }


def test_pytest_below_the_plugin_is_found(package: Path) -> None:
    write(package, "http/request", "def later():\n    import pytest")
    write(package, "http/connection", "from pytest import fixture")

    assert pytest_below_the_plugin(read(package)) == {
        "http.request imports pytest",
        "http.connection imports pytest",
    }
