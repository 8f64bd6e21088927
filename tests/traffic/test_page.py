"""The page with a run's traffic: what is in it, and what a browser makes of it."""

import html
import json
import re
import subprocess
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from pytest_synth_tunnels.traffic import page as page_package
from pytest_synth_tunnels.traffic.page import MODULES, page

from ..support.recorded import message, recorded, response

HOSTILE = '</script><script>document.title = "owned"</script><img src=x onerror="alert(1)">'


def record(test: str = "", worker: str = "", **request: Any) -> dict[str, Any]:
    return {
        "request": recorded(**request).to_data(),
        "test": test,
        "worker": worker,
        "late": False,
    }


def module(name: str) -> str:
    return files(page_package).joinpath(name).read_text("utf-8")


def test_modules_are_joined_after_those_that_they_import() -> None:
    for place, name in enumerate(MODULES):
        imported = set(re.findall(r'^import .* from "\./([\w.]+)";$', module(name), re.MULTILINE))
        assert imported <= set(MODULES[:place]), name


def test_names_at_module_level_differ() -> None:
    pattern = re.compile(
        r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE
    )
    names = [name for each in MODULES for name in pattern.findall(module(each))]

    assert len(names) > 50
    assert sorted(names) == sorted(set(names))


def test_the_page_fetches_nothing_and_runs_its_own_script_alone() -> None:
    text = page("a run", [record(body=HOSTILE)], {"log": {}})

    assert not re.findall(r"(?:src|href)=\"(?!data:,)", text)
    [script] = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    assert re.search(r"^(import|export) ", script, re.MULTILINE) is None
    digest = b64encode(sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")


def test_data_cannot_leave_its_element() -> None:
    text = page(
        HOSTILE, [record(path="/<!--<script>", test=HOSTILE)], {"log": {"comment": HOSTILE}}
    )

    [data] = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL
    )
    assert json.loads(data)["records"][0]["test"] == HOSTILE
    assert "<" not in data
    assert f"<title>synth tunnels: {html.escape(HOSTILE)}</title>" in text


def shown(tmp_path: Path, text: str) -> str:
    """Return what a browser makes of a page, as HTML."""
    path = tmp_path / "report.html"
    path.write_text(text, "utf-8")
    found = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=3000", "--window-size=1200,900", "--dump-dom"),
            path.as_uri(),
        ],
        capture_output=True,
        timeout=100,
        check=True,
    )
    return found.stdout.decode()


@pytest.mark.interop
@pytest.mark.skipif(which("chromium") is None, reason="there is no chromium in the PATH")
def test_chromium_lists_the_requests_and_runs_no_body(tmp_path: Path) -> None:
    records = [
        record("test_a.py::test_paid", "gw0", method="POST", path="/hooks/paid"),
        record("test_a.py::test_paid", "gw0", path="/refused", answer=response(404), sequence=2),
        record(path="/ws", websocket=True, messages=[message("hello")], sequence=3),
        record(path="/hostile", body=HOSTILE, answer=response(body=HOSTILE), sequence=4),
    ]

    found = shown(tmp_path, page("a run of four", records, {"log": {}}))

    rows = re.findall(r'<div class="row".*?role="option".*?</div>', found, re.DOTALL)
    texts = [re.findall(r">([^<]*)</span>", row)[1:4] for row in rows]
    assert texts == [
        ["POST", "/hooks/paid", "200"],
        ["GET", "/refused", "404"],
        ["WS", "/ws", "200"],
        ["GET", "/hostile", "200"],
    ]
    assert "test_a.py::test_paid — gw0 (2)" in found
    assert "a run of four" in re.sub(r"<script.*?</script>", "", found, flags=re.DOTALL)
    assert "<title>synth tunnels: a run of four</title>" in found


@pytest.mark.interop
@pytest.mark.skipif(which("chromium") is None, reason="there is no chromium in the PATH")
def test_chromium_draws_the_rows_in_view_of_thousands(tmp_path: Path) -> None:
    records = [record(f"test_{i // 50}", path=f"/{i}", sequence=i + 1) for i in range(5_000)]

    found = shown(tmp_path, page("many", records, {"log": {}}))

    assert '<span id="count">5000</span>' in found
    assert 10 < found.count('role="option"') < 200
