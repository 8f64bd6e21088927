"""Tunnels and managed leases of the embedded backend carry real traffic."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.sdk import requests

from ..support.live_tunnels import Tunnels, run


async def ask(tunnels: Tunnels, url: str) -> tuple[int, bytes]:
    path = urlsplit(url).path
    answer = await tunnels.send(
        f"GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def open_tunnel(tunnels: Tunnels, port: int, host: str = "127.0.0.1") -> dict[str, Any]:
    call = requests.create_tunnel(subdomain="Demo", local_port=port, local_host=host)
    found: dict[str, Any] = tunnels.backend.call(call)
    return found


def test_a_tunnel_answers_at_its_public_url() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app = await tunnels.app("one")
        tunnel = open_tunnel(tunnels, app.port)
        assert tunnel["public_url"] == f"{tunnels.backend.url}/t/demo"
        assert await ask(tunnels, tunnel["public_url"] + "/x") == (200, b"one /x")
        assert app.seen[0].get("x-forwarded-prefix") == ["/t/demo"]

    run(scenario)


def test_rotation_moves_a_tunnel_to_another_target() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        one, two = await tunnels.app("one"), await tunnels.app("two")
        url = open_tunnel(tunnels, one.port)["public_url"]
        rotated = tunnels.backend.call(requests.rotate_tunnel(local_port=two.port))
        assert rotated["public_url"] == url
        assert await ask(tunnels, f"{url}/x") == (200, b"two /x")

    run(scenario)


def test_a_deleted_tunnel_answers_no_more_until_its_name_is_used_again() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        one, two = await tunnels.app("one"), await tunnels.app("two")
        tunnel = open_tunnel(tunnels, one.port)
        for _ in range(2):
            tunnels.backend.call(requests.delete_tunnel(tunnel["id"]))
            assert (await ask(tunnels, tunnel["public_url"]))[0] == 404
        assert open_tunnel(tunnels, two.port)["public_url"] == tunnel["public_url"]
        assert await ask(tunnels, tunnel["public_url"]) == (200, b"two /")

    run(scenario)


def test_a_tunnel_reaches_no_other_machine() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        url = open_tunnel(tunnels, 80, host="192.0.2.1")["public_url"]
        status, body = await ask(tunnels, url)
        assert status == 410
        assert "192.0.2.1, which is not this machine" in json.loads(body)["message"]
        app = await tunnels.app("one")
        tunnels.backend.call(requests.rotate_tunnel(local_port=app.port))
        assert await ask(tunnels, url) == (200, b"one /")

    run(scenario)


class Connector:
    """What a connector does: it attaches with the lease's token, and passes paths on unchanged."""

    def __init__(self, lease: dict[str, Any], gateway_port: int) -> None:
        self.agent = Agent()
        self.agent.leases.serve(lease["managed_tunnel_id"], "http://edge.test")
        self.agent.leases.set_target(
            lease["managed_tunnel_id"], "", Target("127.0.0.1", gateway_port)
        )
        self._up = asyncio.Event()
        self._dialer = Dialer(
            self.agent,
            lease["edge_url"],
            lease["tunnel_token"],
            on_change=lambda up, _: self._up.set() if up else None,
        )

    async def __aenter__(self) -> "Connector":
        await self._dialer.start()
        await self._up.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._dialer.close()
        await self.agent.close()


def make_lease(tunnels: Tunnels, **options: Any) -> dict[str, Any]:
    call = requests.create_lease(
        client_instance_id="client-12345678", local_host="127.0.0.1", local_port=8000, **options
    )
    found: dict[str, Any] = tunnels.backend.call(call)
    return found


def test_a_managed_lease_leads_to_its_connector_with_the_whole_path() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        lease = make_lease(tunnels)
        async with Connector(lease, gateway.port):
            status, body = await ask(tunnels, lease["public_url"] + "/x")
            assert (status, body) == (200, f"gateway {lease['route_prefix']}/x".encode())
            assert gateway.seen[0].get("x-forwarded-prefix") == []
            assert gateway.seen[0].get("x-forwarded-host") == ["edge.test"]

    run(scenario)


def test_leases_that_share_a_connector_end_apart() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        gateway = await tunnels.app("gateway")
        one, two = make_lease(tunnels), make_lease(tunnels)
        assert one["managed_tunnel_id"] == two["managed_tunnel_id"]
        async with Connector(one, gateway.port):
            tunnels.backend.call(requests.release_lease(one["lease_id"]))
            assert (await ask(tunnels, one["public_url"]))[0] == 404
            assert (await ask(tunnels, two["public_url"]))[0] == 200
            tunnels.backend.call(requests.delete_lease(one["lease_id"]))
            assert (await ask(tunnels, two["public_url"]))[0] == 200
            tunnels.backend.call(requests.delete_lease(two["lease_id"]))
            assert (await ask(tunnels, two["public_url"]))[0] == 404

    run(scenario)


def test_a_connector_attaches_to_nothing_but_its_own() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        one = make_lease(tunnels)
        other = make_lease(tunnels, reuse_connector=False)
        assert one["managed_tunnel_id"] != other["managed_tunnel_id"]
        gateway = await tunnels.app("gateway")
        async with Connector(other, gateway.port):
            assert (await ask(tunnels, other["public_url"]))[0] == 200
            ready = one["public_url"] + "/__synth/ready"
            assert (await ask(tunnels, ready))[0] == 503

    run(scenario)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_an_expired_lease_carries_nothing() -> None:
    clock = Clock()

    async def scenario() -> None:
        async with asyncio.timeout(20), Tunnels(now=clock) as tunnels:
            gateway = await tunnels.app("gateway")
            lease = make_lease(tunnels, requested_ttl_seconds=60)
            async with Connector(lease, gateway.port):
                assert (await ask(tunnels, lease["public_url"]))[0] == 200
                clock.now += 61
                tunnels.backend.call(requests.list_leases())
                assert (await ask(tunnels, lease["public_url"]))[0] == 404

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/t/", "/t/none", "/m/", "/m/r_none/x", "/t"])
def test_unknown_paths_are_404(path: str) -> None:
    async def scenario(tunnels: Tunnels) -> None:
        assert (await ask(tunnels, path))[0] == 404

    run(scenario)
