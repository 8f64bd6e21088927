"""Vite's development server in Chromium: the page, and a change that comes without a reload."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import page

from conftest import WAYS, Documented

NODE_MODULES = Path(os.environ.get("REAL_APPS_NODE_MODULES", "/none"))

pytestmark = pytest.mark.skipif(not NODE_MODULES.is_dir(), reason="Vite is not installed")

MODULE = """
import { word } from "./word.js";
export const show = (said) => { document.querySelector("#out").textContent = said; };
show(word);
if (import.meta.hot) import.meta.hot.accept("./word.js", (changed) => show(changed.word));
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    (tmp_path / "index.html").write_text(
        '<p id="out"></p><script type="module" src="/main.js"></script>'
    )
    (tmp_path / "main.js").write_text(MODULE)
    (tmp_path / "word.js").write_text('export const word = "first";')
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    return tmp_path


@pytest.fixture(params=WAYS)
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    with Documented("vite").running(request, folder) as url:
        yield url


def test_page_and_hot_change(url: str, folder: Path) -> None:
    with page() as opened:
        connected = []
        opened.on("console", lambda said: connected.append("connected" in said.text))
        opened.goto(f"{url}/")
        opened.get_by_text("first").wait_for()
        opened.evaluate("window.mark = 1")
        while not any(connected):
            opened.wait_for_timeout(50)
        (folder / "word.js").write_text('export const word = "second";')
        opened.get_by_text("second").wait_for()
        assert opened.evaluate("window.mark") == 1
