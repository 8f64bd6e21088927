"""The hooks for other plugins, in real runs: which process calls them, how often, with what."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import SERVE_OWN_APP, CountingBackend, RuntimeDirectory

pytestmark = pytest.mark.acceptance

NOTING = """
import json, os, sys

# Where pytest was started, not where the workers are.
NOTES = {notes!r}

def note(config, hook, **values):
    worker = getattr(config, "workerinput", {{}}).get("workerid", "owner")
    line = json.dumps({{"worker": worker, "hook": hook, **values}})
    with open(NOTES, "a") as file:
        file.write(line + "\\n")

def told(config, hook, lease, **values):
    assert "created_at" in repr(lease)
    assert lease.created_at.tzinfo is not None
    note(
        config,
        hook,
        lease_id=lease.lease_id,
        provider=lease.provider,
        backend=lease.backend,
        port=lease.local_port,
        public_url=lease.public_url,
        ended=lease.ended_at is not None,
        **values,
    )

def pytest_synth_lease_created(config, lease):
    told(config, "created", lease)

def pytest_synth_lease_lost(config, lease, reason):
    told(config, "lost", lease, reason=reason)

def pytest_synth_lease_released(config, lease):
    told(config, "released", lease)

def pytest_runtest_logfinish(nodeid):
    with open(NOTES, "a") as file:
        file.write(json.dumps({{"hook": "finished", "test": nodeid.rpartition("::")[2]}}) + "\\n")
"""

EXPOSING = """
def test_first(synth_lease, synth_expose, record_property):
    with synth_expose(9, require_token=False, url_style="path") as lease:
        assert lease.lease_id != synth_lease.lease_id

def test_second(synth_lease):
    pass

def test_third():
    pass
