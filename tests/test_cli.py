import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import pytest

from pytest_synth_tunnels import cli
from pytest_synth_tunnels.compiled import build_name


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
    assert "usage: synth-tunnels" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="closes a stream as a shell does")
def test_a_tunnel_whose_output_nobody_takes(tmp_path: Any) -> None:
    command = [
        "sh",
        "-c",
        '"$0" -m pytest_synth_tunnels expose --command false >&-',
        sys.executable,
    ]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    assert result.stderr.startswith("synth-tunnels: ")
    assert result.returncode == 1


def test_ctrl_c_while_a_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_examine", interrupt)

    assert cli.main(["doctor"]) == 130


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


def test_the_console_script_is_the_same_program() -> None:
    (script,) = entry_points(group="console_scripts", name="synth-tunnels")

    assert script.load() is cli.main


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pytest-synth-tunnels {build_name()}\n"


def test_the_backend_reads_its_own_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["backend", "--port", "no"])

    assert caught.value.code == 2
    assert "usage: synth-tunnels backend" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["expose"], "expose: a port is needed, or --command"),
        (["expose", "80a"], "expose: PORT is '80a': it must be a port, 1 to 65535"),
        (["expose", "0"], "expose: PORT is '0': it must be a port"),
        (["expose", "80", "--command", " "], "--command is ' ': it must be a command"),
        (["expose", "80", "--provider", "nix"], "--provider is 'nix': there is no such provider"),
        (["inbox", "--url-style", "x"], "inbox: --url-style is 'x': it must be root or path"),
        (
            ["inbox", "--backend", "https://example.com", "--url-style", "root"],
            "--url-style is 'root', and a hosted relay gives every lease a URL with a path",
        ),
    ],
)
def test_a_tunnel_that_cannot_be(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in list(os.environ):
        if name.startswith("SYNTH_"):
            monkeypatch.delenv(name)

    assert cli.main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert message in written.err
    assert written.err.count("\n") == 1
