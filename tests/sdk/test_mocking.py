"""What replaces httpx in a test replaces it in both clients."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import respx
from pytest_httpx import HTTPXMock

from pytest_synth_tunnels.sdk import AsyncTunnelsClient, TunnelsClient, TunnelUnavailableError

HOSTED = "https://synth.example"
LEASE = {"lease_id": "l1"}


def ask(url: str) -> dict[str, Any]:
    with TunnelsClient(api_key="k", base_url=url) as client:
        return client.get_synth_lease("l1")


def ask_async(url: str) -> dict[str, Any]:
    async def scenario() -> dict[str, Any]:
        async with AsyncTunnelsClient(api_key="k", base_url=url) as client:
            return await client.get_synth_lease("l1")

    return asyncio.run(scenario())


either = pytest.mark.parametrize("ask", [ask, ask_async])
anywhere = pytest.mark.parametrize("url", [HOSTED, "http://127.0.0.1:1"])


@either
@anywhere
def test_pytest_httpx(
    ask: Callable[[str], dict[str, Any]], url: str, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(url=f"{url}/api/v1/synthtunnel/leases/l1", json=LEASE)
    assert ask(url) == LEASE
    (sent,) = httpx_mock.get_requests()
    assert sent.headers["authorization"] == "Bearer k"


@either
@anywhere
@pytest.mark.parametrize("using", ["httpcore", "httpx"])
def test_respx(ask: Callable[[str], dict[str, Any]], url: str, using: str) -> None:
    with respx.mock(base_url=url, using=using) as mock:
        route = mock.get("/api/v1/synthtunnel/leases/l1").respond(json=LEASE)
        assert ask(url) == LEASE
    assert route.call_count == 1


@either
def test_failures(ask: Callable[[str], dict[str, Any]], httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=503, json={"detail": "busy"})
    with pytest.raises(TunnelUnavailableError, match="busy"):
        ask(HOSTED)
    httpx_mock.add_exception(httpx.ConnectError("no route"))
    with pytest.raises(httpx.ConnectError, match="no route"):
        ask(HOSTED)
