"""SynthTunnel leases: what the backend answers, the agent's attachment, and tokens."""

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.backend_client import EmbeddedBackendClient
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.leases.lease import HeldLease
from pytest_synth_tunnels.keeper.leases.spec import LeaseSpec
from pytest_synth_tunnels.keeper.transports.synthtunnel import SynthTunnelTransport
from pytest_synth_tunnels.sdk.errors import from_status
from pytest_synth_tunnels.sdk.requests import Request

from ...support.synth_leases import MADE, SynthLeases, failure_of, run


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
        leases = SynthLeases(POST=[MADE | change])
        lease = leases.open()

        failure = await failure_of(lease)
        await lease.release(5)

        assert failure.code == "TUNNEL_INTERNAL"
        assert part in failure.message
        assert "wt_1" not in failure.message
        # If it has an id, it is given back all the same.
        assert leases.backend_client.methods == ["POST"] + ["DELETE"] * bool(
            (MADE | change)["lease_id"]
        )

    run(main())


def test_a_relay_that_refuses_the_agent() -> None:
    async def main() -> None:
        leases = SynthLeases()
        leases.backend_client.take = lambda change, refuse: refuse("it does not know the lease")
        lease = leases.open()

        failure = await failure_of(lease)

        assert failure.code == "TUNNEL_AGENT_OFFLINE"
        assert failure.message.endswith("it does not know the lease")
        assert await lease.release(5) is None
        assert leases.backend_client.methods == ["POST", "DELETE"]

    run(main())


def test_a_relay_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pytest_synth_tunnels.keeper.transports.synthtunnel._ATTACH_TIMEOUT_S", 0.05
    )

    async def main() -> None:
        leases = SynthLeases()
        leases.backend_client.take = lambda change, refuse: change(False, "connection refused")
        lease = leases.open()

        assert (await failure_of(lease)).message.endswith("connection refused")
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
        leases = SynthLeases()
        lease = leases.open()
        await lease.ready()

        def call(request: Request) -> Any:
            assert str(request) == "GET /api/v1/synthtunnel/leases/lease_1"
            if isinstance(answer, Exception):
                raise answer
            return answer

        leases.backend_client.call_from_thread = call  # type: ignore[method-assign]
        beat = lease.transport.beat()
        assert (beat.alive, beat.attached) == (alive, attached)
        assert bool(beat.reason) is not alive
        await lease.release(5)

    run(main())


def test_a_beat_without_an_answer_is_no_loss() -> None:
    async def main() -> None:
        leases = SynthLeases()
        lease = leases.open()
        await lease.ready()

        def call(request: Request) -> Any:
            raise from_status(503, {}, where="GET")

        leases.backend_client.call_from_thread = call  # type: ignore[method-assign]
        with pytest.raises(Exception, match="503"):
            lease.transport.beat()
        await lease.release(5)

    run(main())


def test_tokens_are_rotated_and_left_out_where_none_is_needed() -> None:
    async def main() -> None:
        leases = SynthLeases(POST=[MADE, MADE, {"worker_token": "wt_2"}, {"worker_token": "wt_3"}])
        closed, public = leases.open(), leases.open(require_token=False)
        await closed.ready()
        await public.ready()
        assert leases.backend_client.asked[1].body is not None
        assert leases.backend_client.asked[1].body["metadata"] == {"a": 1, "require_token": False}
        assert public.transport.worker_token is None

        await closed.transport.refresh_token()
        await public.transport.refresh_token()

        assert closed.transport.worker_token == "wt_2"
        assert public.transport.worker_token is None
        leases.backend_client.answers["DELETE"] = [{}, {}]
        await asyncio.gather(closed.release(5), public.release(5))

    run(main())


def test_addresses_below_a_path() -> None:
    async def main() -> None:
        leases = SynthLeases()
        lease = leases.open()
        target = Target("127.0.0.1", 8000)
        url = await lease.open_address("t1", target, permanent=False)
        assert url == lease.url("t1") == "https://relay.example/s/rt_1/~t1"
        assert lease.targets.target("t1") == target
        lease.end_address("t1", "its test is over")
        assert lease.url("t1") == url
        with pytest.raises(KeeperRequestError, match="no target"):
            lease.targets.target("t1")
        await lease.release(5)

    run(main())


