"""Gradio in Chromium: a form, whose answer comes as server-sent events."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import page

from conftest import running
from pytest_synth_tunnels import Lease

SCRIPT = """
import sys

import gradio

gradio.Interface(lambda word: word.upper(), "text", "text", api_name="upper").launch(
    server_name="127.0.0.1", server_port=int(sys.argv[1]), quiet=True
)
"""


@pytest.fixture
def url(
    request: pytest.FixtureRequest,
    exposed_port: int,
    synth_lease: Lease,
    synth_expose: Callable[..., Any],
    tmp_path: Path,
) -> Iterator[str]:
    """The app's URL; it has to know its path, and sees its own paths without it."""
    if request.param == "path":
        public_url = synth_expose(exposed_port, url_style="path").public_url
    else:
        direct = f"http://127.0.0.1:{exposed_port}"
        public_url = synth_lease.public_url if request.param == "root" else direct
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ROOT_PATH": urlsplit(public_url).path,
        "NO_PROXY": "*",
    }
    command = (sys.executable, str(script), str(exposed_port))
    with running(*command, port=exposed_port, env=environment):
        yield public_url


@pytest.mark.parametrize("url", ["direct", "root", "path"], indirect=True)
def test_a_form(url: str) -> None:
    with page() as opened:
        opened.goto(f"{url}/")
        opened.get_by_label("word").fill("loud")
        opened.get_by_role("button", name="Submit").click()
        opened.wait_for_function(
            "[...document.querySelectorAll('textarea')].some((box) => box.value === 'LOUD')"
        )
