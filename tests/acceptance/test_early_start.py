"""``synth_tunnels_start = session``: apps that read their public URL when they are imported."""

import os
from pathlib import Path

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

SESSION = "--synth-tunnels-start=session"

CONFTEST = """
import os

os.environ["DJANGO_SETTINGS_MODULE"] = "shop_settings"
URL = os.environ["SYNTH_PUBLIC_URL"]

from django.conf import settings

DJANGO_URL = settings.PUBLIC_URL
"""

SETTINGS = """
import os

PUBLIC_URL = os.environ["SYNTH_PUBLIC_URL"]
SECRET_KEY = "for tests"
"""

TESTS = """
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import conftest
import pytest

NESTED = '''
import os, sys
import pytest

def test_it(synth_lease):
    assert synth_lease.public_url == os.environ["SYNTH_PUBLIC_URL"] != "OUTER"
'''

@pytest.mark.parametrize("number", range(8))
def test_the_url_of_this_process(synth_lease, number):
    assert conftest.URL == conftest.DJANGO_URL == os.environ["SYNTH_PUBLIC_URL"]
    assert conftest.URL == synth_lease.public_url
    assert synth_lease.worker_token not in str(dict(os.environ))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    Path("urls", worker).with_suffix(".txt").write_text(conftest.URL)

def test_an_app_answers_there(synth_lease, synth_serve):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})
    synth_serve(app)
    call = Request(conftest.URL, headers=synth_lease.headers)
    with urlopen(call, timeout=20) as answer:
        assert answer.read() == b"here"

def test_a_run_in_a_run_has_its_own(synth_lease, tmp_path):
    outer = os.environ["SYNTH_PUBLIC_URL"]
    (tmp_path / "test_nested.py").write_text(NESTED.replace("OUTER", outer))
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", tmp_path, tmp_path]
    options = ["-p", "no:cacheprovider", "--synth-tunnels-start=session"]
    found = subprocess.run([*command, *options], stdout=subprocess.PIPE, timeout=60)
    assert found.returncode == 0, found.stdout.decode()
    assert pytest.main(
        ["-c", os.devnull, "-q", "--rootdir", str(tmp_path), str(tmp_path), *options]
    ) == 0
    assert os.environ["SYNTH_PUBLIC_URL"] == outer
    assert synth_lease.status()["state"] == "active"
"""


@pytest.fixture
def shop(pytester: pytest.Pytester) -> Path:
    """A suite whose conftest and whose Django settings need their public URL at import."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(shop_settings=SETTINGS, test_shop=TESTS)
    pytester.mkdir("urls")
    return pytester.path


def test_a_conftest_and_django_settings_read_it_at_import(
    pytester: pytest.Pytester, shop: Path, runtime: RuntimeDirectory
) -> None:
    result = pytester.runpytest_subprocess(SESSION, "-p", "no:xdist")

    result.assert_outcomes(passed=10)
    runtime.assert_nothing_left()


def test_each_worker_has_its_own(
    pytester: pytest.Pytester, shop: Path, runtime: RuntimeDirectory
) -> None:
    result = pytester.runpytest_subprocess(SESSION, "--dist=each", "--tx=4*popen")

    result.assert_outcomes(passed=40)
    urls = {file.stem: file.read_text() for file in (shop / "urls").iterdir()}
    assert urls.keys() == {"gw0", "gw1", "gw2", "gw3"}
    assert len(set(urls.values())) == 4
    runtime.assert_nothing_left()


@pytest.mark.parametrize("option", ["--collect-only", "--help", "--version"])
def test_where_no_test_runs_there_is_none(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, option: str
) -> None:
    pytester.makeconftest("import os\nassert 'SYNTH_PUBLIC_URL' not in os.environ")

    result = pytester.runpytest_inprocess(SESSION, option)

    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    runtime.assert_nothing_left()


@pytest.mark.parametrize("before", [None, "http://mine.test"])
def test_the_environment_is_put_back(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    monkeypatch: pytest.MonkeyPatch,
    before: str | None,
) -> None:
    if before:
        monkeypatch.setenv("SYNTH_PUBLIC_URL", before)
    pytester.makeconftest("raise RuntimeError('this conftest cannot be imported')")

    result = pytester.runpytest_inprocess(SESSION)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert os.environ.get("SYNTH_PUBLIC_URL") == before
    assert "SYNTH_TUNNELS_RUN" not in os.environ
    runtime.assert_nothing_left()


def test_a_hook_of_a_conftest_comes_too_late_for_what_matters(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    hook = """
        from dataclasses import replace

        def pytest_synth_tunnels_settings(config, settings):
            return replace(settings, {})
    """
    pytester.makepyfile("def test_it(synth_settings): assert synth_settings.har == 'on'")

    pytester.makeconftest(hook.replace("{}", "ttl_s=60.0, har='on'"))
    refused = pytester.runpytest_inprocess(SESSION)
    pytester.makeconftest(hook.replace("{}", "har='on'"))
    taken = pytester.runpytest_subprocess(SESSION)

    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines("ERROR: synth-tunnels: a hook of a conftest changes ttl_s, and*")
    taken.assert_outcomes(passed=1)
    runtime.assert_nothing_left()


def test_without_a_key_one_error_says_so(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    result = pytester.runpytest_inprocess(SESSION, "--synth-tunnels-backend=hosted")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        "ERROR: synth-tunnels: --synth-tunnels-start is 'session', *$SYNTH_API_KEY is not set*"
    )
    runtime.assert_nothing_left()
