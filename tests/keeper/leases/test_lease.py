"""One lease against a backend that does what the test says, without sockets."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.heartbeat import Notice, NoticeKind
from pytest_synth_tunnels.keeper.leases.lease import HeldLease
from pytest_synth_tunnels.keeper.leases.spec import LeaseSpec
from pytest_synth_tunnels.keeper.leases.state import LeaseState
from pytest_synth_tunnels.keeper.transports.synthtunnel import SynthTunnelTransport
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError, from_status
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
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log: list[str] = []

    async def add(self, lease_id: str, provider: str, expires_at: float) -> None:
        self.lines.append(lease_id)
        self.log.append(f"+{lease_id} {provider} {expires_at - NOW:.0f}")

    async def remove(self, lease_id: str) -> None:
        self.lines = [line for line in self.lines if line != lease_id]


class World:
    def __init__(self, **answers: Any) -> None:
        self.backend_client = FakeBackendClient(**answers)
        self.ledger_recorder = FakeLedgerRecorder()
        self.told: list[tuple[str, str]] = []

    def lease(self, started: "asyncio.Future[None] | None" = None, **request: Any) -> HeldLease:
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


async def failure_of(lease: HeldLease) -> Any:
    with pytest.raises(KeeperRequestError) as caught:
        await lease.ready()
    return caught.value


def test_made_served_and_given_back() -> None:
    async def main() -> None:
        world = World()
        lease = world.lease()
        lease.targets.set_target("gw1", Target("127.0.0.1", 9001))
        await lease.ready()

        assert lease.state is LeaseState.ACTIVE
        assert world.backend_client.asked[0].body == {
            "client_instance_id": "client-00000000",
            "local_target": {"host": "127.0.0.1", "port": 8000},
            "requested_ttl_seconds": 3600,
            "metadata": {"a": 1},
            "capabilities": {"max_inflight": 1024},
        }
        assert world.backend_client.attached == ["lease_1", "wss://relay.example", "at_1"]
        info = lease.info("gw1")
        assert info.public_url == "https://relay.example/s/rt_1/~gw1"
        assert (info.local_port, info.worker_token) == (9001, "wt_1")
        assert info.backend == "https://backend.example"
        assert world.ledger_recorder.log == ["+lease_1 synthtunnel 3600"]

        assert await lease.release(5) is None
        assert await lease.release(5) is None
        assert lease.state is LeaseState.RELEASED
        assert world.backend_client.methods == ["POST", "DELETE"]
        assert world.backend_client.attached[-1] == "closed"
        assert world.ledger_recorder.lines == []
        assert (await failure_of(lease)).code == "LEASE_OVER"

    run(main())


def test_a_refusal_is_the_same_for_all_and_asked_once() -> None:
    async def main() -> None:
        refusal = from_status(401, {"detail": "bad key"}, where="POST /x at https://b")
        world = World(POST=[refusal])
        lease = world.lease()

        failures = await asyncio.gather(*(failure_of(lease) for _ in range(8)))

        assert {f.code for f in failures} == {"TUNNEL_AUTH_INVALID"}
        (message,) = {f.message for f in failures}
        assert message.startswith("the backend at https://backend.example gave no lease: POST /x")
        assert message.endswith("answered 401: bad key")
        assert "SYNTH_API_KEY" in failures[0].hint
        assert await lease.release(5) is None
        assert world.backend_client.methods == ["POST"]

    run(main())


def test_what_must_come_first_fails() -> None:
    async def main() -> None:
        world = World()
        started = asyncio.get_running_loop().create_future()
        lease = world.lease(started)
        await asyncio.sleep(0)
        assert world.backend_client.asked == []

        started.set_exception(TunnelConnectionError("no route"))

        assert "no route" in (await failure_of(lease)).message
        assert world.backend_client.asked == []

    run(main())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"public_url": None}, "public_url"),
        ({"agent_connect": {"url": "wss://x"}}, "agent_token"),
        ({"expires_at": "tomorrow"}, "tomorrow"),
        ({"lease_id": ""}, "without an id"),
    ],
)
def test_an_answer_that_is_no_lease(change: dict[str, Any], part: str) -> None:
    async def main() -> None:
        world = World(POST=[MADE | change])
        lease = world.lease()

        failure = await failure_of(lease)
        await lease.release(5)

        assert failure.code == "TUNNEL_INTERNAL"
        assert part in failure.message
        assert "wt_1" not in failure.message
        # If it has an id, it is given back all the same.
        assert world.backend_client.methods == ["POST"] + ["DELETE"] * bool(
            (MADE | change)["lease_id"]
        )

    run(main())


def test_a_relay_that_refuses_the_agent() -> None:
    async def main() -> None:
        world = World()
        world.backend_client.take = lambda change, refuse: refuse("it does not know the lease")
        lease = world.lease()

        failure = await failure_of(lease)

        assert failure.code == "TUNNEL_AGENT_OFFLINE"
        assert failure.message.endswith("it does not know the lease")
        assert await lease.release(5) is None
        assert world.backend_client.methods == ["POST", "DELETE"]

    run(main())


def test_a_relay_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pytest_synth_tunnels.keeper.transports.synthtunnel._ATTACH_TIMEOUT_S", 0.05
    )

    async def main() -> None:
        world = World()
        world.backend_client.take = lambda change, refuse: change(False, "connection refused")
        lease = world.lease()

        assert (await failure_of(lease)).message.endswith("connection refused")
        await lease.release(5)

    run(main())


def test_released_while_the_create_is_under_way() -> None:
    async def main() -> None:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        world = World(POST=[answer])
        lease = world.lease()
        await asyncio.sleep(0)
        releasing = asyncio.create_task(lease.release(5))
        await asyncio.sleep(0.01)
        assert world.backend_client.methods == ["POST"]

        answer.set_result(MADE)

        assert await releasing is None
        assert world.backend_client.methods == ["POST", "DELETE"]
        assert world.ledger_recorder.lines == []
        assert (await failure_of(lease)).code in ("LEASE_GIVEN_UP", "LEASE_OVER")

    run(main())


def test_a_create_that_never_ends_does_not_hold_up_the_release() -> None:
    async def main() -> None:
        world = World(POST=[asyncio.get_running_loop().create_future()])
        lease = world.lease()
        await asyncio.sleep(0)

        assert await lease.release(0.05) is None
        assert (await failure_of(lease)).code == "LEASE_GIVEN_UP"

    run(main())


def test_only_a_refusal_speaks_for_other_leases() -> None:
    async def main() -> None:
        refusal = TunnelConnectionError("refused")
        never = asyncio.get_running_loop().create_future()
        world = World(POST=[refusal, MADE, never])
        refused, made, given_up = (world.lease() for _ in range(3))
        await asyncio.sleep(0)
        await given_up.release(0.01)

        assert await refused.refusal() is not None
        assert await made.refusal() is None
        assert await given_up.refusal() is None
        await made.release(5)

    run(main())


def test_a_release_is_tried_again_until_it_succeeds() -> None:
    async def main() -> None:
        error = TunnelConnectionError("refused")
        gone = from_status(404, {}, where="DELETE")
        world = World(DELETE=[error, gone])
        lease = world.lease()
        await lease.ready()

        assert await lease.release(5) is None
        assert world.backend_client.methods == ["POST", "DELETE", "DELETE"]
        assert world.ledger_recorder.lines == []

    run(main())


def test_a_release_that_fails_says_why_and_stays_in_the_ledger() -> None:
    async def main() -> None:
        world = World(DELETE=[TunnelConnectionError("connection refused")] * 9)
        lease = world.lease()
        await lease.ready()

        assert await lease.release(0.3) == "connection refused"
        assert lease.state is LeaseState.ACTIVE
        assert world.ledger_recorder.lines == ["lease_1"]

    run(main())


def test_what_happens_is_told_and_loss_once() -> None:
    async def main() -> None:
        world = World()
        lease = world.lease()
        await lease.ready()

        lease._take_notice(Notice(NoticeKind.EXPIRING, "it ends in 600 s"))
        lease._take_notice(Notice(NoticeKind.OFFLINE, "no connection for 60 s"))
        world.backend_client.told["on_refused"]("the relay forgot it")
        lease._take_notice(Notice(NoticeKind.LOST, "again"))
        lease._take_notice(Notice(NoticeKind.OFFLINE, "late"))

        assert world.told == [
            ("expiring", "lease lease_1: it ends in 600 s"),
            ("offline", "lease lease_1: no connection for 60 s"),
            ("lost", "lease lease_1 is lost: the relay forgot it"),
        ]
        assert "the relay forgot it" in (await failure_of(lease)).message
        assert await lease.release(5) is None

    run(main())


def test_the_end_of_its_time() -> None:
    async def main() -> None:
        world = World()
        lease = world.lease()
        await lease.ready()

        lease._take_notice(Notice(NoticeKind.EXPIRED, "its 3600 s are over"))

        assert lease.state is LeaseState.EXPIRED
        assert world.told == [("lost", "lease lease_1 has expired: its 3600 s are over")]
        await lease.release(5)

    run(main())


@pytest.mark.parametrize(
    ("answer", "alive", "attached"),
    [
        ({"status": "ACTIVE", "connected": True}, True, True),
        ({"status": "PENDING"}, True, True),
        ({"status": "ACTIVE", "connected": False}, True, False),
        ({"status": "EXPIRED"}, False, True),
        (from_status(404, {"detail": "no such lease"}, where="GET"), False, True),
        (from_status(410, {}, where="GET"), False, True),
    ],
)
def test_what_a_beat_finds(answer: Any, alive: bool, attached: bool) -> None:
    async def main() -> None:
        world = World()
        lease = world.lease()
        await lease.ready()

        def call(request: Request) -> Any:
            assert str(request) == "GET /api/v1/synthtunnel/leases/lease_1"
            if isinstance(answer, Exception):
                raise answer
            return answer

        world.backend_client.call_from_thread = call  # type: ignore[method-assign]
        beat = lease.transport.beat()
        assert (beat.alive, beat.attached) == (alive, attached)
        assert bool(beat.reason) is not alive
        await lease.release(5)

    run(main())


def test_a_beat_without_an_answer_is_no_loss() -> None:
    async def main() -> None:
        world = World()
        lease = world.lease()
        await lease.ready()

        def call(request: Request) -> Any:
            raise from_status(503, {}, where="GET")

        world.backend_client.call_from_thread = call  # type: ignore[method-assign]
        with pytest.raises(Exception, match="503"):
            lease.transport.beat()
        await lease.release(5)

    run(main())


def test_tokens_are_rotated_and_left_out_where_none_is_needed() -> None:
    async def main() -> None:
        world = World(POST=[MADE, MADE, {"worker_token": "wt_2"}, {"worker_token": "wt_3"}])
        closed, public = world.lease(), world.lease(require_token=False)
        await closed.ready()
        await public.ready()
        assert world.backend_client.asked[1].body is not None
        assert world.backend_client.asked[1].body["metadata"] == {"a": 1, "require_token": False}
        assert public.transport.worker_token is None

        await closed.transport.refresh_token()
        await public.transport.refresh_token()

        assert closed.transport.worker_token == "wt_2"
        assert public.transport.worker_token is None
        world.backend_client.answers["DELETE"] = [{}, {}]
        await asyncio.gather(closed.release(5), public.release(5))

    run(main())


def test_targets_come_and_go() -> None:
    async def main() -> None:
        world = World()
        lease = world.lease()
        await lease.ready()
        with pytest.raises(KeeperRequestError, match="no target for 'gw1'"):
            lease.info("gw1")

        lease.targets.set_target("gw1", Target("127.0.0.1", 9001))
        assert lease.info("gw1").local_port == 9001
        lease.targets.remove_target("gw1")
        lease.targets.remove_target("gw1")

        with pytest.raises(KeeperRequestError, match="gw1"):
            lease.info("gw1")
        await lease.release(5)

    run(main())
