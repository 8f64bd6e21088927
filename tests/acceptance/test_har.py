"""HAR files of real runs."""

import json
import re
from base64 import b64decode
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from ..support.har_spec import har_faults
from .conftest import OTHER_PLUGINS, RuntimeDirectory

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


def pages_extras(page: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the extras of each test in a self-contained page of pytest-html."""
    [blob] = re.findall(r'data-jsonblob="([^"]*)"', page.read_text("utf-8"))
    found = json.loads(unescape(blob))["tests"]
    return {name.partition("::")[2]: tests[0]["extras"] for name, tests in found.items()}


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
    assert [har_faults({"log": log}) for log in found.values()] == [[], []]
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


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["plain", "n2"])
def test_a_failing_test_has_its_traffic_in_the_page_of_pytest_html(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    pytest.importorskip("pytest_html")
    others = [name for name in OTHER_PLUGINS if name not in ("html", "metadata")]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in others))
    pytester.makepyfile(
        SUITE
        + """
def test_own_extras(synth_inbox, extras):
    send(synth_inbox, "/own")
    token = synth_inbox.headers["x-synthtunnel-worker-token"]
    extras.append({"name": "own", "format_type": "text", "content": f"sent {token}",
                   "mime_type": "text/plain", "extension": "txt"})
    assert False
"""
    )

    result = pytester.runpytest_subprocess("--html=page.html", "--self-contained-html", *arguments)

    result.assert_outcomes(passed=2, failed=2)
    found = pages_extras(pytester.path / "page.html")
    contents = {
        test: {
            extra["name"]: b64decode(extra["content"].partition(",")[2]).decode() for extra in of
        }
        for test, of in found.items()
    }
    har = "synth tunnel traffic (HAR)"
    assert {test: set(of) for test, of in contents.items()} == {
        "test_passes": set(),
        "test_nothing_comes": set(),
        "test_fails": {har},
        "test_own_extras": {har, "own"},
    }
    assert contents["test_own_extras"]["own"] == "sent ***"
    log = json.loads(contents["test_fails"][har])["log"]
    [entry] = log["entries"]
    assert har_faults({"log": log}) == []
    assert log["comment"].endswith("::test_fails")
    assert entry["request"]["url"].endswith("/fails")
    sent = json.dumps(entry)
    assert "paid" in sent
    assert "sk-1" not in sent
    assert "Bearer x1" not in sent
