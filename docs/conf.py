"""How Sphinx builds this site: ``python -m sphinx --fail-on-warning docs build/site``."""

import sys
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import code_reference  # noqa: E402 - found by the line above

import pytest_synth_tunnels  # noqa: E402
from pytest_synth_tunnels import sdk  # noqa: E402

project = "pytest-synth-tunnels"
author = "The pytest-synth-tunnels developers"
copyright = author  # noqa: A001 - the name that Sphinx reads
version = release = pytest_synth_tunnels.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_ext"]
highlight_language = "python"
nitpicky = True
nitpick_ignore_regex = [
    # What docstrings say as Python's relative imports do, and what napoleon cuts out of types.
    (r"py:class", r"[\w.]+\[\w+|supervisor\.Supervisor"),
    (r"py:mod", r"http_errors"),
]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "fieldlist", "substitution"]
myst_heading_anchors = 3
myst_substitutions = code_reference.substitutions()

add_module_names = False  # each page says where its names are imported from
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "from_data, from_json, to_data, to_json",
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"pytest-synth-tunnels {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sourcelink = False
html_copy_source = False

PUBLIC = {
    **{name: f"pytest_synth_tunnels.sdk.{name}" for name in sdk.__all__},
    **{name: f"pytest_synth_tunnels.{name}" for name in pytest_synth_tunnels.__all__},
}
"""The places from which users import names, and under which the site has them."""

CONSTRUCTED = {"pytest_synth_tunnels.Settings"}
"""The classes of ``pytest_synth_tunnels`` that users make objects of, beside the SDK's."""


def resolve_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Lead a reference to a name's home module to where the name is documented.

    What exists and is not on this site (a library's class, or one of the package that the public
    interface mentions and users need not know) becomes text. The rest is missing, and a warning.
    """
    if node.get("refdomain") != "py":
        return None
    parts = node["reftarget"].lstrip(".").split(".")
    for index, part in enumerate(parts):
        if part in PUBLIC:
            target = ".".join([PUBLIC[part], *parts[index + 1 :]])
            domain = env.domains.python_domain
            found = domain.resolve_xref(
                env, node["refdoc"], app.builder, node["reftype"], target, node, content
            )
            return found or (content if exists(node["reftarget"]) else None)
    return content if exists(node["reftarget"]) else None


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except (ImportError, ValueError):
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def begin_property(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep napoleon from taking the first words of a property's docstring, up to a colon, for its
    type."""
    if what == "property":
        lines[:0] = ["..", ""]  # an empty comment


def hide_constructor(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str, None] | None:
    """Leave out how an object is made that users are only given."""
    given = name.rpartition(".")[0] == "pytest_synth_tunnels" and name not in CONSTRUCTED
    return ("", None) if given and what == "class" else None


def setup(app: Sphinx) -> None:
    app.add_object_type("fixture", "fixture", "pair: %s; fixture")
    app.connect("missing-reference", resolve_public)
    app.connect("autodoc-process-docstring", begin_property, priority=1)  # before napoleon
    app.connect("autodoc-process-signature", hide_constructor)
