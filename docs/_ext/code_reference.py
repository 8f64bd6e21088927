"""The parts of the reference that are made from the code when the site is built, as MyST text.

A page has ``{{ fixtures }}`` or ``{{ options }}`` on a line of its own where such a part belongs.
So the reference cannot say anything else than the code, and a new fixture or option is there by
itself.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest_synth_tunnels
from pytest_synth_tunnels import hookspecs, plugin, sdk
from pytest_synth_tunnels.options import OPTIONS, Option
from pytest_synth_tunnels.sdk.errors import CODES
from pytest_synth_tunnels.settings import Settings

__all__ = ["Fixture", "error_codes", "fixtures", "hooks", "substitutions"]

PACKAGE = Path(pytest_synth_tunnels.__file__).parent

CODE = re.compile(r"[A-Z]+(_[A-Z]+)+")
REFUSAL = re.compile(r"[a-z]+(_[a-z]+)*")

NAME = re.compile(
    r"""\{\w+\}  # {port}
    | [\w.]*\w+\([^()]*\)  # wait_for(…)
    | [A-Za-z]\w*_\w+(\s=\s[\w.]+)?  # exposed_port, SYNTH_API_KEY, synth_tunnels_traffic = false
    | "[\w:.]+"
    """,
    re.VERBOSE,
)
"""What is a name in a plain text, not a word."""

VALUE = re.compile(r"(?:^|(?<=; ))(\w+)(?=: )")
"""A value that an option's help explains: run: one lease for all; worker: …"""

NO_ERRORS = {"environ.get", "frozenset", "getattr", "log_refusal"}
"""Calls whose arguments in capitals are names of the system's, or words for the log alone."""


class Fixture(NamedTuple):
    """A fixture as the plugin's source defines it."""

    name: str
    scope: str
    gives: str
    """The type of what a test is given, as the source says it."""
    doc: str


def fixtures() -> Iterator[Fixture]:
    """Return the plugin's public fixtures, in the order of the source.

    The source is read, because how pytest keeps a fixture differs between its versions.
    """
    tree = ast.parse(inspect.getsource(plugin))
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        for decorator in node.decorator_list:
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(call) == "pytest.fixture":
                given = decorator.keywords if isinstance(decorator, ast.Call) else []
                scope = next((ast.literal_eval(k.value) for k in given if k.arg == "scope"), None)
                assert node.returns is not None
                yield Fixture(
                    node.name,
                    scope or "function",
                    _given(node.returns),
                    ast.get_docstring(node) or "",
                )


def _importance(fixture: Fixture) -> bool:
    """Return the sort key that puts what few tests need last."""
    return fixture.name in ("synth_settings", "synth_tunnels")


def _given(annotation: ast.expr) -> str:
    """Return the type in an annotation, without the iterator of a fixture that tears down."""
    if isinstance(annotation, ast.Constant):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Iterator":
        annotation = annotation.slice
    return ast.unparse(annotation)


def hooks() -> list[str]:
    """Return the names of the hooks."""
    return [name for name in vars(hookspecs) if name.startswith("pytest_")]


def substitutions() -> dict[str, str]:
    """Return the text of each part, by its name."""
    return {
        "fixtures": "\n".join(map(_describe_fixture, sorted(fixtures(), key=_importance))),
        "options": "\n".join(_describe_option(option) for option in OPTIONS),
        "hooks": "\n".join(_describe_hook(name) for name in hooks()),
        "classes": _autodoc("pytest_synth_tunnels", _named_here()),
        "sdk": _autodoc("pytest_synth_tunnels.sdk", sdk.__all__),
        "sdk_codes": _sdk_codes(),
        "settings_without_option": _settings_without_option(),
    }


def _describe_fixture(fixture: Fixture) -> str:
    return f"""
::::{{fixture}} {fixture.name}
{_marked_up(fixture.doc, not_linked=fixture.name)}

Scope: {fixture.scope}. Gives: {_type(fixture.gives)}.
::::
"""


