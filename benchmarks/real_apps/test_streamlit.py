"""Streamlit in Chromium: a button, whose press goes by a WebSocket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import page

from conftest import WAYS, Documented

SCRIPT = """
import streamlit

if streamlit.button("Press"):
    streamlit.write("It was pressed")
"""


@pytest.fixture(params=WAYS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "app.py").write_text(SCRIPT)
    environment = {"STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false"}
    with Documented("run").running(request, tmp_path, **environment) as url:
        yield url


def test_a_button(url: str) -> None:
    with page() as opened:
        opened.goto(f"{url}/")
        opened.get_by_role("button", name="Press").click()
        opened.get_by_text("It was pressed").wait_for()
