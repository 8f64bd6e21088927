"""The embedded backend as the keeper sees it: an agent's link in memory."""

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.backend.server import Backend
from pytest_synth_tunnels.keeper.backend_client import Attachment, EmbeddedBackendClient
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.sdk.errors import TunnelError
from pytest_synth_tunnels.sdk.requests import Request

OFFLINE = "the agent token was rotated"


class AttachedLease:
    """A backend client, a lease and its agent."""

    backend_client: EmbeddedBackendClient
    lease: dict[str, Any]
    agent: Agent
    attachment: Attachment

    def __init__(self) -> None:
        self.news: list[tuple[bool, str]] = []

    async def make_lease(self) -> dict[str, Any]:
        lease: dict[str, Any] = await self.backend_client.call(
            requests.create_synth_lease(
                client_instance_id=self.backend_client.client_id(),
                local_host="127.0.0.1",
                local_port=8000,
            )
        )
        return lease

    async def attach(self, token: str) -> Attachment:
        return await self.backend_client.attach(
            self.lease["lease_id"],
            self.agent,
            self.lease["agent_connect"]["url"],
            token,
            on_change=lambda *news: self.news.append(news),
            on_refused=lambda reason: pytest.fail(reason),
        )

    async def rotate(self) -> str:
        path = f"/api/v1/synthtunnel/leases/{self.lease['lease_id']}/agent-token:refresh"
        answer = await self.backend_client.call(Request("POST", path))
        return str(answer["agent_connect"]["agent_token"])

    async def connected(self) -> bool:
        answer = await self.backend_client.call(requests.get_synth_lease(self.lease["lease_id"]))
        return bool(answer["connected"])


@asynccontextmanager
async def attached_lease() -> AsyncIterator[AttachedLease]:
    attached = AttachedLease()
    attached.backend_client = EmbeddedBackendClient(30.0)
    await attached.backend_client.start()
    try:
        attached.lease = await attached.make_lease()
        attached.agent = Agent()
        attached.agent.leases.serve(attached.lease["lease_id"], attached.lease["public_url"])
        attached.attachment = await attached.attach(attached.lease["agent_connect"]["agent_token"])
        assert attached.news == [(True, "")]
        assert attached.agent.attached
        yield attached
    finally:
        await attached.agent.close()
        await attached.backend_client.close()


def run(test: Callable[[AttachedLease], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), attached_lease() as attached:
            await test(attached)

    asyncio.run(main())


def test_an_agent_whose_token_was_rotated_comes_back_by_itself() -> None:
    async def test(attached: AttachedLease) -> None:
        for turn in range(1, 3):
            await attached.rotate()
            assert not attached.agent.attached
            await asyncio.sleep(0)
            assert attached.news == [(True, ""), *[(False, OFFLINE), (True, "")] * turn]
            assert attached.agent.attached
            assert await attached.connected()

    run(test)


def test_a_token_that_is_rotated_twice_at_once() -> None:
    async def test(attached: AttachedLease) -> None:
        await attached.rotate()
        await attached.rotate()
        await asyncio.sleep(0)
        assert attached.news[1:] == [(False, OFFLINE), (True, "")]
        assert await attached.connected()

    run(test)


def test_the_end_of_the_lease_is_told_and_final() -> None:
    async def test(attached: AttachedLease) -> None:
        await attached.backend_client.call(requests.close_synth_lease(attached.lease["lease_id"]))
        await asyncio.sleep(0)
        assert attached.news[1:] == [(False, "lease closed")]
        assert not attached.agent.attached

    run(test)


def test_a_lease_that_ends_right_after_a_rotation_is_left_alone() -> None:
    async def test(attached: AttachedLease) -> None:
        await attached.rotate()
        await attached.backend_client.call(requests.close_synth_lease(attached.lease["lease_id"]))
        await asyncio.sleep(0)
        assert attached.news[1:] == [(False, OFFLINE)]
        assert not attached.agent.attached

    run(test)


def test_another_agent_that_shows_the_token_is_not_driven_away() -> None:
    async def test(attached: AttachedLease) -> None:
        other = AttachedLease()
        other.backend_client, other.lease, other.agent = (
            attached.backend_client,
            attached.lease,
            Agent(),
        )
        other.agent.leases.serve(attached.lease["lease_id"], attached.lease["public_url"])
        await other.attach(attached.lease["agent_connect"]["agent_token"])
        await asyncio.sleep(0)
        assert attached.news[1:] == [(False, "another agent took over")]
        assert other.news == [(True, "")]
        assert await attached.connected()
        await other.agent.close()

    run(test)


def test_nothing_is_told_once_it_is_closed() -> None:
    async def test(attached: AttachedLease) -> None:
        await attached.attachment.close()
        await attached.rotate()
        await asyncio.sleep(0)
        assert attached.news == [(True, "")]
        assert not attached.agent.attached

    run(test)


def test_a_backend_that_cannot_listen_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Backend) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(Backend, "start", refuse)

    with pytest.raises(KeeperRequestError, match=r"cannot listen on 127\.0\.0\.1: Cannot ass") as e:
        asyncio.run(EmbeddedBackendClient(5).start())

    assert "loopback interface" in e.value.hint


def test_a_wrong_token_attaches_nothing() -> None:
    async def test(attached: AttachedLease) -> None:
        with pytest.raises(TunnelError, match=attached.lease["lease_id"]):
            await attached.attach("at_wrong")

    run(test)
