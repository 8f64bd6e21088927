"""SynthTunnel leases against a backend that does what the test says, without sockets."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.lease import HeldLease
from pytest_synth_tunnels.keeper.leases.spec import LeaseSpec
from pytest_synth_tunnels.keeper.transports.synthtunnel import SynthTunnelTransport
from pytest_synth_tunnels.sdk.requests import Request

NOW = 1_800_000_000.0
MADE = {
    "lease_id": "lease_1",
    "status": "PENDING",
    "public_url": "https://relay.example/s/rt_1/",
    "expires_at": "2027-01-15T09:00:00Z",
    "agent_connect": {"transport": "ws", "url": "wss://relay.example", "agent_token": "at_1"},
    "worker_token": "wt_1",
    "limits": {"max_inflight": 7},
    "unknown": "ignored",
}


class FakeBackendClient:
    """A backend: answers each call from a list by its method, and takes the agent as told."""

    url = "https://backend.example"
    api_key = "sk"
    embedded = False
    ca_file = ""
    ssl_context = None

    def __init__(self, **answers: Any) -> None:
        self.answers = {"POST": [MADE], "DELETE": [{}]} | answers
        self.asked: list[Request] = []
        self.attached: list[str] = []
        self.take: Callable[[Any, Any], None] = lambda change, refuse: change(True, "")

    async def start(self) -> None:
        pass

    def client_id(self) -> str:
        return "client-00000000"

    async def call(self, request: Request) -> Any:
        self.asked.append(request)
        return await self._answer(request)

    async def _answer(self, request: Request) -> Any:
        answer = self.answers[request.method].pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, asyncio.Future):
            return await answer
        return answer

    def call_from_thread(self, request: Request) -> Any:
        raise AssertionError("no beat is due in these tests")

    async def attach(self, lease_id: str, agent: Any, url: str, token: str, **told: Any) -> Any:
        self.attached += [lease_id, url, token]
        self.told = told
        self.take(told["on_change"], told["on_refused"])
        return self

    async def close(self) -> None:
        self.attached.append("closed")

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.asked]


class FakeLedgerRecorder:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log: list[str] = []

    async def add(self, lease_id: str, provider: str, expires_at: float) -> None:
        self.lines.append(lease_id)
        self.log.append(f"+{lease_id} {provider} {expires_at - NOW:.0f}")

    async def remove(self, lease_id: str) -> None:
        self.lines = [line for line in self.lines if line != lease_id]


class SynthLeases:
    """A backend, a ledger, and what the leases of a test are told."""

    def __init__(self, **answers: Any) -> None:
        self.backend_client = FakeBackendClient(**answers)
        self.ledger_recorder = FakeLedgerRecorder()
        self.told: list[tuple[str, str]] = []

    def open(self, started: "asyncio.Future[None] | None" = None, **request: Any) -> HeldLease:
        if started is None:
            started = asyncio.get_running_loop().create_future()
            started.set_result(None)
        transport = SynthTunnelTransport(
            self.backend_client,
            self.ledger_recorder,  # type: ignore[arg-type]
            LeaseSpec(**({"port": 8000, "ttl_s": 3600, "metadata": {"a": 1}} | request)),
            Agent(),
        )
        return HeldLease(
            transport,
            started=started,
            on_event=lambda lease, kind, message: self.told.append((kind, message)),
            now=lambda: NOW,
        )


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(bounded())


async def failure_of(lease: HeldLease) -> KeeperRequestError:
    """Return why a lease is not ready."""
    with pytest.raises(KeeperRequestError) as caught:
        await lease.ready()
    return caught.value
