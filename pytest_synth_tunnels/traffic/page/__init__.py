"""A run's traffic as a page: of a finished run as one file, and of one that goes on, live.

The page of a finished run works wherever it is opened: style sheet, modules and data are inside,
and nothing is fetched. The modules are joined in the order of their imports, without their
``import`` and ``export`` words, so that their names at module level must differ; a test sees to
that. The data stands in an element of its own that no browser runs, and the page's
Content-Security-Policy lets it run and style itself by nothing but its own script and style sheet.
The live page has the same modules, but for where its records come from, as files beside it.
"""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from json import dumps
from typing import Any, Final

__all__ = ["LIVE_FILES", "MODULES", "live_file", "live_page", "page"]

_SHARED: Final = (
    "text.js",
    "filters.js",
    "list.js",
    "bodies.js",
    "copies.js",
    "detail.js",
    "main.js",
)
"""What both pages are made of, each after those that it imports."""

MODULES: Final = (*_SHARED, "report.js")
"""The modules of a run's page, each after those that it imports."""

LIVE_FILES: Final = frozenset(
    {*_SHARED, "edit.js", "live_source.js", "live.js", "style.css"},
)
"""What the live page fetches, all of it from beside itself."""

_IMPORT: Final = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=async function|function|class|const)", re.MULTILINE)


def page(title: str, records: Sequence[Mapping[str, Any]], har: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        title: what it is of.
        records: for each request, in the order of arrival: ``request``, its masked data
            (:meth:`..exchange.InboundRequest.to_data`); ``test`` and ``worker``, whose it is; and
            ``late``, whether it came after its test.
        har: the same as a HAR log, for the page's download.
    """
    style = _read("style.css")
    script = "".join(_EXPORT.sub("", _IMPORT.sub("", _read(name))) for name in MODULES)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = dumps({"title": title, "records": records, "har": har}, ensure_ascii=False)
    # Nothing in the data can end its element or begin a comment.
    data = data.replace("<", "\\u003c")
    return _filled(
        _read("index.html"),
        {
            "<head>": f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
            "<title>synth tunnels": f"<title>synth tunnels: {escape(title)}",
            "</head>": f"<style>{style}</style>\n</head>",
            "</body>": (
                f'<script type="application/json" id="data">{data}</script>\n'
                f'<script type="module">{script}</script>\n</body>'
            ),
        },
    )


def live_page() -> str:
    """Return the same page for the traffic of a run that goes on, which its server tells."""
    return _filled(
        _read("index.html"),
        {
            "</head>": '<link rel="stylesheet" href="style.css">\n</head>',
            "</body>": '<script type="module" src="live.js"></script>\n</body>',
        },
    )


def live_file(name: str) -> str:
    """Return a file of the live page.

    Args:
        name: one of :data:`LIVE_FILES`.
    """
    return _read(name)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _filled(frame: str, parts: Mapping[str, str]) -> str:
    """Put parts in the place of marks, each of which the frame has once, in this order."""
    found = []
    for mark, part in parts.items():
        before, _, frame = frame.partition(mark)
        found += [before, part]
    return "".join([*found, frame])


def _hash(text: str) -> str:
    """Return how a Content-Security-Policy names an inline script or style sheet."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
