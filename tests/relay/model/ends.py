"""Callers and apps. They speak through h11, which takes nothing that is not quite HTTP."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unittest import mock

import h11

from pytest_synth_tunnels.relay.origin import Origin
from pytest_synth_tunnels.relay.origin_connection import OriginConnection

from ..conftest import Wire

if TYPE_CHECKING:
    from .links import Lease
    from .world import World

PIECE_BYTES = 65_536
"""What one read of a socket gives at the most."""


def text_of(tag: str, size: int) -> bytes:
    """Return ``size`` bytes that say whose they are."""
    word = f"{tag};".encode()
    return (word * (size // len(word) + 1))[:size]


class Pipe:
    """What one end of a socket has sent and the other has not read."""

    def __init__(self, wire: Wire, deliver: Callable[[bytes], None]) -> None:
        self.waiting: deque[bytes] = deque()
        self._wire = wire
        self._deliver = deliver

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            self.waiting.append(data[start : start + PIECE_BYTES])

    def pump(self) -> bool:
        """Let the reader read; false if there was nothing to read or it would not."""
        moved = False
        while self.waiting and self._wire.reading and not self._wire.closed:
            self._deliver(self.waiting.popleft())
            moved = True
        return moved


class CallerWire(Wire):
    """The relay's transport of a connection to a caller."""

    def is_reading(self) -> bool:
        return self.reading


class AppWire(Wire):
    """The agent's transport of a connection to an app."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return no socket that could be read once the connection is lost."""
        if name == "socket":
            return mock.Mock(dup=mock.Mock(side_effect=OSError))
        return super().get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Any will do: the app says when the buffer is full."""


class Caller:
    """A client with one connection at a time, and one request at a time on it."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.wire: Wire | None = None
        """``None`` while it is not connected."""
        self.tag = ""
        """Of the request that waits for its answer; empty if none does."""
        self.left = b""
        """What it has not sent of its body."""

    def connect(self) -> None:
        self.wire = CallerWire()
        self.connection = self.world.server()
        self.connection.connection_made(self.wire)
        self.pipe = Pipe(self.wire, self.connection.data_received)
        self.http = h11.Connection(h11.CLIENT)
        self.stalled = False

    def ask(self, method: str, size: int, *, chunked: bool, at_once: int, lease: "Lease") -> None:
        """Begin a request with a body of ``size`` bytes, of which ``at_once`` are sent."""
        if self.wire is None:
            self.connect()
        self.tag = self.world.new_tag()
        self.left = text_of(self.tag, size)
        self.lease = lease
        self.method = method
        self.shown = lease.route.worker_token
        headers = [("Host", "relay.test"), ("X-SynthTunnel-Worker-Token", str(self.shown))]
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif size or method == "POST":
            headers.append(("Content-Length", str(size)))
        target = f"{lease.route.prefix}/{self.tag}"
        self._send(h11.Request(method=method, target=target, headers=headers))
        self.send(at_once)

    def send(self, size: int) -> None:
        """Send more of the body."""
        if self.http.our_state is not h11.SEND_BODY:
            return
        data, self.left = self.left[:size], self.left[size:]
        if data:
            self._send(h11.Data(data=data))
        if not self.left:
            self._send(h11.EndOfMessage())
            self.world.sent.add(self.tag)

    def stall(self) -> None:
        if not self.stalled:
            self.stalled = True
            self.connection.pause_writing()

    def go_on(self) -> None:
        if self.stalled:
            self.stalled = False
            self.connection.resume_writing()

    def vanish(self) -> None:
        self._lose(None)
        self.world.vanished.add(self.tag)
        self.tag = ""

    def pump(self) -> bool:
        """Move bytes both ways as far as they go."""
        wire = self.wire
        if wire is None:
            return False
        moved = self.pipe.pump()
        if not self.stalled or wire.aborted:
            if wire.written:
                moved = True
                self._read(wire.take())
            if wire.aborted or wire.closed or wire.ended:
                self._lose(None)
                self._end()
                return True
        return moved

    def _send(self, event: Any) -> None:
        self.pipe.send(self.http.send(event) or b"")

    def _lose(self, error: Exception | None) -> None:
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.closed = True
            self.connection.connection_lost(error)

    def _end(self) -> None:
        """Take the end of the connection for the end of the answer, or for a broken one."""
        with suppress(h11.RemoteProtocolError):
            self._read(b"")
        if self.tag:
            self.world.interrupted.add(self.tag)
            self.tag = ""

    def _read(self, data: bytes) -> None:
        self.http.receive_data(data)
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {name.decode(): value.decode() for name, value in event.headers}
                self.body = bytearray()
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.world.answered(self)
                self.tag = ""
                if self.http.our_state is h11.DONE:
                    self.http.start_next_cycle()
            elif isinstance(event, h11.InformationalResponse):
                assert event.status_code == 100
            else:
                return


