"""The HAR files of a run, beside those of other runs and of other programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.har_files import HarFiles
from pytest_synth_tunnels.traffic.har import HarRecord

from .support.recorded import recorded


def as_it_is(content: dict[str, Any]) -> dict[str, Any]:
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where the directories of runs lie."""
    path = tmp_path / "runs"
    path.mkdir()
    return path


def files_of(folder: Path, runs: Path, run_id: str) -> HarFiles:
    """Return the files of a run that is going on."""
    (runs / run_id).mkdir(exist_ok=True)
    return HarFiles(folder, runs / run_id, as_it_is)


def write(files: HarFiles, test: str = "test_a.py::test_b", worker: str = "") -> Path:
    path = files.write(test, worker, [HarRecord(recorded(), test, worker)])
    assert path is not None
    return path


def test_a_file_is_named_after_its_test_and_worker(folder: Path, runs: Path) -> None:
    path = write(files_of(folder, runs, "one"), "tests/test_shop.py::test_paid[a/b c]", "gw1")

    assert path.parent == folder
    assert path.name.startswith("tests-test_shop.py--test_paid-a-b-c-gw1-")
    assert json.loads(path.read_text("utf-8"))["log"]["comment"] == (
        "tests/test_shop.py::test_paid[a/b c]"
    )


def test_tests_with_like_names_have_files_of_their_own(folder: Path, runs: Path) -> None:
    files = files_of(folder, runs, "one")

    assert write(files, "test_a.py::test[a/b]") != write(files, "test_a.py::test[a b]")


def test_nothing_is_written_where_nothing_came(folder: Path, runs: Path) -> None:
    assert files_of(folder, runs, "one").write("test_a.py::test_b", "", []) is None
    assert not folder.exists()


def test_a_test_that_runs_again_replaces_its_file(folder: Path, runs: Path) -> None:
    files = files_of(folder, runs, "one")

    assert write(files) == write(files)
    assert len(list(folder.iterdir())) == 1


def test_what_an_earlier_run_left_is_removed(folder: Path, runs: Path) -> None:
    old = write(files_of(folder, runs, "one"))
    (runs / "one").rmdir()

    files_of(folder, runs, "two").remove_old()

    assert not old.exists()


def test_files_of_a_run_that_goes_on_and_of_others_stay(folder: Path, runs: Path) -> None:
    beside = write(files_of(folder, runs, "one"))
    own = write(files_of(folder, runs, "two"))
    foreign = folder / "browser.har"
    foreign.write_text('{"log": {"version": "1.2", "creator": {"name": "another"}}}', "utf-8")
    binary = folder / "binary.har"
    binary.write_bytes(b"\xff\x00")

    files_of(folder, runs, "two").remove_old()

    assert {beside, own, foreign, binary} == set(folder.iterdir())


def test_two_runs_at_a_time_keep_a_file_each_for_one_test(folder: Path, runs: Path) -> None:
    first = write(files_of(folder, runs, "one"))
    second = write(files_of(folder, runs, "two"))

    assert first != second
    assert json.loads(first.read_text("utf-8"))["log"]["_synthRun"] == "one"
    assert json.loads(second.read_text("utf-8"))["log"]["_synthRun"] == "two"


def test_secrets_of_the_run_are_taken_out(folder: Path, runs: Path) -> None:
    files = HarFiles(folder, runs / "one", lambda content: {"redacted": sorted(content)})

    path = write(files)

    assert json.loads(path.read_text("utf-8")) == {"redacted": ["log"]}


def test_a_folder_that_cannot_be_made_is_an_error(folder: Path, runs: Path) -> None:
    folder.write_text("a file", "utf-8")

    with pytest.raises(OSError, match="results"):
        write(files_of(folder, runs, "one"))
