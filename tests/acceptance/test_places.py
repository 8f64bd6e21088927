"""Runs in unusual places: long paths, other users' directories, full disks."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.full_disk import full_file_system
from .conftest import CALL_OWN_APP, SERVE_OWN_APP

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.name != "posix", reason="sockets have paths there"),
]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files of runs that have no runtime directory."""
    path = Path(tempfile.mkdtemp(prefix="st-"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(SERVE_OWN_APP)
    pytester.makepyfile(test_app=CALL_OWN_APP)
    return pytester


def test_a_long_path_for_temporary_files(
    suite: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = folder / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))

    suite.runpytest_subprocess("-n", "2").assert_outcomes(passed=12)


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="root alone can give it away")
def test_another_user_s_directory_in_the_place_of_ours(
    suite: pytest.Pytester, folder: Path
) -> None:
    folder.chmod(0o1777)
    taken = folder / f"synth-tunnels-{os.getuid()}"
    taken.mkdir()
    os.chown(taken, 12345, 12345)

    suite.runpytest_subprocess("-n", "2").assert_outcomes(passed=12)
    assert list(taken.iterdir()) == []
    assert list(folder.glob("synth-tunnels-*")) == [taken]


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "n2"])
def test_a_full_disk_is_told_at_once(
    suite: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    with full_file_system(folder / "full") as full:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(full))
        began = time.monotonic()
        result = suite.runpytest_subprocess(*arguments)
        took_s = time.monotonic() - began

        result.assert_outcomes(errors=12)
        result.stdout.fnmatch_lines(["*No space left on device. Make room there*"])
        assert took_s < 20, "nobody waits for a keeper that cannot start"
        assert [path.name for path in full.iterdir()] == ["filler"]
