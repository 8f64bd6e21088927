import os
import subprocess
import sys
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


def test_a_failure_is_known_to_all_and_nobody_tries_again(directory: RunDirectory) -> None:
    directory.create()
    directory.claim()
    assert not directory.has_failed()

    directory.mark_failed()
    directory.mark_failed()

    assert directory.has_failed()
    assert directory.is_claimed()
    assert not directory.claim()
    directory.remove()
    assert not directory.is_claimed()


def test_room_to_write(directory: RunDirectory, base: Path) -> None:
    directory.create()

    directory.check_space()

    assert list((base / "user/run").iterdir()) == []


def test_a_full_disk_is_told(full_disk: Path) -> None:
    directory = RunDirectory(f"{full_disk}/user/run")
    directory.create()

    with pytest.raises(RunDirectoryError, match=r"/user/run: No space left on device\. Make room"):
        directory.check_space()

    directory.claim()
    directory.mark_failed()  # although nothing can be written
    assert directory.has_failed()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a limit of this process")
def test_a_limit_of_file_sizes_is_told(directory: RunDirectory) -> None:
    directory.create()
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "from pytest_synth_tunnels.keeper.process.run_directory import RunDirectory\n"
        "RunDirectory(sys.argv[1]).check_space()"
    )

    result = subprocess.run(
        [sys.executable, "-c", code, directory.path], capture_output=True, text=True, check=False
    )

    assert "File too large. Make room there" in result.stderr


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="root alone can give it away")
def test_what_is_another_user_s_cannot_be_removed(directory: RunDirectory, base: Path) -> None:
    (base / "user").mkdir(mode=0o700)
    os.chown(base / "user", 12345, 12345)

    with pytest.raises(RunDirectoryError, match=r"belongs to user 12345\. Set XDG_RUNTIME_DIR"):
        directory.create()


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
