import os
from pathlib import Path

import pytest

from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory, RunDirectoryError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX's")


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b")


@pytest.fixture
def directory(base: Path) -> RunDirectory:
    return RunDirectory(f"{base}/user/run")


def test_it_is_private(directory: RunDirectory, base: Path) -> None:
    directory.create()
    directory.create()

    assert [path.stat().st_mode & 0o777 for path in (base / "user", base / "user/run")] == [
        0o700
    ] * 2


def test_one_process_gets_the_claim(directory: RunDirectory) -> None:
    directory.create()

    assert not directory.is_claimed()
    assert [directory.claim(), directory.claim(), directory.is_claimed()] == [True, False, True]


def test_removal_leaves_nothing_of_ours_and_everything_of_others(
    directory: RunDirectory, base: Path
) -> None:
    directory.create()
    directory.claim()
    Path(directory.log).write_text("last words\n")
    other = RunDirectory(f"{base}/user/other")
    other.create()

    directory.remove()
    directory.remove()
    assert [path.name for path in (base / "user").iterdir()] == ["other"]

    other.remove()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.mkdir(mode=0o755), "open to others"),
        (lambda path: path.write_text(""), "not a directory"),
        (lambda path: path.symlink_to(path.parent), "not a directory"),
    ],
    ids=["wide", "file", "symlink"],
)
def test_what_is_not_ours_alone_is_refused(
    directory: RunDirectory, base: Path, make: object, complaint: str
) -> None:
    make(base / "user")  # type: ignore[operator]

    with pytest.raises(RunDirectoryError, match=complaint) as caught:
        directory.create()
    assert f"{base}/user" in str(caught.value)


def test_a_parent_that_cannot_be_written_names_itself(base: Path) -> None:
    with pytest.raises(RunDirectoryError, match="its parent does not exist"):
        RunDirectory(f"{base}/nowhere/user/run").create()
    (base / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot make .*/file/user: .*TMPDIR"):
        RunDirectory(f"{base}/file/user/run").create()


def test_a_path_too_long_for_a_socket_is_told(base: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"too long for a socket.*TMPDIR"):
        RunDirectory(f"{base}/{'x' * 100}/run").create()


def test_the_end_of_a_file(directory: RunDirectory) -> None:
    directory.create()
    assert directory.read(directory.log) is None
    assert directory.last_log_lines() == []

    Path(directory.log).write_bytes(b"".join(b"line %d\n" % n for n in range(50_000)) + b"\xff\n")

    assert directory.last_log_lines(2) == ["line 49999", "\ufffd"]
    assert directory.read(directory.log, 2) == b"\xff\n"
