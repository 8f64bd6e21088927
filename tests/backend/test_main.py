import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_synth_tunnels.backend.__main__ import main


@contextmanager
def backend(*arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process of its own, which is ended in any case."""
    environment = {k: v for k, v in os.environ.items() if k != "SYNTH_API_KEY"} | environ
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_synth_tunnels.backend", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    about: dict[str, Any] = json.loads(process.stdout.readline())
    return about


def health(url: str, key: str) -> int:
    request = urllib.request.Request(
        f"{url}/v1/tunnels/health", headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        return int(response.status)


def test_it_says_where_it_is_and_makes_a_key() -> None:
    with backend("--port", "0") as process:
        about = first_line(process)
        assert about.keys() == {"backend_url", "public_base_url", "api_key", "pid"}
        assert about["pid"] == process.pid
        assert about["backend_url"] == about["public_base_url"]
        assert about["backend_url"].startswith("http://127.0.0.1:")
        assert health(about["backend_url"], about["api_key"]) == 200


def test_it_names_the_proxy_in_front_of_it() -> None:
    with backend("--port", "0", "--public-url", "https://tunnels.test/") as process:
        about = first_line(process)
    assert about["public_base_url"] == "https://tunnels.test"
    assert about["backend_url"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("tunnels.test", "it must be a URL"),
        ("ftp://tunnels.test", "it must be a URL"),
        ("https://me@tunnels.test", "it must be a URL"),
        ("https://tunnels.test/below", "a URL without a path"),
    ],
)
def test_a_proxy_that_cannot_be(url: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--public-url", url])
    assert exit_.value.code == 2
    assert why in capsys.readouterr().err


def test_it_takes_its_key_from_the_environment_and_keeps_it() -> None:
    with backend("--port", "0", SYNTH_API_KEY="sk-mine") as process:
        about = first_line(process)
        assert about.keys() == {"backend_url", "public_base_url", "pid"}
        assert health(about["backend_url"], "sk-mine") == 200
        process.terminate()
        out, err = process.communicate(timeout=10)
        assert "sk-mine" not in out + err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_soon(number: signal.Signals) -> None:
    with backend("--port", "0") as process:
        about = first_line(process)
        host, port = about["backend_url"].removeprefix("http://").split(":")
        # Neither an idle connection nor a request that never ends may hold it up.
        with (
            socket.create_connection((host, int(port)), timeout=5),
            socket.create_connection((host, int(port)), timeout=5) as busy,
        ):
            busy.sendall(
                b"POST /v1/tunnels/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
                b"Authorization: Bearer %b\r\nExpect: 100-continue\r\n\r\n"
                % about["api_key"].encode()
            )
            assert busy.recv(12) == b"HTTP/1.1 100"
            began = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=10)
            took_s = time.monotonic() - began
        assert (process.returncode, out, err) == (0, "", "")
        assert took_s < 1.0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)


def test_a_taken_port_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert "another --host or --port" in err


def test_an_address_that_is_not_ours_is_one_clear_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--host", "192.0.2.1", "--port", "0"]) == 1
    warning, error, end = capsys.readouterr().err.split("\n")
    assert warning.startswith("warning: 192.0.2.1 is not a loopback address")
    assert error.startswith("error: cannot listen on 192.0.2.1:0: ")
    assert end == ""


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_wrong_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([f"--port={port}"])
    assert caught.value.code == 2
    assert port in capsys.readouterr().err
