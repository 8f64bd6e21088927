import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_synth_tunnels import cli


def test_it_is_the_package_s_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest_synth_tunnels", "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "usage: python -m pytest_synth_tunnels" in result.stdout
    assert "doctor" in result.stdout
    assert "leases" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["leases", "--nothing"]])
def test_another_command_is_refused(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)

    assert caught.value.code == 2
    assert "usage: python -m pytest_synth_tunnels" in capsys.readouterr().err


def test_no_open_leases(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    assert cli.main(["leases"]) == 0
    assert capsys.readouterr().out == "no open leases\n"
    assert cli.main(["leases", "--release-stale"]) == 0


def test_a_ledger_that_cannot_be_used(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    assert cli.main(["leases"]) == 1
    assert capsys.readouterr().err.startswith("cannot use the ledger: ")
