"""pytest-django's live server, as docs/how-to/frameworks.md has it, in a project of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "frameworks.md"
EXAMPLE = re.compile(
    r"^```python\n# (test_live_server\w*)\.py\n(.*?)^```$", re.DOTALL | re.MULTILINE
)

PROJECT = """
from django.conf import settings
from django.http import HttpResponse

def pytest_configure():
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        ROOT_URLCONF="urls",
        INSTALLED_APPS=["django.contrib.staticfiles"],
        STATIC_URL="static/",
    )
"""


@pytest.mark.parametrize(("name", "text"), EXAMPLE.findall(DOCUMENT.read_text("utf-8")))
def test_as_documented(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "conftest.py").write_text(PROJECT)
    (tmp_path / "urls.py").write_text("urlpatterns = []\n")
    (tmp_path / f"{name}.py").write_text(text)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pytest_synth_tunnels.plugin"],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