def _type(text: str) -> str:
    """Return a type as text, with a link where the site has its class."""
    if text in pytest_synth_tunnels.__all__:
        home = "pytest_synth_tunnels.sdk" if text in sdk.__all__ else "pytest_synth_tunnels"
        return f"{{py:class}}`~{home}.{text}`"
    return f"`{text}`"


def _describe_option(option: Option) -> str:
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    return f"""
::::{{confval}} {option.ini}
{_marked_up(option.help)}

Default: {_default(defaults[option.name])}. Command line: `{option.flag}={option.metavar}`.
Environment: `{option.variable}`.
::::
"""


def _default(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _describe_hook(name: str) -> str:
    return _eval_rst(f".. autofunction:: pytest_synth_tunnels.hookspecs.{name}")


def _named_here() -> list[str]:
    """Return the public names of the package that are not the SDK's."""
    names = (name for name in pytest_synth_tunnels.__all__ if not name.startswith("__"))
    return [name for name in names if name not in sdk.__all__]


def _autodoc(module: str, names: list[str]) -> str:
    """Return the directives that document names of a module, classes first."""
    home = __import__(module, fromlist=names)
    parts = []
    for name in sorted(names, key=lambda name: (not isinstance(getattr(home, name), type), name)):
        value = getattr(home, name)
        kind = "class" if isinstance(value, type) else "function"
        if isinstance(value, type) and issubclass(value, Exception):
            kind = "exception"
        parts.append("\n   ".join([f".. auto{kind}:: {module}.{name}", *_options(value)]) + "\n")
    return _eval_rst("\n".join(parts))


def _options(value: Any) -> list[str]:
    """Return the options of the directive for a class that has no base which users know."""
    bases = getattr(value, "__bases__", ())
    if any(base is not object and not base.__name__.startswith("_") for base in bases):
        return []
    return [":no-show-inheritance:", ":inherited-members:"] if bases else []


def _eval_rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```\n"


def _settings_without_option() -> str:
    """Return the fields of the settings that only a hook can give."""
    named = {option.name for option in OPTIONS}
    fields = [field.name for field in dataclasses.fields(Settings) if field.name not in named]
    return ", ".join(f"`{name}`" for name in fields)


def _sdk_codes() -> str:
    """Return a table of the codes of the SDK's errors, which is what references to them lead to."""
    rows = [f"| `{code}` | {hint} |" for code, hint in CODES.items()]
    target = ["```{py:data} pytest_synth_tunnels.sdk.errors.CODES", "```", ""]
    return "\n".join([*target, "| code | what to do |", "|---|---|", *rows])


def _marked_up(text: str, not_linked: str = "") -> str:
    """Return a plain text that terminals show as a sentence of the site: names become code, and
    fixtures' names references.

    Args:
        text: a docstring, or an option's help.
        not_linked: the fixture that the text is about.
    """
    text = " ".join(text.split())
    text = text if text.endswith((".", ")")) else f"{text}."
    text = VALUE.sub(r"`\1`", text)
    linked = {fixture.name for fixture in fixtures()} - {not_linked}

    def mark_up(found: re.Match[str]) -> str:
        name = found[0]
        return f"{{fixture}}`{name}`" if name in linked else f"`{name}`"

    marked = NAME.sub(mark_up, text)
    return marked[0].upper() + marked[1:]


def error_codes() -> set[str]:
    """Return the stable codes of errors that the package's source has.

    Such a code is an argument of a call, or the default of an error class, and consists of words in
    capitals; those of a backend's refusals are in small letters.
    """
    found = set(CODES)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                found |= set(_codes_of_call(node))
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "default_code":
                found.add(ast.literal_eval(node.value))
    return found


def _codes_of_call(call: ast.Call) -> Iterator[str]:
    function = ast.unparse(call.func)
    if function in NO_ERRORS:
        return
    pattern = REFUSAL if function == "RefusedError" else CODE
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        if isinstance(argument, ast.Constant) and pattern.fullmatch(str(argument.value)):
            yield argument.value
