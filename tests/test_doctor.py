import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels import doctor
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.cli import main
from pytest_synth_tunnels.compiled import build_name
from pytest_synth_tunnels.connectors import ngrok
from pytest_synth_tunnels.doctor import checks

from .support.hosted_backend import HostedBackend, hosted_backend
from .support.standins import cloudflared as standin

KEY = "sk-doctor-0123456789abcdef"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("SYNTH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def hosted() -> Iterator[HostedBackend]:
    """A backend that is reached over HTTP, and takes one key."""
    with hosted_backend(KEY) as backend:
        yield backend


Diagnose = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture
def diagnose(capsys: pytest.CaptureFixture[str]) -> Diagnose:
    """Run the doctor; gives the exit code, and each check's verdict and words."""

    def diagnose(*arguments: str) -> tuple[int, dict[str, str]]:
        code = main(["doctor", *arguments])
        output = capsys.readouterr()
        assert KEY not in output.out + output.err
        assert output.err == ""
        found: dict[str, str] = {}
        for line in output.out.splitlines():
            verdict, name, text = line[:9].strip(), line[9:21].strip(), line[21:]
            if verdict:
                found[name] = f"{verdict}: {text}"
            else:
                found[list(found)[-1]] += f" {text}"
        return code, found

    return diagnose


def test_all_is_well_offline(diagnose: Diagnose) -> None:
    before = set(threading.enumerate())

    code, found = diagnose()

    assert code == 0
    assert list(found) == [
        *("version", "settings", "key", "backend", "connector", "ports", "round trip")
    ]
    assert {words.partition(":")[0] for words in found.values()} == {"ok"}
    assert found["version"] == f"ok: {build_name()}"
    assert found["settings"].startswith("ok: embedded backend, provider synthtunnel")
    assert "a request and its answer" in found["round trip"]
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # what was told to end may need a moment
        assert not thread.is_alive()


def test_all_is_well_where_callers_come_by_https_and_a_name_of_theirs(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_TUNNELS_PUBLIC_HOST", "caller.test.internal")
    monkeypatch.setenv("SYNTH_TUNNELS_TLS", "true")

    code, found = diagnose()

    assert code == 0, found
    assert "a request and its answer" in found["round trip"]


def test_all_is_well_with_a_backend_elsewhere(
    diagnose: Diagnose, hosted: HostedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", KEY)

    code, found = diagnose("--backend", hosted.url)

    assert code == 0, found
    assert found["key"] == "ok: from $SYNTH_API_KEY"
    assert f"{hosted.url} answers in" in found["backend"]
    assert found["round trip"].startswith("ok: lease open in")
    # Nothing is left there.
    assert hosted.seen.count("POST") == hosted.seen.count("DELETE") == 1


@pytest.mark.skipif(os.name != "posix", reason="a script")
def test_all_is_well_through_a_provider(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    stand_in = {"STANDIN_GATEWAY_PORT": str(port), "STANDIN_LOG": str(log)}
    backend = subprocess.Popen(
        [sys.executable, Path(standin.__file__).with_name("backend.py"), "--port", "0"],
        env=os.environ | stand_in | {"SYNTH_API_KEY": KEY},
        stdout=subprocess.PIPE,
    )
    try:
        assert backend.stdout is not None
        url = json.loads(backend.stdout.readline())["backend_url"]
        edge_url = url.replace("http", "ws", 1) + "/api/v1/synthtunnel/agent"
        program = standin.install(tmp_path, STANDIN_EDGE_URL=edge_url)
        monkeypatch.setattr(checks, "GATEWAY_PORT", port)
        monkeypatch.setenv("SYNTH_TUNNELS_CLOUDFLARED", str(program))
        monkeypatch.setenv("SYNTH_API_KEY", KEY)

        code, found = diagnose("--backend", url, "--provider", "cloudflared")
    finally:
        backend.terminate()
        backend.communicate(timeout=20)

    assert code == 0, found
    assert found["connector"] == f"ok: {program}: cloudflared version 2026.8.0"
    assert found["ports"].startswith(f"ok: 127.0.0.1:{port}, where the provider brings")
    assert found["round trip"].startswith("ok: lease open in")
    assert '"released"' in log.read_text()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signal")
def test_it_can_be_interrupted(raw_server: Any) -> None:
    asked = threading.Event()

    def never_answer(connection: socket.socket) -> None:
        asked.set()
        while connection.recv(4096):
            pass

    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_synth_tunnels", "doctor"],
        env={
            **os.environ,
            "SYNTH_API_KEY": KEY,
            "SYNTH_TUNNELS_BACKEND": raw_server(never_answer),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, errors) == (130, "")


def test_no_key(diagnose: Diagnose, hosted: Backend) -> None:
    code, found = diagnose("--backend", hosted.url)

    assert code == 1
    assert found["key"].startswith("problem: $SYNTH_API_KEY is not set -> Set it")
    assert found["backend"].startswith("skipped")
    assert found["ports"].startswith("ok")
    assert found["round trip"].startswith("skipped")


def test_a_wrong_key(diagnose: Diagnose, hosted: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", "sk-wrong-0123456789")
    monkeypatch.setenv("SYNTH_BACKEND_URL", hosted.url)

    code, found = diagnose()

    assert code == 1
    assert found["key"].startswith("ok")
    assert found["backend"].startswith("problem:")
    assert "401" in found["backend"] or "key" in found["backend"]
    assert "sk-wrong" not in str(found)
    assert found["round trip"].startswith("skipped")


def test_the_backend_is_down(
    diagnose: Diagnose, refusing_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", KEY)

    code, found = diagnose("--backend", refusing_url)

    assert code == 1
    assert found["backend"].startswith("problem:")
    assert "cannot connect" in found["backend"]
    assert "->" in found["backend"]


def test_a_backend_that_says_nothing(
    diagnose: Diagnose, raw_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", KEY)
    monkeypatch.setattr(doctor, "_DEADLINE_S", 0.3)
    asked = threading.Event()

    def never_answer(connection: socket.socket) -> None:
        asked.set()
        while connection.recv(4096):
            pass

    code, found = diagnose("--backend", raw_server(never_answer))

    assert code == 1
    assert asked.is_set()
    assert found["deadline"] == "problem: the checks took over 0.3 s"


def test_this_machine_cannot_be_reached(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_connection", forbidden)

    code, found = diagnose()

    assert code == 1
    assert found["ports"].startswith("problem: 127.0.0.1 cannot be listened on, or not be reached")
    assert "-> Look for a sandbox" in found["ports"]
    assert found["round trip"].startswith("skipped")


def test_a_connection_that_stays_open_is_closed_with_the_rest(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = checks._get
    held: list[socket.socket] = []

    def hold_and_get(lease: Any, ssl_context: Any) -> tuple[int, str]:
        held.append(socket.create_connection((lease.local_host, lease.local_port)))
        return get(lease, ssl_context)

    monkeypatch.setattr(checks, "_get", hold_and_get)

    code, _ = diagnose()

    assert code == 0
    held[0].settimeout(10)
    assert held[0].recv(1) == b""
    held[0].close()
    gc.collect()  # and no warning of a transport that nobody closed


def test_something_else_answers_at_the_public_url(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_get", lambda *_: (200, "welcome to this hotel's network"))

    code, found = diagnose()

    assert code == 1
    assert found["round trip"] == (
        "problem: the public URL answered 200, and not what the app said"
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--backend", "nonsense"], "--synth-tunnels-backend is 'nonsense': it must be auto"),
        (["--provider", "auto"], "never chosen by itself"),
    ],
)
def test_a_wrong_setting(diagnose: Diagnose, arguments: list[str], part: str) -> None:
    code, found = diagnose(*arguments)

    assert code == 1
    assert list(found) == ["settings"]
    assert part in found["settings"]


def test_a_provider_that_nobody_knows(diagnose: Diagnose) -> None:
    code, found = diagnose("--provider", "mine")

    assert code == 1
    assert found["connector"].startswith("problem: no connector is called 'mine'")
    assert "cloudflared-quick" in found["connector"]


def test_a_provider_that_the_backend_does_not_serve(
    diagnose: Diagnose, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", KEY)
    recorder.reply(200, {"status": "ok", "providers": ["cloudflared"]})

    code, found = diagnose("--backend", recorder.url)

    assert code == 1
    assert f"problem: {recorder.url} serves no synthtunnel" in found["backend"]


def test_the_gateway_s_port_is_taken(
    diagnose: Diagnose, hosted: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(checks, "GATEWAY_PORT", port)

        code, found = diagnose("--backend", hosted.url, "--provider", "cloudflared")

    assert code == 1
    assert found["ports"].startswith(f"problem: 127.0.0.1:{port}, where the provider brings")
    assert "-> Stop what listens there" in found["ports"]


@pytest.mark.parametrize("provider", ["cloudflared", "ngrok"])
def test_the_embedded_backend_carries_managed_leases(diagnose: Diagnose, provider: str) -> None:
    code, found = diagnose("--provider", provider)

    assert code == 0, found
    assert found["connector"] == f"ok: the embedded backend carries {provider} leases itself"
    assert found["round trip"].startswith("ok: lease open in")


def test_ngrok_is_not_installed(
    diagnose: Diagnose, hosted: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setenv("SYNTH_API_KEY", KEY)
    monkeypatch.setattr(ngrok, "version", missing)

    code, found = diagnose("--backend", hosted.url, "--provider", "ngrok")

    assert code == 1
    assert found["connector"].startswith("problem: the Python package ngrok is not installed ->")
    # It takes what port there is.
    assert found["ports"] == "ok: 127.0.0.1 can be listened on and reached"


def test_cloudflared_is_missing(diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_TUNNELS_CLOUDFLARED", "no-such-cloudflared")

    code, found = diagnose("--provider", "cloudflared-quick")

    assert code == 1
    assert found["connector"].startswith("problem: there is no program no-such-cloudflared ->")
    assert "synth_tunnels_cloudflared" in found["connector"]


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo cloudflared version 2025.1.0", "cloudflared version 2025.1.0"),
        ("exit 3", "--version ended with exit status 3"),
        ("kill $$", "--version ended with exit status -15"),
        ("exec sleep 60", "--version says nothing for 0.2 s"),
    ],
)
def test_what_cloudflared_says(
    tmp_path: Path, script: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script.startswith("exec sleep"):
        monkeypatch.setattr(checks, "_VERSION_TIMEOUT_S", 0.2)
    program = tmp_path / "cloudflared"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)

    try:
        said = asyncio.run(checks._cloudflared_version(str(program), {}))
    except checks.ProblemError as error:
        said = error.message

    assert words in said


def test_as_a_command(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SYNTH_")}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest_synth_tunnels", "doctor"],
        cwd=tmp_path,
        env=environ | {"SYNTH_API_KEY": KEY, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert process.returncode == 0, process.stdout
    assert process.stdout.count("\nok ") == 6
    assert process.stderr == ""
    assert KEY not in process.stdout
    assert list(tmp_path.iterdir()) == []
