"""Gradio in Chromium: a form, whose answer comes as server-sent events."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import page

from conftest import WAYS, Documented

SCRIPT = """
import gradio

gradio.Interface(lambda word: word.upper(), "text", "text", api_name="upper").launch(quiet=True)
"""


@pytest.fixture(params=WAYS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "demo.py").write_text(SCRIPT)
    environment = {"GRADIO_ANALYTICS_ENABLED": "False"}
    with Documented("python").running(request, tmp_path, **environment) as url:
        yield url


def test_a_form(url: str) -> None:
    with page() as opened:
        opened.goto(f"{url}/")
        opened.get_by_label("word").fill("loud")
        opened.get_by_role("button", name="Submit").click()
        opened.wait_for_function(
            "[...document.querySelectorAll('textarea')].some((box) => box.value === 'LOUD')"
        )
