"""Streamlit in Chromium: a button, whose press goes by a WebSocket."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import page

from conftest import running

SCRIPT = """
import streamlit

if streamlit.button("Press"):
    streamlit.write("It was pressed")
"""


@pytest.fixture(scope="module")
def app(exposed_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    script: Path = tmp_path_factory.mktemp("streamlit") / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    options = {"port": exposed_port, "address": "127.0.0.1", "headless": "true"}
    arguments = [f"--server.{name}={value}" for name, value in options.items()]
    with running(*command, *arguments, "--browser.gatherUsageStats=false", port=exposed_port):
        yield


def test_a_button(url: str) -> None:
    with page() as opened:
        opened.goto(f"{url}/")
        opened.get_by_role("button", name="Press").click()
        opened.get_by_text("It was pressed").wait_for()
