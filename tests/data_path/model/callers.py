"""Callers. They speak through h11, which takes nothing that is not quite HTTP."""

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import h11
from websockets.protocol import Side

from .talks import NO_CODE, Talker
from .wires import CallerWire, Pipe

if TYPE_CHECKING:
    from .links import Lease
    from .world import World

UPGRADE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]
NOWHERE = "nowhere"
"""The tag of requests to a URL that no tunnel has."""


def text_of(tag: str, size: int) -> bytes:
    """Return ``size`` bytes that say whose they are."""
    word = f"{tag};".encode()
    return (word * (size // len(word) + 1))[:size]


class Asked:
    """A request that waits for its answer, and what reads that."""

    def __init__(self, request: h11.Request, tag: str, lease: "Lease | None", body: bytes) -> None:
        self.request = request
        self.tag = tag
        self.lease = lease
        self.method = request.method.decode()
        self.shown = lease.route.worker_token if lease is not None else None
        self.size = len(body)
        self.left = body
        """What is not sent of its body."""
        self.upgrades = False
        """It is for a WebSocket."""
        self.expects = False
        """It waits to be told to send the body."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self._http: h11.Connection | None = None

    @property
    def http(self) -> h11.Connection:
        """One for each request: h11 itself does not pipeline."""
        if self._http is None:
            self._http = h11.Connection(h11.CLIENT)
            self.head = self._http.send(self.request) or b""
        return self._http

    @property
    def sending(self) -> bool:
        """Whether not all of it is sent."""
        return self.http.our_state is h11.SEND_BODY


class Caller:
    """A client with one connection at a time. It waits for an answer, or pipelines requests."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.wire: CallerWire | None = None
        """``None`` while it is not connected."""
        self.asked: deque[Asked] = deque()
        """What waits for its answer, oldest first."""
        self.socket: Talker | None = None
        """Once its WebSocket is open."""
        self.stalled = False
        """It does not read."""
        self.lingers = False
        """It does not close a WebSocket's connection that has had its end."""
        self.upgrades = False
        """It has asked for a WebSocket on this connection."""
        self.tags: set[str] = set()
        """Of what tunnels were asked on this connection."""

    @property
    def busy(self) -> bool:
        return bool(self.asked) or self.socket is not None

    @property
    def may_pipeline(self) -> bool:
        """Whether the last request is sent to its end, and another may follow."""
        if self.socket is not None or not self.asked:
            return False
        last = self.asked[-1]
        return last.tag == NOWHERE or not (last.sending or last.upgrades)

    def connect(self) -> None:
        self.wire = CallerWire(self.world.server)
        self.pipe = Pipe(self.wire)
        self.stalled = False
        self.lingers = False
        self.upgrades = False
        self.tags.clear()

    def ask(
        self,
        method: str,
        size: int,
        lease: "Lease",
        *,
        chunked: bool = False,
        at_once: int = 1_000_000,
        expects: bool = False,
    ) -> None:
        """Begin a request with a body of ``size`` bytes, of which ``at_once`` are sent."""
        headers = []
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif size or method == "POST":
            headers.append(("Content-Length", str(size)))
        if expects:
            headers.append(("Expect", "100-continue"))
        asked = self._begin(method, headers, lease, size)
        asked.expects = expects
        if size > lease.route.limits.max_request_bytes:
            self.world.too_large.add(asked.tag)
        if not expects:
            self.send(at_once)

    def open(self, lease: "Lease", *, lingers: bool) -> None:
        """Ask for a WebSocket."""
        self._begin("GET", UPGRADE, lease, 0).upgrades = True
        self.lingers = lingers
        self.upgrades = True
        self.send(0)

    def ask_nowhere(self, count: int) -> None:
        """Ask so many times for what is not there."""
        if self.wire is None:
            self.connect()
        request = h11.Request(
            method="GET", target="/s/rt_none/nothing", headers=[("Host", "relay.test")]
        )
        asked = [Asked(request, NOWHERE, None, b"") for _ in range(count)]
        asked[0].http.send(h11.EndOfMessage())
        self.asked += asked
        self.pipe.send(asked[0].head * count)

    def send(self, size: int) -> None:
        """Send more of the body."""
        if not self.asked or self.asked[-1].tag == NOWHERE or not self.asked[-1].sending:
            return
        asked = self.asked[-1]
        data, asked.left = asked.left[:size], asked.left[size:]
        if data:
            self._send(asked.http.send(h11.Data(data=data)))
        if not asked.left:
            self._send(asked.http.send(h11.EndOfMessage()))
            self.world.sent.add(asked.tag)

    def stall(self) -> None:
        self.stalled = True

    def go_on(self) -> None:
        self.stalled = False

    def sip(self, size: int) -> None:
        """Read some, though it is slow."""
        if self.wire is not None:
            self._read(self.wire.sip(size))

    def vanish(self) -> None:
        self._lose(ConnectionResetError() if self.stalled else None)
        self.world.vanished.update(asked.tag for asked in self.asked)
        self.asked.clear()

    def pump(self) -> bool:
        """Move bytes both ways as far as they go."""
        wire = self.wire
        if wire is None:
            return False
        moved = self.pipe.pump()
        if self.stalled and not wire.aborted:
            return moved
        if wire.written:
            moved = True
            self._read(wire.sip(len(wire.written)))
        if wire.aborted or wire.closed or (wire.ended and not self.lingers):
            self._end()
            return True
        if self.socket is not None and self.socket.over and not self.lingers and wire.reading:
            self._end()
            return True
        return moved

    def _begin(
        self, method: str, headers: list[tuple[str, str]], lease: "Lease", size: int
    ) -> Asked:
        if self.wire is None:
            self.connect()
        tag = self.world.new_tag()
        request = h11.Request(
            method=method,
            target=f"{lease.route.prefix}/{tag}",
            headers=[
                ("Host", "relay.test"),
                ("X-SynthTunnel-Worker-Token", str(lease.route.worker_token)),
                *headers,
            ],
        )
        asked = Asked(request, tag, lease, text_of(tag, size))
        self.asked.append(asked)
        self.tags.add(tag)
        assert asked.http
        self._send(asked.head)
        return asked

    def _send(self, data: bytes | None) -> None:
        if self.wire is not None:
            self.pipe.send(data or b"")

    def _lose(self, error: Exception | None) -> None:
        wire, self.wire = self.wire, None
        self.socket = None
        if wire is not None:
            wire.lose(error)

    def _end(self) -> None:
        """Take the end of the connection for the end of the answer, or for a broken one."""
        wire = self.wire
        if self.socket is not None:
            self.socket.end()
            if wire is not None and not wire.closed:
                wire.protocol.eof_received()
        elif self.asked:
            with suppress(h11.RemoteProtocolError):
                self.asked[0].http.receive_data(b"")
                self._events(self.asked[0])
        self.world.interrupted.update(asked.tag for asked in self.asked)
        self.asked.clear()
        self._lose(None)

    def _read(self, data: bytes) -> None:
        while data:
            if self.socket is not None:
                self.socket.read(data)
                return
            assert self.asked, "an answer that nobody has asked for"
            asked = self.asked[0]
            asked.http.receive_data(data)
            data = self._events(asked)

    def _events(self, asked: Asked) -> bytes:
        """Take what h11 makes of it; return what belongs to the next answer."""
        http = asked.http
        while True:
            event = http.next_event()
            if isinstance(event, h11.Response):
                asked.status = event.status_code
                asked.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                asked.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.world.answered(asked)
                self.asked.popleft()
                return http.trailing_data[0]
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 100:
                    assert asked.expects
                    asked.expects = False
            elif event is h11.PAUSED and http.our_state is h11.SWITCHED_PROTOCOL:
                self.asked.popleft()
                self.world.statuses[asked.tag] = 101
                self.socket = Talker(self.world, asked.tag, Side.CLIENT, self._send)
                return http.trailing_data[0]
            else:
                return b""

    def finish(self) -> None:
        """Read on, and close what would stay open."""
        self.go_on()
        if self.socket is not None:
            self.socket.close(NO_CODE)
