import asyncio
import socket

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.transports.targets import AgentTargets

ONE, TWO = Target("127.0.0.1", 9001), Target("127.0.0.1", 9002)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_leads_to_its_last_target() -> None:
    async def main() -> None:
        targets = AgentTargets(Agent())
        targets.set_target("gw1", ONE)
        targets.begin("lease_1", "http://relay.example/s/rt_1", max_inflight=8)
        targets.set_target("gw1", TWO)
        targets.set_target("", ONE)

        assert targets.target("gw1") == TWO
        assert targets.all_targets == [TWO, ONE]
        targets.remove_target("gw1")
        targets.remove_target("gw1")
        with pytest.raises(KeeperRequestError, match="no target for 'gw1'"):
            targets.target("gw1")
        await targets.close()

    asyncio.run(main())


def test_time_counts_while_a_target_is_served() -> None:
    async def main() -> None:
        clock = Clock()
        targets = AgentTargets(Agent(), clock)
        targets.set_target("gw1", ONE)
        clock.now = 5.0  # not served yet
        targets.begin("lease_1", "http://relay.example/s/rt_1", max_inflight=8)
        targets.set_target("gw2", ONE)
        clock.now = 15.0
        targets.remove_target("gw1")  # gw2 still leads to it
        targets.set_target("gw3", TWO)
        clock.now = 18.0
        targets.remove_target("gw2")
        clock.now = 20.0

        assert targets.served() == {ONE: 13.0, TWO: 5.0}
        clock.now = 99.0
        assert targets.served() == {ONE: 13.0, TWO: 5.0}
        await targets.close()

    asyncio.run(main())


def test_another_lease_takes_the_targets_over() -> None:
    async def main() -> None:
        targets = AgentTargets(Agent())
        targets.set_target("", ONE)
        targets.begin("lease_1", "http://relay.example/s/rt_1", max_inflight=8)
        targets.begin("lease_2", "http://relay.example/s/rt_2", max_inflight=8)

        assert targets.target("") == ONE
        targets.remove_target("")  # of the lease that is served now
        await targets.close()

    asyncio.run(main())


def test_whether_an_app_accepts() -> None:
    async def main() -> None:
        targets = AgentTargets(Agent())
        assert not targets.accepts_blocking()
        with socket.create_server(("127.0.0.1", 0)) as app:
            targets.set_target("gw1", Target("127.0.0.1", app.getsockname()[1]))
            assert targets.accepts_blocking()
        assert not targets.accepts_blocking()
        await targets.close()

    asyncio.run(main())
