"""The gateways of a run."""

import socket

from ...support.managed_leases import (
    ManagedLeases,
    failure_of,
    run,
)


def test_a_gateway_port_that_is_taken() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        with socket.create_server(("127.0.0.1", managed.backend.gateway_port)):
            failure = await failure_of(managed.lease())
        assert failure.code == "GATEWAY_PORT_TAKEN"
        assert f"127.0.0.1:{managed.backend.gateway_port}" in failure.message

    assert run(scenario).backend.leases["lease_1"]["status"] == "released"
