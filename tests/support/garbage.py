"""What spoils bytes, frames and messages, and a tunnel whose doors it is brought to."""

import asyncio
import json
import re
import struct
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame as WireFrame
from websockets.protocol import Protocol, Side, State

from pytest_synth_tunnels.backend.server import AGENT_PATH
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.wire.codec import decode, encode
from pytest_synth_tunnels.wire.frames import (
    AgentCapabilities,
    Attach,
    AttachLease,
    Cancel,
    Frame,
    FrameError,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
    WsClose,
    WsFrame,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
    in_pieces,
)
from pytest_synth_tunnels.wire.link import memory_links

from .examples import examples
from .live_tunnels import Lease, Tunnels
from .manual_loop import Wire


def case_count(in_ci: int) -> settings:
    """Return the settings of a test with so many cases in CI."""
    health_checks = list(HealthCheck)
    return settings(
        deadline=None, max_examples=examples(in_ci), suppress_health_check=health_checks
    )


# --- callers' bytes

REQUESTS = [
    b"GET /s/rt_1/x?y=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    b"POST /s/rt_1/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"POST /s/rt_1/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"GET http://b.test:80/s/rt_1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"BREW /s/rt_2/ HTTP/1.1\r\nHost: a\r\nX-SynthTunnel-Worker-Token: wt\r\n\r\n",
]
PIECES = [
    *(b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"\0", b"\x01", b"\x0b", b"\x7f", b"\x85"),
    *(
        b"#",
        b"?",
        b"/",
        b"..",
        b"%2f",
        b"@",
        b"\\",
        b"_",
        b'<>`{|}"^',
        b";",
        b"0",
        b"5",
        b"+",
        b"-",
    ),
    *(b"HTTP/1.1", b"chunked", b"identity", b"X-Y: a\r\n b\r\n", b"Host: b\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n"),
    b"Proxy-Connection: close\r\n",
]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A request with something wrong in it, or not."""
    data = draw(st.sampled_from(REQUESTS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from(PIECES) | st.binary(min_size=1, max_size=2))
        data = data[:at] + piece + data[at + draw(st.sampled_from([0, 0, 1, len(piece)])) :]
    return data


class EchoAgent:
    """Answers at once, with the path; the answer of ``/slow`` is kept back."""

    def __init__(self, relay: Relay) -> None:
        inner, self.link = memory_links()
        inner.handler = relay.session(inner, "at_1")
        self.link.handler = self
        self.paths: dict[str, str] = {}
        self.link.send(
            Attach([AttachLease("l1")], capabilities=AgentCapabilities(flow_control=True))
        )

    def frame_received(self, frame: Frame) -> None:
        for piece in in_pieces(frame):
            self._take(piece)

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, ReqHeaders):
            self.paths[frame.rid] = frame.path
        elif isinstance(frame, ReqEnd) and self.paths[frame.rid] != "/slow":
            self.answer(frame.rid)

    def answer(self, rid: str) -> None:
        body = self.paths.pop(rid).encode()
        self.link.send(RespHeaders(rid, 200, [("Content-Length", str(len(body)))]))
        self.link.send(RespBody(rid, body))
        self.link.send(RespEnd(rid))

    def frame_failed(self, error: FrameError) -> None:
        raise AssertionError(error)

    def link_lost(self, reason: str) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n(?:[!-9;-~]+: [^\r\n]*\r\n)*\r\n")


def answers(data: bytes) -> list[int]:
    """Return the statuses of whole answers, of which ``data`` must consist."""
    found = []
    while data:
        head = _HEAD.match(data)
        assert head is not None, data
        found.append(int(head[1]))
        length = re.search(rb"Content-Length: (\d+)\r\n", head[0])
        assert (length is None) is (found[-1] == 100), data
        data = data[head.end() :]
        size = int(length[1]) if length else 0
        assert len(data) >= size
        data = data[size:]
    return found


# --- an agent's WebSocket, as bytes


async def echo(peer: ServerConnection) -> None:
    with suppress(ConnectionClosed):
        async for message in peer:
            await peer.send(message)


class Door:
    """A backend with two leases: one for the garbage, and one that is not to notice."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._runner.get_loop().set_exception_handler(self._failed)
        self.failures: list[dict[str, Any]] = []
        self.tunnels = Tunnels()
        self.run(self._begin())

    async def _begin(self) -> None:
        await self.tunnels.__aenter__()
        self.app, self.other = await self.tunnels.serving("app", websocket=True)
        self.lease = self.tunnels.lease(self.app.port)
        self.sockets: dict[bool, Lease] = {}
        """Leases of an app that says on a WebSocket what it is told, by kind of link."""
        self._echo = await serve(echo, "127.0.0.1", 0, max_size=None)
        (sock,) = self._echo.sockets
        for websocket in (False, True):
            lease = self.tunnels.lease(1, metadata={"require_token": False})
            await self.tunnels.attach(lease, {"": sock.getsockname()[1]}, websocket=websocket)
            self.sockets[websocket] = lease

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(20):
                return await coroutine

        return self._runner.run(limited())

    def close(self) -> None:
        self._echo.close()
        self.run(self.tunnels.__aexit__())
        self._runner.close()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(context)

    async def check(self) -> None:
        """See that the other lease works, and that nothing went unhandled."""
        answer = await self.tunnels.send(self.other.get("/well", close=True))
        assert answer.endswith(b"app /well"), answer
        self.check_failures()

    def check_failures(self) -> None:
        failures, self.failures = self.failures, []
        assert failures == []


