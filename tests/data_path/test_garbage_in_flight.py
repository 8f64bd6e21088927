"""Generated garbage in the middle of requests and WebSockets, from whoever takes part in them."""

import asyncio
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as WireFrame
from websockets.utils import accept_key

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Route
from pytest_synth_tunnels.wire.codec import decode, encode
from pytest_synth_tunnels.wire.frames import (
    AgentCapabilities,
    FrameError,
    RelayCapabilities,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespHeaders,
    WsOpenAck,
)
from pytest_synth_tunnels.wire.link import memory_links

from ..support.garbage import (
    ANSWERS,
    HANDSHAKE,
    LINES,
    LIVE,
    RELAY_FRAMES,
    UPGRADE,
    Door,
    Listener,
    Spoilt,
    SpoiltAgent,
    Upgraded,
    case_count,
    check_answer,
    check_websocket,
    converse,
    exchanges,
    live_frames,
    pong,
    renamed,
    texts,
    wire_frames,
)
from ..support.manual_loop import ManualLoop


@case_count(150)
@given(
    frames=st.lists(live_frames(), min_size=1, max_size=8),
    capabilities=st.builds(
        AgentCapabilities,
        flow_control=st.booleans(),
        whole_messages=st.booleans(),
        exact_http=st.booleans(),
        websocket=st.just(True),
    ),
)
def test_whatever_an_agent_says_of_a_request_its_caller_gets_an_answer(
    frames: list[bytes], capabilities: AgentCapabilities
) -> None:
    loop = ManualLoop()
    relay = Relay(loop=loop, now=lambda: 0.0, idle_timeout_s=60)  # type: ignore[arg-type]
    route = Route("l1", "rt_1", "at_1", require_token=False)
    relay.add(route)
    agent = SpoiltAgent(relay, capabilities)
    server = HttpServer(Ingress(relay), loop=loop)  # type: ignore[arg-type]
    wires = [Upgraded() for _ in range(5)]
    for wire, request in zip(
        wires,
        (
            b"GET /s/rt_1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"POST /s/rt_1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n" + bytes(45_000),
            UPGRADE,
            UPGRADE,
            b"GET /s/rt_1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ),
        strict=True,
    ):
        wire.set_protocol(server())
        wire.protocol.connection_made(wire)
        wire.protocol.data_received(request)
    agent.say(encode(WsOpenAck(agent.rids[3], [], "l1")))
    wires[3].protocol.data_received(WireFrame(1, b"hello").serialize(mask=True))
    loop.tick()

    names = dict(zip(LIVE, agent.rids, strict=False))
    for text in frames:
        agent.say(renamed(text, names))
        loop.tick()

    # Who had nothing to do with it is answered.
    agent.say(encode(RespHeaders(agent.rids[4], 200, [("Content-Length", "2")], "l1")))
    agent.say(encode(RespBody(agent.rids[4], b"ok", lease_id="l1")))
    agent.say(encode(RespEnd(agent.rids[4], "l1")))
    loop.tick()
    assert wires[4].written.startswith(b"HTTP/1.1 200 ")
    assert wires[4].written.endswith(b"\r\n\r\nok")
    # The others are at the latest once their time is over.
    loop.advance(200)
    assert route.inflight == 0
    check_answer("GET", wires[0].written)
    check_answer("POST", wires[1].written)
    check_websocket(wires[2].written)
    check_websocket(wires[3].written)
    for wire in wires:
        wire.protocol.connection_lost(None)
    loop.advance(200)
    assert route.inflight == route.websockets == 0
    assert not agent.session.requests
    assert not agent.session.websockets
    assert len(relay.deadlines) == len(server.deadlines) == 0


@case_count(40)
@given(over=st.booleans(), frames=st.lists(wire_frames(), max_size=8), cut=st.integers(0, 30))
def test_whatever_a_caller_sends_ends_its_own_websocket_at_the_worst(
    door: Door, over: bool, frames: list[Spoilt], cut: int
) -> None:
    data = b"".join(frame.serialize() for frame in frames)
    ends = cut == 0 or cut >= len(data)
    lease = door.sockets[over]
    door.run(converse(door, lease, data if ends else data[:-cut], ends))
    door.run(door.check())


@case_count(40)
@given(
    over=st.booleans(),
    answer=ANSWERS,
    line=LINES,
    frames=st.lists(
        wire_frames().map(Spoilt.serialize) | st.binary(max_size=20),
        max_size=5,
    ),
)
def test_whatever_an_app_says_to_an_upgrade_its_caller_gets_nothing_but_websocket(
    door: Door, over: bool, answer: str, line: str, frames: list[bytes]
) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
        writer.write(answer.format(accept_key(key), line).encode() + b"".join(frames))
        writer.close()

    async def scenario() -> None:
        async with door.tunnels.for_a_while() as tunnels:
            lease = tunnels.lease(1, metadata={"require_token": False})
            await tunnels.attach(lease, {"": await tunnels.listen(app)}, websocket=over)
            reader, writer = await asyncio.open_connection("127.0.0.1", tunnels.port)
            try:
                writer.write(HANDSHAKE.format(lease.prefix, "x").encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 101 "):
                    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
                    await pong(reader, writer)
                else:
                    assert head.split(b" ")[1] in (b"200", b"403", b"426", b"502")
                    await reader.read()
            finally:
                writer.close()
        await door.check()

    door.run(scenario())


# --- a relay's frames


@case_count(60)
@given(st.lists(st.lists(texts(RELAY_FRAMES), max_size=3) | exchanges(), max_size=4))
def test_whatever_a_relay_sends_the_app_gets_nothing_but_http(
    door: Door, messages: list[list[bytes]]
) -> None:
    async def scenario() -> None:
        async with door.tunnels.for_a_while() as tunnels:
            app = await tunnels.app("app")
            near, far = memory_links()
            agent = Agent(timeout_s=5)
            agent.leases.serve("l1", "http://relay.test/s/rt_1")
            agent.leases.set_target("l1", "", Target("127.0.0.1", app.port))
            answered = asyncio.Event()
            far.handler = Listener("last", answered)
            near.handler = agent
            agent.connected(near, RelayCapabilities(flow_control=True, whole_messages=True))
            for message in chain.from_iterable(messages):
                try:
                    frame = decode(message)
                except FrameError as error:
                    agent.frame_failed(error)
                else:
                    if frame is not None:
                        agent.frame_received(frame)
            for frame in (ReqHeaders("l1", "last", "GET", "/last", "", [], 5000), ReqEnd("last")):
                agent.frame_received(frame)
            await answered.wait()
            await agent.close()
            assert agent.inflight == 0
            assert app.refused == []
            assert app.seen[-1].target == "/last"

    door.run(scenario())
    door.check_failures()
