import os
import tempfile
from pathlib import Path

import pytest

from pytest_synth_tunnels.runtime_base import runtime_base

posix = pytest.mark.skipif(os.name != "posix", reason="users and their folders are POSIX")


@pytest.fixture
def name() -> str:
    return f"synth-tunnels-{os.getuid()}"


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    path = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime directory, with a path that leaves room for a socket's."""
    path = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


@posix
def test_the_runtime_directory_of_the_user_comes_first(
    temporary: Path, runtime: Path, name: str
) -> None:
    assert runtime_base({"XDG_RUNTIME_DIR": str(runtime)}) == f"{runtime}/{name}"


@posix
@pytest.mark.parametrize("unusable", ["", "relative", "/no/such/folder"])
def test_without_it_the_folder_for_temporary_files(
    temporary: Path, unusable: str, name: str
) -> None:
    assert runtime_base({"XDG_RUNTIME_DIR": unusable}) == f"{temporary}/{name}"


@posix
def test_a_path_that_is_too_long_for_a_socket_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    assert runtime_base({"XDG_RUNTIME_DIR": str(long)}) == f"/tmp/{name}"  # noqa: S108


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="root alone can give it away")
def test_what_another_user_has_taken_is_left_out(temporary: Path, name: str) -> None:
    for taken in (name, f"{name}-2"):
        (temporary / taken).mkdir()
        os.chown(temporary / taken, 12345, 12345)

    assert runtime_base({}) == f"{temporary}/{name}-3"


@posix
def test_where_no_place_is_usable_the_usual_one_is_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)

    assert runtime_base({}) == f"{temporary}/{name}"