class App:
    """An app's end of one connection."""

    def __init__(self, world: "World", origin: "ManualOrigin") -> None:
        self.world = world
        self.origin = origin
        self.wire = AppWire()
        self.connection = OriginConnection(origin)
        self.connection.connection_made(self.wire)
        self.pipe = Pipe(self.wire, self.connection.data_received)
        self.http = h11.Connection(h11.SERVER)
        self.tag = ""
        self.body = bytearray()
        self.sent = 0
        self.status = 0
        self.slow = False
        self.lost = False

    @property
    def may_begin(self) -> bool:
        """Whether a request is there that has no answer yet."""
        return bool(self.tag) and self.http.our_state is h11.SEND_RESPONSE

    def head(self, status: int, size: int | None) -> None:
        """Begin to answer."""
        headers = [("X-Tag", self.tag)]
        if size is not None:
            headers.append(("Content-Length", str(size)))
        self.size, self.sent, self.status = size, 0, status
        self._note()
        self._send(h11.Response(status_code=status, headers=headers))

    def write(self, size: int) -> None:
        """Answer with so much more."""
        if self.http.our_state is not h11.SEND_BODY:
            return
        if self.size is not None:
            size = min(size, self.size - self.sent)
        if size:
            data = text_of(self.tag, self.sent + size)[self.sent :]
            self.sent += size
            self._note()
            self._send(h11.Data(data=b"" if self.method == "HEAD" else data))

    def end(self) -> None:
        """End the answer, if it is as long as it said."""
        if self.http.our_state is not h11.SEND_BODY:
            return
        if self.size is not None and self.method != "HEAD":
            self.write(self.size - self.sent)
        self._note(ended=True)
        self._send(h11.EndOfMessage())
        self._next()

    def break_off(self, *, reset: bool) -> None:
        """Close in the middle of whatever there is."""
        if not self.wire.closed:
            if not reset:
                self.connection.eof_received()
            self.lose(ConnectionResetError() if reset else None)

    def pause(self) -> None:
        if not self.slow:
            self.slow = True
            self.connection.pause_writing()

    def go_on(self) -> None:
        if self.slow:
            self.slow = False
            self.connection.resume_writing()

    def pump(self) -> bool:
        if self.lost:
            return False
        moved = self.pipe.pump()
        if self.wire.written and not self.slow:
            moved = True
            self._read(self.wire.take())
        if self.wire.closed:
            self.lose(None)
            return True
        return moved

    def lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.wire.closed = True
            self.connection.connection_lost(error)

    def _note(self, *, ended: bool = False) -> None:
        """Remember an answer that a caller may take for complete."""
        length = 0 if self.method == "HEAD" else self.sent
        if ended or self.method == "HEAD" or self.size == self.sent:
            self.world.given[self.tag] = self.status, length

    def _send(self, event: Any) -> None:
        self.pipe.send(self.http.send(event) or b"")

    def _read(self, data: bytes) -> None:
        self.http.receive_data(data)
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                self.method = event.method.decode()
                self.tag = event.target.decode().removeprefix("/")
                self.body = bytearray()
                self.world.reached(self)
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.world.received(self)
                self._next()
            else:
                return

    def _next(self) -> None:
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
            self.tag = ""


class ManualOrigin(Origin):
    """Connections that are dialled when the test says so."""

    world: "World"

    def _dial(self) -> None:
        self._retry = None

    @property
    def wanted(self) -> bool:
        """Whether a request waits for a connection."""
        return bool(self._waiting) and self._retry is None

    def accept(self) -> App:
        app = App(self.world, self)
        self.world.apps.append(app)
        self.accepted = True
        self.release(app.connection, new=True)
        return app

    def refuse(self) -> None:
        self._refused(ConnectionRefusedError(111, "refused"))
