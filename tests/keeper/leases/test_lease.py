"""One lease from its opening to its release, against a backend that does what the test says."""

import asyncio
from typing import Any

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.heartbeat import Notice, NoticeKind
from pytest_synth_tunnels.keeper.leases.state import LeaseState
from pytest_synth_tunnels.sdk.errors import TunnelConnectionError, from_status

from ...support.synth_leases import MADE, SynthLeases, failure_of, run


def test_made_served_and_given_back() -> None:
    async def main() -> None:
        leases = SynthLeases()
        lease = leases.open()
        lease.targets.set_target("gw1", Target("127.0.0.1", 9001))
        await lease.ready()

        assert lease.state is LeaseState.ACTIVE
        assert leases.backend_client.asked[0].body == {
            "client_instance_id": "client-00000000",
            "local_target": {"host": "127.0.0.1", "port": 8000},
            "requested_ttl_seconds": 3600,
            "metadata": {"a": 1},
            "capabilities": {"max_inflight": 1024},
        }
        assert leases.backend_client.attached == ["lease_1", "wss://relay.example", "at_1"]
        info = lease.info("gw1")
        assert info.public_url == "https://relay.example/s/rt_1/~gw1"
        assert (info.local_port, info.worker_token) == (9001, "wt_1")
        assert info.backend == "https://backend.example"
        assert leases.ledger_recorder.log == ["+lease_1 synthtunnel 3600"]

        assert await lease.release(5) is None
        assert await lease.release(5) is None
        assert lease.state is LeaseState.RELEASED
        assert leases.backend_client.methods == ["POST", "DELETE"]
        assert leases.backend_client.attached[-1] == "closed"
        assert leases.ledger_recorder.lines == []
        assert (await failure_of(lease)).code == "LEASE_OVER"

    run(main())


def test_a_refusal_is_the_same_for_all_and_asked_once() -> None:
    async def main() -> None:
        refusal = from_status(401, {"detail": "bad key"}, where="POST /x at https://b")
        leases = SynthLeases(POST=[refusal])
        lease = leases.open()

        failures = await asyncio.gather(*(failure_of(lease) for _ in range(8)))

        assert {f.code for f in failures} == {"TUNNEL_AUTH_INVALID"}
        (message,) = {f.message for f in failures}
        assert message.startswith("the backend at https://backend.example gave no lease: POST /x")
        assert message.endswith("answered 401: bad key")
        assert "SYNTH_API_KEY" in failures[0].hint
        assert await lease.release(5) is None
        assert leases.backend_client.methods == ["POST"]

    run(main())


def test_what_must_come_first_fails() -> None:
    async def main() -> None:
        leases = SynthLeases()
        started = asyncio.get_running_loop().create_future()
        lease = leases.open(started)
        await asyncio.sleep(0)
        assert leases.backend_client.asked == []

        started.set_exception(TunnelConnectionError("no route"))

        assert "no route" in (await failure_of(lease)).message
        assert leases.backend_client.asked == []

    run(main())


def test_released_while_the_create_is_in_flight() -> None:
    async def main() -> None:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        leases = SynthLeases(POST=[answer])
        lease = leases.open()
        await asyncio.sleep(0)
        releasing = asyncio.create_task(lease.release(5))
        await asyncio.sleep(0.01)
        assert leases.backend_client.methods == ["POST"]

        answer.set_result(MADE)

        assert await releasing is None
        assert leases.backend_client.methods == ["POST", "DELETE"]
        assert leases.ledger_recorder.lines == []
        assert (await failure_of(lease)).code in ("LEASE_GIVEN_UP", "LEASE_OVER")

    run(main())


def test_a_create_that_never_ends_does_not_hold_up_the_release() -> None:
    async def main() -> None:
        leases = SynthLeases(POST=[asyncio.get_running_loop().create_future()])
        lease = leases.open()
        await asyncio.sleep(0)

        assert await lease.release(0.05) is None
        assert (await failure_of(lease)).code == "LEASE_GIVEN_UP"

    run(main())


def test_only_a_refusal_speaks_for_other_leases() -> None:
    async def main() -> None:
        refusal = TunnelConnectionError("refused")
        never = asyncio.get_running_loop().create_future()
        leases = SynthLeases(POST=[refusal, MADE, never])
        refused, made, given_up = (leases.open() for _ in range(3))
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
        leases = SynthLeases(DELETE=[error, gone])
        lease = leases.open()
        await lease.ready()

        assert await lease.release(5) is None
        assert leases.backend_client.methods == ["POST", "DELETE", "DELETE"]
        assert leases.ledger_recorder.lines == []

    run(main())


def test_a_release_that_fails_says_why_and_stays_in_the_ledger() -> None:
    async def main() -> None:
        leases = SynthLeases(DELETE=[TunnelConnectionError("connection refused")] * 9)
        lease = leases.open()
        await lease.ready()

        assert await lease.release(0.3) == "connection refused"
        assert lease.state is LeaseState.ACTIVE
        assert leases.ledger_recorder.lines == ["lease_1"]

    run(main())


def test_what_happens_is_told_and_loss_once() -> None:
    async def main() -> None:
        leases = SynthLeases()
        lease = leases.open()
        await lease.ready()

        lease._take_notice(Notice(NoticeKind.EXPIRING, "it ends in 600 s"))
        lease._take_notice(Notice(NoticeKind.OFFLINE, "no connection for 60 s"))
        leases.backend_client.told["on_refused"]("the relay forgot it")
        lease._take_notice(Notice(NoticeKind.LOST, "again"))
        lease._take_notice(Notice(NoticeKind.OFFLINE, "late"))

        assert leases.told == [
            ("expiring", "lease lease_1: it ends in 600 s"),
            ("offline", "lease lease_1: no connection for 60 s"),
            ("lost", "lease lease_1 is lost: the relay forgot it"),
        ]
        assert "the relay forgot it" in (await failure_of(lease)).message
        assert await lease.release(5) is None

    run(main())


def test_the_end_of_its_time() -> None:
    async def main() -> None:
        leases = SynthLeases()
        lease = leases.open()
        await lease.ready()

        lease._take_notice(Notice(NoticeKind.EXPIRED, "its 3600 s are over"))

        assert lease.state is LeaseState.EXPIRED
        assert leases.told == [("lost", "lease lease_1 has expired: its 3600 s are over")]
        await lease.release(5)

    run(main())


def test_targets_come_and_go() -> None:
    async def main() -> None:
        leases = SynthLeases()
        lease = leases.open()
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
