"""Which machine asks."""

import os
import re
from pathlib import Path

import pytest

from pytest_synth_tunnels.sdk import identity
from pytest_synth_tunnels.sdk.identity import client_instance_id


def test_an_id_is_made_once_and_kept(tmp_path: Path) -> None:
    made = client_instance_id(tmp_path)
    assert re.fullmatch("client-[0-9a-f]{32}", made)
    assert client_instance_id(tmp_path) == made
    (file,) = (tmp_path / ".synth").iterdir()
    assert (file.name, file.read_text().strip()) == ("client_instance_id", made)


def test_another_clients_id_is_used(tmp_path: Path) -> None:
    (tmp_path / ".synth").mkdir()
    (tmp_path / ".synth" / "client_instance_id").write_text(" client-of-someone\n")
    assert client_instance_id(tmp_path) == "client-of-someone"


@pytest.mark.parametrize("content", [b"", b"short", b"with spaces", b"\xff" * 20, b"x" * 9999])
def test_an_unusable_id_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".synth").mkdir()
    (tmp_path / ".synth" / "client_instance_id").write_bytes(content)
    made = client_instance_id(tmp_path)
    assert made.startswith("client-")
    assert client_instance_id(tmp_path) == made


def test_of_two_writers_the_first_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def lose_the_race(source: Path, target: Path) -> None:
        Path(target).write_text("client-of-the-other")
        link(source, target)

    monkeypatch.setattr(identity.os, "link", lose_the_race)
    assert client_instance_id(tmp_path) == "client-of-the-other"
    assert len(list((tmp_path / ".synth").iterdir())) == 1


def test_without_a_home_the_id_lasts_as_long_as_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".synth").write_text("a file where the directory should be")
    made = client_instance_id(tmp_path)
    assert re.fullmatch("session-[0-9a-f]{32}", made)
    assert client_instance_id(tmp_path) == made

    def no_home() -> Path:
        raise RuntimeError("no home directory")

    monkeypatch.setattr(identity.Path, "home", no_home)
    assert client_instance_id() == made