"""


@pytest.fixture
def notes(pytester: pytest.Pytester) -> Path:
    path = pytester.path / "notes"
    path.touch()
    pytester.makeconftest(NOTING.format(notes=str(path)))
    return path


def read(notes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def test_each_lease_is_told_after_the_test_that_it_happened_in(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, notes: Path
) -> None:
    pytester.makepyfile(EXPOSING)

    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=3)

    told = read(notes)
    assert [(one["hook"], one.get("test")) for one in told] == [
        ("finished", "test_first"),
        ("created", None),  # the run's
        ("created", None),
        ("released", None),
        ("finished", "test_second"),
        ("finished", "test_third"),
        ("released", None),
    ]
    _, shared, exposed, closed, *_, released = told
    assert {one["worker"] for one in (shared, exposed, closed, released)} == {"owner"}
    assert {one["provider"] for one in (shared, exposed)} == {"synthtunnel"}
    assert (shared["lease_id"], exposed["lease_id"]) == (released["lease_id"], closed["lease_id"])
    assert shared["public_url"].startswith("http://127.0.0.1:")
    # The path of this one is the only secret.
    assert (exposed["port"], exposed["public_url"]) == (9, None)
    assert [one["ended"] for one in (shared, exposed, closed, released)] == [
        False,
        False,
        True,
        True,
    ]
    runtime.assert_nothing_left()


def test_the_controller_tells_for_all_workers(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, notes: Path
) -> None:
    pytester.makepyfile(EXPOSING)

    pytester.runpytest_subprocess("-n", "2", "--dist", "each").assert_outcomes(passed=6)

    told = [one for one in read(notes) if one["hook"] != "finished"]
    assert {one["worker"] for one in told} == {"owner"}
    created = {one["lease_id"] for one in told if one["hook"] == "created"}
    released = [one["lease_id"] for one in told if one["hook"] == "released"]
    assert len(created) == len(released) == 3
    assert created == set(released)
    runtime.assert_nothing_left()


@pytest.mark.parametrize("arguments", [["-p", "no:xdist"], ["-n", "2"]], ids=" ".join)
def test_a_managed_lease_is_told_without_its_url(
    suite: pytest.Pytester, runtime: RuntimeDirectory, notes: Path, arguments: list[str]
) -> None:
    with (suite.path / "conftest.py").open("a") as file:
        file.write(SERVE_OWN_APP)
    suite.makepyfile(
        """
        import pytest
        from pytest_synth_tunnels import KeeperError

        def test_what_it_lacks(synth_lease, synth_expose):
            assert synth_lease.provider == "cloudflared"
            assert synth_lease.headers == {}
            with pytest.raises(KeeperError, match="a cloudflared lease has no worker token"):
                synth_lease.refresh_worker_token()
            with pytest.raises(KeeperError, match="nobody.*cloudflared-quick"):
                synth_expose(9, provider="nobody")
            with synth_expose(9, provider="synthtunnel") as lease:
                assert lease.headers

        def test_its_url_is_in_no_report(synth_lease):
            raise AssertionError(synth_lease.url("/x"))
        """
    )

    result = suite.runpytest_subprocess("--synth-tunnels-provider", "cloudflared", *arguments)

    result.assert_outcomes(passed=12 + 1, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: http://127.0.0.1:*/[*][*][*]*"])
    told = [one for one in read(notes) if one["hook"] != "finished"]
    assert [(one["hook"], one["provider"]) for one in told if one["provider"] != "synthtunnel"] == [
        ("created", "cloudflared"),
        ("released", "cloudflared"),
    ]
    assert [one["hook"] for one in told if one["provider"] == "synthtunnel"] == [
        "created",
        "released",
    ]
    urls = {one["provider"]: one["public_url"] for one in told}
    assert urls["cloudflared"] is None
    assert urls["synthtunnel"]
    runtime.assert_nothing_left()


def test_a_loss_is_told_with_its_reason(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, hosted: CountingBackend, notes: Path
) -> None:
    hosted.heartbeat_interval_s = 1.0
    pytester.makepyfile(
        """
        import time

        def test_lost(synth_lease, synth_tunnels):
            synth_tunnels.close_synth_lease(synth_lease.lease_id)
            deadline = time.monotonic() + 20
            while synth_lease.status()["state"] != "lost":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        """
    )

    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)

    told = [one for one in read(notes) if one["hook"] != "finished"]
    assert [one["hook"] for one in told] == ["created", "lost", "released"]
    assert "is lost" in told[1]["reason"]
    assert len({one["lease_id"] for one in told}) == 1


def test_a_hook_that_fails_is_shown_once_and_changes_nothing_else(
    pytester: pytest.Pytester, hosted: CountingBackend, runtime: RuntimeDirectory, notes: Path
) -> None:
    with (pytester.path / "conftest.py").open("a") as file:
        file.write(
            "\ndef pytest_synth_lease_created(config, lease):\n"
            "    raise RuntimeError('no disk')\n"
            "\ndef pytest_synth_lease_released(config, lease):\n"
            "    told(config, 'released', lease)\n"
            "    import pytest; pytest.fail('not like this')\n"
        )
    pytester.makepyfile(
        "def test_one(synth_lease, synth_expose):\n"
        "    synth_expose(9).close()\n"
        "def test_two(synth_lease):\n    pass\n"
    )

    result = pytester.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(passed=2)
    assert result.ret == 0
    text = result.stdout.str()
    assert text.count("pytest_synth_lease_created failed: RuntimeError: no disk (conftest.py:") == 1
    assert (
        text.count("pytest_synth_lease_released failed: Failed: not like this (conftest.py:") == 1
    )
    assert [one["hook"] for one in read(notes)].count("released") == 2
    assert (hosted.creates, hosted.releases) == (2, 2)
    runtime.assert_nothing_left()


def test_nobody_asks_the_keeper_where_nobody_listens(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makepyfile(
        """
        from pytest_synth_tunnels.keeper.ipc.client import KeeperClient

        def test_one(synth_lease, monkeypatch):
            pass

        def unexpected(self):
            raise AssertionError("asked")

        KeeperClient.take_lease_events = unexpected
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(passed=1)
    assert result.ret == 0