AGENT_FRAMES: list[Frame] = [
    Attach([AttachLease("l1")], capabilities=AgentCapabilities(flow_control=True)),
    RespHeaders("r1", 200, [("Content-Length", "2")], "l1"),
    RespHeaders("r1", 200, [("Content-Length", "2")], "l1", b"ok", end=True),
    RespBody("r1", b"ok", lease_id="l1"),
    RespEnd("r1", "l1"),
    RespError("r1", "CODE", "words", "l1"),
    Window("r1", 5, "l1"),
    WsFrame("r1", b"x", "text", True, "l1"),
    WsClose("r1", 1000, "bye", "l1"),
    ReqEnd("r1"),
]
RELAY_FRAMES: list[Frame] = [
    ReqHeaders("l1", "r1", "GET", "/x", "y=1", [("Accept", "*/*"), ("X-A", "b")], 1000),
    ReqHeaders("l1", "r2", "POST", "/x", "", [("Content-Length", "4")], 1000, b"body", end=True),
    ReqBody("r1", b"body", "l1"),
    ReqEnd("r1", "l1"),
    Cancel("r1", "l1"),
    Window("r1", 5, "l1"),
    WsOpen("w1", "/", "", [("Sec-WebSocket-Protocol", "a")], 1000, "l1"),
    WsFrame("w1", b"x", "text", True, "l1"),
    WsClose("w1", 1000, "bye", "l1"),
    RespEnd("r1"),
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(
        ["r1", "l1", "/", "/\n", "a b", "9" * 5000, "\r\nX: y", "chunked", "x" * 9000]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("Content-Length", "content-length", "Transfer-Encoding", "Host", "Connection"),
                *("Upgrade", "Expect", "X-A", "", "X A", "X:Y", "\xe9", "X_B", "Te"),
                "Content-Length\r\nX",
            ]
        ),
        st.sampled_from(
            ["0", "4", "5", "-1", "9" * 5000, "chunked", "close, host", "", "\r\n", "\xff"]
        )
        | st.text(max_size=5),
    ),
    max_size=5,
)


@st.composite
def texts(draw: st.DrawFn, frames: list[Frame]) -> bytes:
    """A frame as JSON, with fields that were changed, or no frame at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=20) | st.sampled_from([b"[" * 5000, b'{"a":' * 3000, b"{}"]))
    fields = json.loads(encode(draw(st.sampled_from(frames))))
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(fields)))
        fields[name] = draw(HEADERS if name == "headers" and draw(st.booleans()) else VALUES)
    return json.dumps(fields).encode()


@st.composite
def exchanges(draw: st.DrawFn) -> list[bytes]:
    """A whole request, with whatever method, path and headers."""
    rid = draw(st.sampled_from(["r1", "r2", "r3"]))
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "BREW", "G T"]))
    path = draw(
        st.sampled_from(["/", "/x", "//x", "/~a/b", "*", "/\x85", "/a\tb", "http://a/", "/%"])
    )
    frames: list[Frame] = [
        ReqHeaders(
            "l1", rid, method, path, draw(st.sampled_from(["", "a=b", "\n", " "])), [], 1000
        ),
        *(ReqBody(rid, chunk, "l1") for chunk in draw(st.lists(st.binary(max_size=9), max_size=2))),
        ReqEnd(rid, "l1"),
    ]
    fields = json.loads(encode(frames[0])) | {"headers": draw(HEADERS)}
    return [json.dumps(fields).encode(), *map(encode, frames[1:])]


@dataclass
class Spoilt:
    """A WebSocket frame, well-formed or not, and as long as it says."""

    payload: bytes
    first: int
    """Its first byte."""
    size: int
    """Of the field that tells its length, at the least."""
    masked: bool

    def serialize(self, names: dict[str, str] | None = None) -> bytes:
        """Return it as bytes, with other names for requests and leases."""
        payload = renamed(self.payload, names or {})
        length = len(payload)
        bit = 0x80 if self.masked else 0
        if self.size == 8 or length > 65_535:
            head = struct.pack("!BBQ", self.first, bit | 127, length)
        elif self.size == 2 or length > 125:
            head = struct.pack("!BBH", self.first, bit | 126, length)
        else:
            head = bytes([self.first, bit | length])
        if not self.masked:
            return head + payload
        return head + b"mask" + bytes(byte ^ b"mask"[at % 4] for at, byte in enumerate(payload))


def renamed(text: bytes, names: dict[str, str]) -> bytes:
    """Return a frame's text with other names for requests and leases."""
    for name, other in names.items():
        text = text.replace(f'"{name}"'.encode(), f'"{other}"'.encode())
    return text


