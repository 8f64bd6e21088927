"""What a type checker sees of the public API: a user's conftest and tests, which nobody runs.

``.ci/run types`` has mypy and pyright check this file, both strictly. ``assert_type`` fails where a
type is another one, or ``Any``. A comment ignores each mistake that a checker must see; one that
ignores nothing is an error.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

import re
from collections.abc import Mapping
from datetime import datetime
from socket import socket
from typing import Any, assert_type

import pytest

import pytest_synth_tunnels as package
from pytest_synth_tunnels import (
    AsyncTunnelsClient,
    ExposedLease,
    InboundRequest,
    Inbox,
    KeeperError,
    Lease,
    LeaseFacts,
    Matcher,
    Response,
    ServeError,
    Server,
    Settings,
    SynthClient,
    SynthExpose,
    SynthServe,
    Traffic,
    TunnelError,
    TunnelProvider,
    TunnelsClient,
    match,
    sdk,
)


@pytest.fixture(scope="session")
def served_app(synth_serve: SynthServe) -> Server:
    server = synth_serve("shop:app", port=8000)
    assert_type(server.url, str)
    assert_type(server.port, int)
    with synth_serve("shop:other") as other:
        assert_type(other, Server)
    synth_serve("shop:app", prot=0)  # type: ignore[call-arg]
    return server


def pytest_synth_tunnels_settings(config: pytest.Config, settings: Settings) -> Settings:
    assert_type(settings.ttl_s, float)
    assert_type(settings.provider, str)
    settings.ttl_s = 60  # type: ignore[misc]
    return settings


def pytest_synth_lease_lost(config: pytest.Config, lease: LeaseFacts, reason: str) -> None:
    assert_type(lease.lease_id, str)


def test_a_lease(synth_lease: Lease, exposed_port: int, exposed_socket: socket) -> None:
    assert_type(synth_lease.url("/hooks"), str)
    assert_type(synth_lease.headers["X-SynthTunnel-Worker-Token"], str)
    assert_type(synth_lease.public_url, str)
    assert_type(synth_lease.local_port, int)
    assert_type(synth_lease.expires_at, datetime)
    headers: Mapping[str, str] = synth_lease.headers
    assert headers
    synth_lease.wait_ready(timeout_s=30)
    synth_lease.nothing  # type: ignore[attr-defined]  # noqa: B018


async def test_a_lease_asynchronously(synth_lease: Lease) -> None:
    await synth_lease.wait_ready_async(timeout_s=30)


def test_a_second_lease(synth_expose: SynthExpose) -> None:
    with synth_expose(8000, require_token=False) as lease:
        assert_type(lease, ExposedLease)
        assert_type(lease.url("/"), str)
        assert_type(lease.traffic, Traffic)
    synth_expose(8000, url_style="rot")  # type: ignore[arg-type]


def test_traffic(synth_traffic: Traffic) -> None:
    call = synth_traffic.wait_for("POST", "/hooks/*", json={"status": "paid"}, timeout_s=10)
    assert_type(call, InboundRequest)
    assert_type(call.body, bytes)
    assert_type(call.text, str)
    assert_type(call.json(), Any)
    assert_type(call.response, Response)
    assert_type(call.response.status, int)
    with synth_traffic.expect("POST", re.compile("/hooks/.*"), times=2) as expected:
        pass
    assert_type(expected.requests, list[InboundRequest])
    paid = match("POST", "/hooks/paid", where=lambda request: len(request.body) > 3)
    assert_type(paid, Matcher)
    assert_type(synth_traffic.wait_for_all([paid]), list[InboundRequest])
    synth_traffic.wait_for("POST", timeout="10")  # type: ignore[call-arg]


async def test_traffic_asynchronously(synth_traffic: Traffic) -> None:
    assert_type(await synth_traffic.wait_for_async("POST"), InboundRequest)
    async with synth_traffic.expect("POST") as expected:
        pass
    assert_type(expected.request, InboundRequest)


def test_an_inbox(synth_inbox: Inbox) -> None:
    synth_inbox.respond("POST", "/hooks/**", status=202, json={"taken": True})
    request = synth_inbox.wait_for("POST")
    assert_type(request.form()["name"], str)
    assert_type(request.headers.get_all("x-tag"), list[str])


def test_the_sdk(synth_tunnels: TunnelsClient) -> None:
    lease = synth_tunnels.create_lease(
        client_instance_id="client-0123456789",
        local_host="127.0.0.1",
        local_port=8000,
        provider_preference=TunnelProvider.NGROK,
    )
    assert_type(lease, dict[str, Any])
    assert_type(SynthClient(api_key="key").tunnels, TunnelsClient)


async def test_the_sdk_asynchronously() -> None:
    async with AsyncTunnelsClient(api_key="key", backend_base="http://127.0.0.1:1") as client:
        assert_type(client, AsyncTunnelsClient)


def test_errors(synth_lease: Lease) -> None:
    try:
        synth_lease.wait_ready(timeout_s=1)
    except KeeperError as error:
        assert_type(error.code, str)
        assert_type(error.hint, str)
        base: TunnelError = error
        assert base
    except ServeError as error:
        assert_type(error.code, str)
    sdk.Nothing  # type: ignore[attr-defined]  # noqa: B018
    package.nothing  # type: ignore[attr-defined]  # noqa: B018
