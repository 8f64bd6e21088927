"""The page with a run's traffic, of real runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import RuntimeDirectory
from .test_har import SUITE

pytestmark = pytest.mark.acceptance


def data_of(path: Path) -> dict[str, Any]:
    """Return the data inside a page."""
    text = path.read_text("utf-8")
    [data] = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL
    )
    found: dict[str, Any] = json.loads(data)
    return found


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("-p", "no:xdist")])
def test_the_page_has_every_test_of_every_worker(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, arguments: tuple[str, ...]
) -> None:
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("--synth-tunnels-report=out/traffic.html", *arguments)

    result.assert_outcomes(passed=2, failed=1)
    found = data_of(pytester.path / "out" / "traffic.html")
    tests = {record["test"].partition("::")[2]: record for record in found["records"]}
    assert set(tests) == {"test_passes", "test_fails"}
    assert tests["test_passes"]["request"]["query"] == "token=***"
    assert tests["test_passes"]["worker"].startswith("gw") == ("-n" in arguments)
    assert len(found["har"]["log"]["entries"]) == 2
    text = json.dumps(found)
    assert "sk-1" not in text
    assert "Bearer x1" not in text


def test_a_run_without_tunnels_has_an_empty_page(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile("def test_nothing(): pass")

    pytester.runpytest_subprocess("--synth-tunnels-report=traffic.html")

    assert data_of(pytester.path / "traffic.html")["records"] == []
    assert not runtime.path.joinpath("synth-tunnels").exists()


def test_a_page_that_cannot_be_written_is_told(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    pytester.path.joinpath("out").write_text("a file", "utf-8")

    result = pytester.runpytest_subprocess("--synth-tunnels-report=out/traffic.html")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["the traffic report cannot be written: *out*"])