@st.composite
def wire_frames(draw: st.DrawFn) -> Spoilt:
    """A WebSocket frame that is not quite one, or is."""
    first = draw(st.sampled_from([0x81] * 6 + [0x01, 0x80, 0x00, 0x82, 0x88, 0x89, 0x8A]))
    if draw(st.integers(0, 9)) == 0:
        first = draw(st.integers(0, 255))
    return Spoilt(
        payload=draw(texts(AGENT_FRAMES) | st.binary(max_size=130)),
        first=first,
        size=draw(st.sampled_from([0, 0, 0, 2, 8])),
        masked=draw(st.integers(0, 9)) > 0,
    )


HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PING = b"are you there?"


async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a ping, and read whole frames until it is answered or the connection is closed."""
    writer.write(WireFrame(9, PING).serialize(mask=True))
    peer = Protocol(Side.CLIENT, state=State.OPEN, max_size=1 << 20)
    while received := await reader.read(65_536):
        peer.receive_data(received)
        # A message that the app does not finish has no end for its caller either.
        assert peer.parser_exc is None or "incomplete" in str(peer.parser_exc)
        for event in peer.events_received():
            if isinstance(event, WireFrame) and (event.opcode, event.data) == (10, PING):
                return
        if peer.close_rcvd is not None or peer.parser_exc is not None:
            return


async def live_request(
    reader: asyncio.StreamReader, door: Door, asked: "asyncio.Task[bytes]"
) -> str:
    """Return the name of the request that comes on an agent's connection."""
    agent = Protocol(Side.CLIENT, state=State.OPEN)
    while True:
        agent.receive_data(await reader.read(65_536))
        for event in agent.events_received():
            assert isinstance(event, WireFrame)
            frame = decode(bytes(event.data)) if event.opcode == 1 else None
            if isinstance(frame, ReqHeaders):
                return frame.rid
        assert not asked.done()


