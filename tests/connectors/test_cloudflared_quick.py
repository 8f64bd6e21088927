"""How cloudflared tells the name of a quick tunnel."""

import pytest

from pytest_synth_tunnels.connectors.base import Assignment
from pytest_synth_tunnels.connectors.cloudflared_quick import CloudflaredQuickConnector
from pytest_synth_tunnels.connectors.output_rules import OutputState

NAME = "2026-01-01T00:00:00Z INF |  https://green-words.trycloudflare.com    |"
UP = "2026-01-01T00:00:01Z INF Registered tunnel connection connIndex=0"


def state(*lines: str) -> OutputState:
    found = OutputState(CloudflaredQuickConnector.output_rules, needs_origin=True)
    for line in lines:
        found.take(line)
    return found


@pytest.mark.parametrize("lines", [(NAME, UP), (UP, NAME)])
def test_it_is_connected_once_its_name_is_known(lines: tuple[str, ...]) -> None:
    assert not state(lines[0]).connected
    connected = state(*lines)
    assert (connected.connected, connected.origin) == (
        True,
        "https://green-words.trycloudflare.com",
    )


def test_the_api_s_own_host_is_no_name() -> None:
    line = "ERR |  https://api.trycloudflare.com/tunnel  | failed to request quick Tunnel: timeout"
    found = state(line)
    assert found.origin is None
    assert "api.trycloudflare.com" in found.hint


def test_it_needs_the_gateway_alone() -> None:
    connector = CloudflaredQuickConnector(Assignment("http://127.0.0.1:9", cloudflared="cf"))
    assert connector.arguments()[:2] == ["cf", "tunnel"]
    assert connector.arguments()[-2:] == ["--url", "http://127.0.0.1:9"]
    assert connector.brings_url
