"""Dialer against relays made of the websockets library."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from pytest_synth_tunnels.agent import dialer
from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.dialer import Dialer
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.aio import suspend
from pytest_synth_tunnels.wire import websocket_link

Relay = Callable[[ServerConnection], Awaitable[None]]
ACK = json.dumps({"type": "ATTACH_ACK", "agent_id": "me", "accepted_leases": ["l1"]})


class News:
    """What a dialer told, to be waited for."""

    def __init__(self) -> None:
        self.all: list[tuple[bool, str]] = []
        self.fatal: list[str] = []
        self._changed = asyncio.Event()

    def change(self, attached: bool, reason: str) -> None:
        self.all.append((attached, reason))
        self._changed.set()

    def end(self, reason: str) -> None:
        self.fatal.append(reason)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def port_of(server: Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


@asynccontextmanager
async def dialing(port: int, news: News, **options: Any) -> AsyncIterator[Dialer]:
    agent = Agent(agent_id="me")
    agent.leases.serve("l1", "http://127.0.0.1:9/s/rt_1")
    agent.leases.set_target("l1", "", Target("127.0.0.1", 1))
    dialer = Dialer(
        agent,
        f"ws://127.0.0.1:{port}/agent",
        "at_1",
        on_change=news.change,
        on_fatal=news.end,
        backoff_s=options.pop("backoff_s", (0.001, 0.002)),
        **options,
    )
    await dialer.start()
    await dialer.start()
    try:
        yield dialer
    finally:
        await dialer.close()
        await dialer.close()
        await agent.close()


async def receive(peer: ServerConnection) -> dict[str, Any]:
    message = await peer.recv()
    assert isinstance(message, str)
    return dict(json.loads(message))


def test_it_attaches_and_serves() -> None:
    async def main() -> None:
        news = News()
        answered: asyncio.Future[list[dict[str, Any]]] = asyncio.Future()

        async def relay(peer: ServerConnection) -> None:
            assert peer.request is not None
            assert peer.request.headers["Authorization"] == "Bearer at_1"
            attach = await receive(peer)
            assert attach["type"] == "ATTACH"
            local = {"host": "127.0.0.1", "port": 1}
            assert attach["leases"] == [{"lease_id": "l1", "local_target": local}]
            # The first request may come in the same packet as the acknowledgement.
            request = {
                "type": "REQ_HEADERS",
                "lease_id": "l1",
                "rid": "1",
                "method": "GET",
                "path": "/__synth/nonce/0123456789abcdef",
                "query": "",
                "headers": [],
                "deadline_ms": 1000,
            }
            peer.transport.pause_reading()
            await peer.send(ACK)
            await peer.send(json.dumps(request))
            peer.transport.resume_reading()
            answered.set_result([await receive(peer) for _ in range(3)])
            await peer.wait_closed()

        async with (
            serve(relay, "127.0.0.1", 0) as server,
            dialing(port_of(server), news) as dialer,
        ):
            agent = dialer._agent
            head, body, end = await asyncio.wait_for(answered, 5)
            assert (head["type"], head["status"]) == ("RESP_HEADERS", 200)
            assert body["chunk_b64"] == "MDEyMzQ1Njc4OWFiY2RlZg=="
            assert (end["type"], end["rid"], end["lease_id"]) == ("RESP_END", "1", "l1")
            assert news.all == [(True, "")]
            assert agent.attached
            assert not agent.uplink.flow_control
            await dialer.close()
            assert not agent.attached
            assert news.all == [(True, "")]

    asyncio.run(main())


def test_it_comes_back_after_a_loss_with_jittered_pauses() -> None:
    async def main() -> None:
        news = News()
        draws: list[tuple[float, float]] = []
        visits = 0

        async def relay(peer: ServerConnection) -> None:
            nonlocal visits
            visits += 1
            await receive(peer)
            if visits in (2, 3):
                await peer.close(1013, "busy")
                return
            await peer.send(ACK)
            if visits == 1:
                peer.transport.abort()
            await peer.wait_closed()

        def draw(low: float, high: float) -> float:
            draws.append((low, high))
            return low

        async with (
            serve(relay, "127.0.0.1", 0) as server,
            dialing(port_of(server), news, backoff_s=(0.001, 0.004), uniform=draw),
        ):
            await news.until(lambda: len([x for x in news.all if x[0]]) == 2)
            assert draws == [(0.001, 0.002), (0.002, 0.004), (0.002, 0.004)]
            assert [attached for attached, _ in news.all] == [True, False, False, True]
            assert "connection" in news.all[1][1]
            assert "busy" in news.all[2][1]

    asyncio.run(main())


def test_a_link_that_died_in_its_sleep_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspend, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(websocket_link, "_PROBE_S", 0.02)

    async def main() -> None:
        news = News()
        visits = 0
        asleep_s = 0.0

        async def relay(peer: ServerConnection) -> None:
            nonlocal asleep_s, visits
            visits += 1
            await receive(peer)
            await peer.send(ACK)
            if visits == 1:
                peer.transport.pause_reading()
                await news.until(lambda: news.all)  # it is attached, and then it sleeps
                asleep_s = 3600
            await peer.wait_closed()

        async with (
            serve(relay, "127.0.0.1", 0, close_timeout=0.1) as server,
            dialing(port_of(server), news, now=lambda: time.monotonic() + asleep_s),
        ):
            await news.until(lambda: len(news.all) == 3)
            assert [attached for attached, _ in news.all] == [True, False, True]
            assert "no answer to a ping" in news.all[1][1]

    asyncio.run(main())


def test_waking_up_ends_the_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspend, "_LOOK_EVERY_S", 0.01)

    async def main() -> None:
        news = News()
        asleep_s = 0.0
        visits = 0

        async def relay(peer: ServerConnection) -> None:
            nonlocal visits
            visits += 1
            if visits == 1:
                await peer.close(1013, "busy")
                return
            await receive(peer)
            await peer.send(ACK)
            await peer.wait_closed()

        async with (
            serve(relay, "127.0.0.1", 0) as server,
            dialing(
                port_of(server),
                news,
                backoff_s=(60.0, 60.0),
                now=lambda: time.monotonic() + asleep_s,
            ),
        ):
            await news.until(lambda: news.all)
            asleep_s = 3600
            await news.until(lambda: len(news.all) == 2)
            assert news.all[1] == (True, "")

    asyncio.run(main())


def test_a_refused_handshake_is_tried_again_with_what_is_new() -> None:
    async def main() -> None:
        news = News()

        def check(peer: ServerConnection, request: Any) -> Any:
            if request.headers["Authorization"] != "Bearer at_2":
                return peer.respond(401, "unknown agent token")
            return None

        async def relay(peer: ServerConnection) -> None:
            await receive(peer)
            await peer.send(ACK)
            await peer.wait_closed()

        async with serve(relay, "127.0.0.1", 0, process_request=check) as server:
            port = port_of(server)
            async with dialing(port, news, backoff_s=(60.0, 60.0)) as dialer:
                await news.until(lambda: news.all)
                attached, reason = news.all[0]
                assert not attached
                assert "401 unknown agent token" in reason
                dialer.update(f"ws://127.0.0.1:{port}/agent", "at_2")
                await news.until(lambda: len(news.all) == 2)
                assert news.all[1] == (True, "")
                assert "at_1" not in repr(news.all)

    asyncio.run(main())


def test_nobody_there_is_told_once() -> None:
    async def main() -> None:
        news = News()
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        draws = []
        enough = asyncio.Event()

        def draw(low: float, high: float) -> float:
            draws.append(high)
            if len(draws) == 5:
                enough.set()
            return low

        async with dialing(port, news, uniform=draw):
            await asyncio.wait_for(enough.wait(), 5)
            ((attached, reason),) = news.all
            assert not attached
            assert "refused" in reason.lower() or "connect call failed" in reason.lower()

    asyncio.run(main())


def test_a_lease_that_is_not_accepted_is_the_end() -> None:
    async def main() -> None:
        news = News()

        async def relay(peer: ServerConnection) -> None:
            await receive(peer)
            await peer.send(ACK.replace("l1", "l2"))
            with pytest.raises(ConnectionClosed):
                await peer.recv()

        async with serve(relay, "127.0.0.1", 0) as server, dialing(port_of(server), news):
            await news.until(lambda: news.fatal)
            assert news.fatal == ["the relay does not take this agent for lease l1"]
            assert news.all == [(False, news.fatal[0])]

    asyncio.run(main())


def test_a_relay_that_never_acknowledges_is_left() -> None:
    async def main() -> None:
        news = News()
        codes = []

        async def relay(peer: ServerConnection) -> None:
            await receive(peer)
            await peer.send('{"type": "ATTACH_ACK"}')  # malformed
            await peer.send('{"type": "REQ_END", "rid": "1"}')
            with pytest.raises(ConnectionClosed) as closed:
                await peer.recv()
            assert closed.value.rcvd is not None
            codes.append(closed.value.rcvd.code)

        async with (
            serve(relay, "127.0.0.1", 0) as server,
            dialing(port_of(server), news, timeout_s=0.1),
        ):
            await news.until(lambda: news.all)
            assert news.all == [(False, "the relay sent no ATTACH_ACK within 0.1 s")]
        assert 1002 in codes

    asyncio.run(main())


def test_a_url_that_cannot_be_dialled_is_the_end() -> None:
    async def main() -> None:
        news = News()
        agent = Agent()
        dialer = Dialer(agent, "http://x/", "t", on_change=news.change, on_fatal=news.end)
        await dialer.start()
        await news.until(lambda: news.fatal)
        assert "not a WebSocket URL" in news.fatal[0]
        await dialer.close()
        await agent.close()

    asyncio.run(main())


@pytest.mark.parametrize("relay_closes", [True, False])
def test_closing_waits_for_the_connection_to_end(
    relay_closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer, "_CLOSE_TIMEOUT_S", 0.02)

    async def main() -> None:
        news = News()
        over = asyncio.Event()

        async def relay(peer: ServerConnection) -> None:
            await receive(peer)
            await peer.send(ACK)
            peer.transport.pause_reading()  # it never learns that the dialer leaves
            if relay_closes:
                peer.protocol.send_close(1001, "lease closed")
                peer.send_data()
            await over.wait()
            peer.transport.abort()

        async with (
            serve(relay, "127.0.0.1", 0) as server,
            dialing(port_of(server), news, backoff_s=(60.0, 60.0)) as dialer,
        ):
            await news.until(lambda: len(news.all) == (2 if relay_closes else 1))
            (link,) = dialer._open
            assert not link.closed.done()
            await dialer.close()
            assert link.closed.done()
            over.set()

    asyncio.run(main())