async def talk(door: Door, attach: bool, frames: list[Spoilt], cut: int) -> None:
    """Send frames on an agent's connection, about a request that it has.

    The agent answers a ping behind them, or says why not; the caller gets an answer in any case.
    """
    lease: Lease = door.lease
    reader, writer = await asyncio.open_connection("127.0.0.1", door.tunnels.port)
    asked: asyncio.Task[bytes] | None = None
    try:
        writer.write(HANDSHAKE.format(AGENT_PATH, lease.agent_token).encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        names = {"l1": lease.id}
        if attach:
            text = encode(Attach([AttachLease(lease.id)]))
            writer.write(WireFrame(1, text).serialize(mask=True))
            # Not a GET, which would wait for another agent.
            request = lease.get("/x", close=True).replace(b"GET", b"POST", 1)
            asked = asyncio.create_task(door.tunnels.send(request))
            names["r1"] = await live_request(reader, door, asked)
        data = b"".join(frame.serialize(names) for frame in frames)
        ends = cut == 0 or cut >= len(data)
        writer.write(data if ends else data[:-cut])
        if ends:
            await pong(reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()
    if asked is not None:
        check_answer("POST", await asked)


def check_answer(method: str, data: bytes) -> None:
    """See that what a caller got is an answer, or the beginning of one."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    http.send(h11.EndOfMessage())
    http.receive_data(data)
    events = []
    while (event := http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        events.append(event)
        if isinstance(event, h11.EndOfMessage):
            assert http.trailing_data[0] == b""
            break
    assert events, "no answer at all"
    answer = events[0]
    assert isinstance(answer, h11.Response), events
    names = {name for name, _ in answer.headers}
    assert names & {b"content-length", b"transfer-encoding"} or answer.status_code in (204, 304)


# --- an agent's frames about what it has

LIVE = ("r-get", "r-post", "r-opening", "r-open")
"""Stand for the names of what is under way."""


@st.composite
def live_frames(draw: st.DrawFn) -> bytes:
    """A frame about something that is under way, with other fields that were changed, or not."""
    rid = draw(st.sampled_from(LIVE))
    answers: list[Frame] = [
        RespHeaders(rid, 200, [("Content-Length", "2")], "l1"),
        RespHeaders(rid, 200, [], "l1"),
        RespHeaders(rid, 200, [("Content-Length", "2")], "l1", b"ok", end=True),
        RespBody(rid, b"ok", lease_id="l1"),
        RespBody(rid, b"x" * 60_000, lease_id="l1"),
        RespEnd(rid, "l1"),
        RespError(rid, "CODE", "words", "l1"),
        Window(rid, 1 << 40, "l1"),
    ]
    messages: list[Frame] = [
        WsOpenAck(rid, [("Sec-WebSocket-Protocol", "x")], "l1"),
        WsOpenReject(rid, 403, [("X-A", "b")], b"no", "l1"),
        WsFrame(rid, b"x", "text", True, "l1"),
        WsFrame(rid, b"x" * 60_000, "binary", False, "l1"),
        WsClose(rid, 1000, "bye", "l1"),
        Window(rid, 5, "l1"),
    ]
    fitting, others = (messages, answers) if "open" in rid else (answers, messages)
    frame = draw(st.sampled_from(fitting * 5 + others))
    fields = json.loads(encode(frame))
    if "headers" in fields and draw(st.booleans()):
        fields["headers"] = draw(HEADERS)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(fields)))
        if name != "rid" or draw(st.integers(0, 5)) == 0:
            fields[name] = draw(VALUES)
    return json.dumps(fields).encode()


class SpoiltAgent:
    """Keeps what it is asked, and says what it is told to."""

    def __init__(self, relay: Relay, capabilities: AgentCapabilities) -> None:
        inner, self.link = memory_links()
        self.session = inner.handler = relay.session(inner, "at_1")
        self.link.handler = self
        self.rids: list[str] = []
        self.link.send(Attach([AttachLease("l1")], capabilities=capabilities))

    def say(self, text: bytes) -> None:
        """Do as a link does with what comes on it."""
        try:
            frame = decode(text)
        except FrameError as error:
            self.session.frame_failed(error)
        else:
            if frame is not None:
                self.session.frame_received(frame)

    def frame_received(self, frame: Frame) -> None:
        if isinstance(frame, ReqHeaders | WsOpen):
            self.rids.append(frame.rid)

    def frame_failed(self, error: FrameError) -> None:
        raise AssertionError(error)

    def link_lost(self, reason: str) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Upgraded(Wire):
    """A transport that is handed over."""

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0


UPGRADE = (
    b"GET /s/rt_1/w HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def check_websocket(data: bytes) -> None:
    """See that a caller got an answer, and WebSocket behind it if it was a 101."""
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        check_answer("GET", data)
        return
    peer = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    peer.receive_data(rest)
    assert peer.parser_exc is None or "incomplete" in str(peer.parser_exc)


# --- callers' and apps' WebSockets, as bytes


async def converse(door: Door, lease: Lease, data: bytes, ends: bool) -> None:
    """Send bytes on a caller's WebSocket, and leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.tunnels.port)
    try:
        writer.write(HANDSHAKE.format(lease.prefix, "x").encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(data)
        if ends:
            await pong(reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n{}\r\n"
)
ANSWERS = st.sampled_from([SWITCHING] * 6) | st.sampled_from(
    [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n" + SWITCHING,
        "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nno",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 426 No\r\nUpgrade: x\r\nConnection: upgrade, X-A\r\nX-A: b\r\n\r\n",
        "SSH-2.0\r\n\r\n",
        "",
    ]
)
LINES = st.sampled_from(
    ["", "", "Sec-WebSocket-Protocol: x\r\n", "Sec-WebSocket-Extensions: y\r\n"]
)


class Listener:
    """Waits for the end of one request."""

    def __init__(self, rid: str, ended: asyncio.Event) -> None:
        self.rid = rid
        self.ended = ended

    def frame_received(self, frame: Frame) -> None:
        assert decode(encode(frame)) == frame
        ends = isinstance(frame, RespEnd) or (isinstance(frame, RespHeaders) and frame.end)
        if ends and frame.rid == self.rid:
            self.ended.set()

    def frame_failed(self, error: FrameError) -> None:
        raise AssertionError(error)

    def link_lost(self, reason: str) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