def test_a_keeper_that_dies_tells_nothing_and_breaks_nothing(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, notes: Path
) -> None:
    pytester.makepyfile(
        """
        import json, os, signal
        from pytest_synth_tunnels.session import SESSION

        def test_kills_it(synth_lease, pytestconfig):
            with open(pytestconfig.stash[SESSION].directory_path + "/keeper.json") as file:
                os.kill(json.load(file)["pid"], signal.SIGKILL)

        def test_later(synth_lease):
            pass
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(passed=1, errors=1)
    assert "INTERNALERROR" not in result.stdout.str()
    assert [one["hook"] for one in read(notes)] == ["finished", "finished"]


def test_what_was_public_is_always_told(
    pytester: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    pytester.makeconftest(
        """
        from pytest_synth_tunnels.keeper.ipc.client import KeeperClient
        finish = KeeperClient.finish

        def finish_as_if_public(self, timeout_s):
            report = finish(self, timeout_s)
            report.public.append("127.0.0.1:5000 was public through cloudflared for 34 s")
            return report

        KeeperClient.finish = finish_as_if_public
        """
    )
    pytester.makepyfile("def test_one(synth_lease): pass")

    result = pytester.runpytest_subprocess("-q", "-p", "no:xdist")

    result.stdout.fnmatch_lines(
        ["*= synth tunnels =*", "127.0.0.1:5000 was public through cloudflared for 34 s"]
    )


# --- the settings


SETTING = """
from dataclasses import replace

def pytest_synth_tunnels_settings(config, settings):
    note(config, "settings", ttl_s=settings.ttl_s)
    return replace(settings, ttl_s=777.0)
"""

USING = """
import datetime

import pytest

@pytest.mark.parametrize("number", range(4))
def test_ttl(synth_lease, synth_settings, number):
    assert synth_settings.ttl_s == 777.0
    left = synth_lease.expires_at - datetime.datetime.now(datetime.timezone.utc)
    assert 700 < left.total_seconds() <= 777
"""


def test_settings_are_adjusted_once_in_every_process(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, notes: Path
) -> None:
    with (pytester.path / "conftest.py").open("a") as file:
        file.write(SETTING)
    pytester.makepyfile(USING)

    result = pytester.runpytest_subprocess("-n", "2", "--synth-tunnels-ttl-s", "100")

    result.assert_outcomes(passed=4)
    settings = [one for one in read(notes) if one["hook"] == "settings"]
    assert sorted(one["worker"] for one in settings) == ["gw0", "gw1", "owner"]
    assert {one["ttl_s"] for one in settings} == {100.0}
    result.stdout.fnmatch_lines(["*ttl_s=777.0 (pytest_synth_tunnels_settings)*"])


@pytest.mark.parametrize(
    ("conftest", "arguments", "message"),
    [
        (
            "def pytest_synth_tunnels_settings(): return {'ttl_s': 3}",
            [],
            "pytest_synth_tunnels_settings must return Settings or None, not dict",
        ),
        (
            "def pytest_synth_tunnels_connectors(): return ['mine']",
            ["--synth-tunnels-provider", "mine"],
            "pytest_synth_tunnels_connectors must return a mapping, not list",
        ),
        (
            "def pytest_synth_tunnels_connectors(): return {'mine': 'mine'}",
            ["--synth-tunnels-provider", "mine"],
            "pytest_synth_tunnels_connectors gave 'mine' for 'mine': it must be \"module:Class\"",
        ),
        (
            "def pytest_synth_tunnels_connectors(): return {'ngrok': 'mine:Mine'}",
            ["--synth-tunnels-provider", "ngrok"],
            "pytest_synth_tunnels_connectors gave a provider 'ngrok', and there is one already",
        ),
        (
            "def pytest_synth_tunnels_connectors(): return {'mine': 'mine:Mine'}",
            ["--synth-tunnels-provider", "other"],
            "--synth-tunnels-provider is 'other': there is no such provider; known are *mine*",
        ),
        (
            "",
            ["--synth-tunnels-provider", "auto"],
            "--synth-tunnels-provider is 'auto': it must name one *never chosen by itself*",
        ),
    ],
)
def test_what_cannot_be_used_is_told_at_the_start(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    conftest: str,
    arguments: list[str],
    message: str,
) -> None:
    pytester.makeconftest(conftest)
    pytester.makepyfile("def test_nothing(): pass")

    result = pytester.runpytest_subprocess(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: synth-tunnels: {message}*".replace("[", "[[]")])


def test_a_plugin_names_a_provider(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeconftest(
        "def pytest_synth_tunnels_connectors(config):\n    return {'mine': 'my_connector:Mine'}\n"
    )
    pytester.makepyfile(
        "def test_settings(synth_settings):\n"
        "    assert synth_settings.provider == 'mine'\n"
        "    assert synth_settings.connectors == {'mine': 'my_connector:Mine'}\n"
    )

    result = pytester.runpytest_subprocess("--synth-tunnels-provider", "mine")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*provider=mine (--synth-tunnels-provider)*"])
    assert os.listdir(runtime.path) == []
