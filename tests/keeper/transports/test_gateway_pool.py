"""The gateways of a run."""

import asyncio
import socket

import pytest

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.transports.gateway_pool import ANY_PORT, GatewayPool

from ...support.managed_leases import ManagedLeases, failure_of, run


def test_one_gateway_for_each_port_that_is_asked_for() -> None:
    async def main() -> None:
        pool = GatewayPool(5)
        try:
            one, two = await asyncio.gather(pool.find(ANY_PORT), pool.find(ANY_PORT))
            assert one is two
            assert one.port > 0
        finally:
            await pool.close()
        with socket.create_server(("127.0.0.1", one.port)):
            pass  # the port is free again

    asyncio.run(main())


def test_a_port_that_is_taken_stays_with_its_owner() -> None:
    async def main() -> None:
        pool = GatewayPool(5)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(KeeperRequestError) as caught:
                await pool.find(port)
        assert caught.value.code == "GATEWAY_PORT_TAKEN"
        assert f"127.0.0.1:{port}" in caught.value.message
        assert (await pool.find(port)).port == port
        await pool.close()

    asyncio.run(main())


def test_a_lease_whose_gateway_port_is_taken_fails_and_is_released() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        with socket.create_server(("127.0.0.1", managed.backend.gateway_port)):
            failure = await failure_of(managed.lease())
        assert failure.code == "GATEWAY_PORT_TAKEN"

    assert run(scenario).backend.leases["lease_1"]["status"] == "released"
