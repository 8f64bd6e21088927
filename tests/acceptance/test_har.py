"""HAR files of real runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

SUITE = """
import json
from urllib.request import Request, urlopen

import pytest

def send(traffic, path):
    own = {"Content-Type": "application/json", "Authorization": "Bearer x1"}
    body = b'{"api_key": "sk-1", "status": "paid"}'
    call = Request(traffic.url(path), data=body, headers={**traffic.headers, **own})
    urlopen(call, timeout=20).close()

def test_passes(synth_inbox):
    send(synth_inbox, "/passes?token=t-1")
    synth_inbox.wait_for("POST", "/passes")

def test_fails(synth_inbox):
    send(synth_inbox, "/fails")
    synth_inbox.assert_none()

def test_nothing_comes(synth_inbox):
    pass
"""


def logs(folder: Path) -> dict[str, Any]:
    """Return what each file of a folder holds, by its test's name."""
    found = [json.loads(path.read_text("utf-8"))["log"] for path in folder.iterdir()]
    return {log["comment"].partition("::")[2]: log for log in found}


@pytest.mark.parametrize("arguments", [(), ("-n", "2"), ("-p", "no:xdist")])
def test_each_test_has_a_file(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, arguments: tuple[str, ...]
) -> None:
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("--synth-tunnels-har=on", *arguments)

    result.assert_outcomes(passed=2, failed=1)
    found = logs(pytester.path / "synth-tunnels-results")
    assert set(found) == {"test_passes", "test_fails"}
    [entry] = found["test_passes"]["entries"]
    assert entry["request"]["method"] == "POST"
    assert entry["request"]["url"].endswith("/passes?token=***")
    assert entry["_synthTest"].endswith("::test_passes")
    assert entry["_synthWorker"].startswith("gw" if "-n" in arguments else "")
    text = json.dumps(found)
    assert "sk-1" not in text
    assert "Bearer x1" not in text
    assert "paid" in text


def test_of_passing_tests_none_is_kept_on_wish_and_old_files_go(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile(SUITE)
    output = "--synth-tunnels-output=out"
    pytester.runpytest_subprocess("--synth-tunnels-har=on", output)

    pytester.runpytest_subprocess("--synth-tunnels-har=retain-on-failure", output)

    assert set(logs(pytester.path / "out")) == {"test_fails"}


def test_a_folder_that_cannot_be_written_is_told_once(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile(SUITE)
    pytester.path.joinpath("out").write_text("a file", "utf-8")

    result = pytester.runpytest_subprocess("--synth-tunnels-har=on", "--synth-tunnels-output=out")

    result.assert_outcomes(passed=2, failed=1)
    assert str(result.stdout).count("HAR files cannot be written to out") == 1


def test_har_without_recording_is_refused(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess(
        "--synth-tunnels-har=on", "--synth-tunnels-traffic=false"
    )

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--synth-tunnels-har*'on'*--synth-tunnels-traffic*false*"])