def test_addresses_with_origins_of_their_own() -> None:
    async def main() -> None:
        backend_client = EmbeddedBackendClient(5)
        spec = LeaseSpec(port=8000, ttl_s=3600, metadata={}, url_style="root")
        lease = HeldLease(
            SynthTunnelTransport(backend_client, None, spec, Agent(patience_s=0)),
            started=asyncio.ensure_future(backend_client.start()),
            on_event=lambda *_: None,
        )
        target = Target("127.0.0.1", 8000)
        urls = [await lease.open_address(name, target, permanent=False) for name in ("", "t1")]
        assert urls == [lease.url(""), lease.url("t1")]
        assert [urlsplit(url).path for url in urls] == ["", ""]
        assert len({*urls, backend_client.url}) == 3
        assert await lease.open_address("t1", target) == urls[1]
        assert lease.transport.public_url == urls[0]

        lease.end_address("t1", "its test is over")
        assert await lease.open_address("t1", target) not in urls
        await lease.release(5)
        await backend_client.close()

    run(main())


@pytest.mark.parametrize("require_token", [True, False])
def test_origins_that_others_than_this_machine_reach(require_token: bool) -> None:
    clock_s = 100.0

    async def main() -> None:
        nonlocal clock_s
        backend_client = EmbeddedBackendClient(5, bind="0.0.0.0", public_host="host.test")
        spec = LeaseSpec(
            port=8000, ttl_s=3600, metadata={}, url_style="root", require_token=require_token
        )
        agent = Agent(patience_s=0)
        transport = SynthTunnelTransport(backend_client, None, spec, agent, now=lambda: clock_s)
        lease = HeldLease(
            transport,
            started=asyncio.ensure_future(backend_client.start()),
            on_event=lambda *_: None,
        )
        assert transport.url_secret == ""
        target = Target("127.0.0.1", 8000)
        url = await lease.open_address("", target)
        info = lease.info("")
        port = urlsplit(url).port
        path = "" if require_token else transport.url_secret
        assert url == info.public_url == f"http://host.test:{port}{path}"
        assert info.loopback_url == f"http://127.0.0.1:{port}{path}"
        assert bool(info.url_secret) is not require_token
        await lease.open_address("t1", target, permanent=False)
        clock_s += 12.4
        await lease.release(5)
        (line,) = transport.exposure()
        key = "the worker token" if require_token else "the path of its URL"
        assert line == (
            f"0.0.0.0:{port} (and 1 more there) was open beyond this machine for 12 s, "
            f"to callers with {key}"
        )
        await backend_client.close()

    run(main())


def test_only_the_lease_itself_has_the_port_that_was_chosen() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        backend_client = EmbeddedBackendClient(5)
        spec = LeaseSpec(port=8000, ttl_s=3600, metadata={}, url_style="root", public_port=port)
        lease = HeldLease(
            SynthTunnelTransport(backend_client, None, spec, Agent(patience_s=0)),
            started=asyncio.ensure_future(backend_client.start()),
            on_event=lambda *_: None,
        )
        target = Target("127.0.0.1", 8000)
        assert await lease.open_address("", target) == f"http://127.0.0.1:{port}"
        assert urlsplit(await lease.open_address("t1", target, permanent=False)).port != port
        assert lease.transport.exposure() == []
        await lease.release(5)
        await backend_client.close()

    run(main())


def test_an_origin_that_cannot_be_had() -> None:
    async def main() -> None:
        backend_client = EmbeddedBackendClient(5)
        spec = LeaseSpec(port=8000, ttl_s=3600, metadata={}, url_style="root")
        lease = HeldLease(
            SynthTunnelTransport(backend_client, None, spec, Agent(patience_s=0)),
            started=asyncio.ensure_future(backend_client.start()),
            on_event=lambda *_: None,
        )
        await lease.ready()
        backend_client._started._running.origins._max_origins = 1
        with pytest.raises(KeeperRequestError, match="close some leases"):
            await lease.open_address("t1", Target("127.0.0.1", 8000))
        await lease.release(5)
        await backend_client.close()

    run(main())
