"""The ngrok connector: with the real package, which cannot reach its service here, and with a
package that plays it."""

import asyncio
import socket
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.connectors import ngrok as ngrok_connector
from pytest_synth_tunnels.connectors.base import Assignment, ConnectorError
from pytest_synth_tunnels.connectors.ngrok import NgrokConfig, NgrokConnector, serve

from ..support.processes import gone, until

TOKEN = "2abcdefghijklmnopqrstuvwxyz_7seven7"
GATEWAY = "http://127.0.0.1:8016"

PLAYED = """\
import os, threading

class Listener:
    def __init__(self, url): self._url = url
    def url(self): return self._url

class Endpoint:
    def __init__(self, session): self.session, self.name = session, "of-its-own.ngrok.app"
    def domain(self, name): self.name = name; return self
    async def listen_and_forward(self, target):
        assert target == "http://127.0.0.1:8016", target
        return Listener(f"https://{self.name}")

class Session:
    closed = False
    def http_endpoint(self): return Endpoint(self)
    async def close(self): Session.closed = True

class SessionBuilder:
    last = None
    def __init__(self): SessionBuilder.last = self
    def authtoken(self, token): self.token = token; return self
    def handle_disconnection(self, handler): self.lost = handler; return self
    def handle_heartbeat(self, handler): self.alive = handler; return self
    async def connect(self):
        if self.token.startswith("bad"):
            why = "authentication failed: no\\n"
            raise ValueError("failed to connect session", why, "ERR_NGROK_105")
        return Session()
"""


def assignment(lease: dict[str, Any] | None = None, **environ: str) -> Assignment:
    return Assignment(GATEWAY, lease or {}, environ)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of the same name, which connects whenever its token is not bad."""
    (tmp_path / "ngrok.py").write_text(PLAYED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ngrok", raising=False)
    yield
    sys.modules.pop("ngrok", None)


def ready(connector: NgrokConnector) -> tuple[str | None, list[str]]:
    async def main() -> tuple[str | None, list[str]]:
        try:
            async with asyncio.timeout(20):
                await connector.start()
                return await connector.ready(), connector.logs()
        finally:
            await connector.stop()

    return asyncio.run(main())


def failure(connector: NgrokConnector) -> ConnectorError:
    with pytest.raises(ConnectorError) as caught:
        ready(connector)
    assert not connector.status().connected
    return caught.value


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(
    ("lease", "environ", "origin"),
    [
        ({}, {"NGROK_AUTHTOKEN": TOKEN}, "https://of-its-own.ngrok.app"),
        ({"tunnel_token": TOKEN, "hostname": "a.example"}, {}, "https://a.example"),
        ({"tunnel_token": TOKEN}, {"NGROK_AUTHTOKEN": "bad"}, "https://of-its-own.ngrok.app"),
        (
            {"tunnel_token": "bad", "hostname": "127.0.0.1:1", "edge_url": "ws://127.0.0.1:1/"},
            {"NGROK_AUTHTOKEN": TOKEN},
            "https://of-its-own.ngrok.app",
        ),
    ],
)
def test_whose_token_and_whose_name(
    lease: dict[str, str], environ: dict[str, str], origin: str
) -> None:
    assert ready(NgrokConnector(assignment(lease, **environ))) == (origin, [f"connected: {origin}"])


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(
    "lease", [{}, {"tunnel_token": "tt_1", "edge_url": "ws://127.0.0.1:1/"}, {"tunnel_token": ""}]
)
def test_no_token(lease: dict[str, str]) -> None:
    error = failure(NgrokConnector(assignment(lease)))

    assert error.message == "ngrok has no authtoken"
    assert "NGROK_AUTHTOKEN" in error.hint


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ngrok_connector, "version", missing)

    error = failure(NgrokConnector(assignment(NGROK_AUTHTOKEN=TOKEN)))

    assert error.message == "the Python package ngrok is not installed"
    assert "pytest-synth-tunnels[ngrok]" in error.hint


@pytest.mark.usefixtures("played")
def test_a_token_that_is_refused() -> None:
    error = failure(NgrokConnector(assignment(NGROK_AUTHTOKEN="bad_token_1234")))

    assert error.message == (
        "ngrok is not connected: failed: failed to connect session: authentication failed: no: "
        "ERR_NGROK_105"
    )
    assert "NGROK_AUTHTOKEN" in error.hint


@pytest.mark.usefixtures("played")
def test_a_session_that_is_lost_and_comes_back() -> None:
    async def main() -> None:
        said: list[str] = []
        ended = asyncio.Event()
        config = NgrokConfig(token=TOKEN, domain="", target=GATEWAY)
        serving = asyncio.create_task(serve(config, said.append, ended))
        await until(lambda: said)
        builder = sys.modules["ngrok"].SessionBuilder.last
        assert builder.token == TOKEN
        builder.alive(12)
        builder.lost("ngrok.example:443", "connection\nreset")
        builder.alive(12)
        builder.alive(12)
        assert said == [
            "connected: https://of-its-own.ngrok.app",
            "offline: connection reset",
            "connected: https://of-its-own.ngrok.app",
        ]
        ended.set()
        await serving
        assert sys.modules["ngrok"].Session.closed

    asyncio.run(main())


def test_the_real_one_without_its_service() -> None:
    pytest.importorskip("ngrok", reason="the package ngrok is not installed")
    connector = NgrokConnector(assignment(NGROK_AUTHTOKEN=TOKEN))

    error = failure(connector)

    assert "failed to connect session: failed to establish tcp connection" in error.message
    assert "reachable" in error.hint
    assert TOKEN not in repr((str(error), connector.logs(), connector))


DETOUR = """\
import ngrok
real = ngrok.SessionBuilder
ngrok.SessionBuilder = lambda: real().server_addr("127.0.0.1:{port}")
from pytest_synth_tunnels.connectors.ngrok import main
"""


def test_the_real_one_is_ended_while_it_waits_for_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads end with its process, whatever they are at."""
    pytest.importorskip("ngrok", reason="the package ngrok is not installed")
    monkeypatch.syspath_prepend(tmp_path)

    class Detoured(NgrokConnector):
        module = "detour"

    async def main() -> None:
        connector = Detoured(assignment(NGROK_AUTHTOKEN=TOKEN))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.setblocking(False)
            (tmp_path / "detour.py").write_text(DETOUR.format(port=silent.getsockname()[1]))
            await connector.start()
            try:
                async with asyncio.timeout(10):
                    peer, _ = await asyncio.get_running_loop().sock_accept(silent)
                with peer, pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await connector.ready()
                assert "it has printed nothing" in connector.status().error
                assert connector._supervisor is not None
                process: Any = connector._supervisor._process
            finally:
                async with asyncio.timeout(5):
                    await connector.stop()
        await gone(process.pid)

    asyncio.run(main())
