"""Apps. They speak through h11, which takes nothing that is not quite HTTP."""

from typing import TYPE_CHECKING, Any

import h11
from websockets.protocol import Side
from websockets.utils import accept_key

from pytest_synth_tunnels.http.client_connection import ClientConnection
from pytest_synth_tunnels.http.pool import ConnectionPool

from .callers import text_of
from .talks import Talker
from .wires import AppWire, Pipe

if TYPE_CHECKING:
    from .world import World


class App:
    """An app's end of one connection."""

    def __init__(self, world: "World", origin: "ManualOrigin") -> None:
        self.world = world
        self.origin = origin
        self.connection = ClientConnection(origin)
        self.wire = AppWire(self.connection)
        self.pipe = Pipe(self.wire)
        self.http = h11.Connection(h11.SERVER)
        self.tag = ""
        self.wanted_key = ""
        """Of the WebSocket that it is asked for."""
        self.socket: Talker | None = None
        """Once that is open."""
        self.lingers = False
        """It does not close a WebSocket's connection that has had its end."""
        self.body = bytearray()
        self.sent = 0
        self.status = 0
        self.slow = False
        self.lost = False

    def begin(self) -> None:
        """Take the connection."""
        self.connection.connection_made(self.wire)

    @property
    def may_begin(self) -> bool:
        """Whether a request is there that has no answer yet."""
        return bool(self.tag) and self.http.our_state is h11.SEND_RESPONSE

    @property
    def may_accept(self) -> bool:
        """Whether it is asked for a WebSocket."""
        return self.may_begin and self.http.their_state is h11.MIGHT_SWITCH_PROTOCOL

    def head(self, status: int, size: int | None) -> None:
        """Begin to answer."""
        headers = [("X-Tag", self.tag)]
        if size is not None:
            headers.append(("Content-Length", str(size)))
        self.size, self.sent, self.status = size, 0, status
        self.bodiless = self.method == "HEAD" or status == 304
        self._check_size(size or 0)
        self._note()
        self._send(h11.Response(status_code=status, headers=headers))

    def accept(self, *, lingers: bool) -> None:
        """Open the WebSocket that it is asked for."""
        self.lingers = lingers
        accept = accept_key(self.wanted_key)
        headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
        ]
        self._send(h11.InformationalResponse(status_code=101, headers=headers))
        self.socket = Talker(self.world, self.tag, Side.SERVER, self.pipe.send)
        self.socket.read(self.http.trailing_data[0])

    def write(self, size: int) -> None:
        """Answer with so much more."""
        if self.http.our_state is not h11.SEND_BODY:
            return
        if self.size is not None:
            size = min(size, self.size - self.sent)
        if size:
            data = text_of(self.tag, self.sent + size)[self.sent :]
            self.sent += size
            self._check_size(self.sent)
            self._note()
            self._send(h11.Data(data=b"" if self.bodiless else data))

    def end(self) -> None:
        """End the answer, if it is as long as it said."""
        if self.http.our_state is not h11.SEND_BODY:
            return
        if self.size is not None and not self.bodiless:
            self.write(self.size - self.sent)
        self._note(ended=True)
        self._send(h11.EndOfMessage())
        self._next()

    def break_off(self, *, reset: bool) -> None:
        """Close in the middle of whatever there is."""
        if not self.wire.closed:
            if not reset:
                self.wire.protocol.eof_received()
            self.lose(ConnectionResetError() if reset else None)

    def pause(self) -> None:
        if not self.slow:
            self.slow = True
            self.wire.protocol.pause_writing()

    def go_on(self) -> None:
        if self.slow:
            self.slow = False
            self.wire.protocol.resume_writing()

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
        socket = self.socket
        if socket is None or self.slow or self.lingers:
            return moved
        if self.wire.ended and not socket.over:
            socket.end()
        if socket.over and not self.pipe.waiting and self.wire.reading:
            self.break_off(reset=False)
            return True
        return moved

    def lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.wire.lose(error)

    def _note(self, *, ended: bool = False) -> None:
        """Remember an answer that a caller may take for complete."""
        length = 0 if self.bodiless else self.sent
        if ended or self.bodiless or self.size == self.sent:
            self.world.given[self.tag] = self.status, length

    def _check_size(self, size: int) -> None:
        """Remember an answer that no caller may get."""
        if not self.bodiless and size > self.origin.limit_bytes:
            self.world.too_large.add(self.tag)

    def _send(self, event: Any) -> None:
        self.pipe.send(self.http.send(event) or b"")

    def _read(self, data: bytes) -> None:
        if self.socket is not None:
            self.socket.read(data)
            return
        self.http.receive_data(data)
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Request):
                self.method = event.method.decode()
                self.tag = event.target.decode().removeprefix("/")
                self.body = bytearray()
                headers = dict(event.headers)
                self.wanted_key = headers.get(b"sec-websocket-key", b"").decode()
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


class ManualOrigin(ConnectionPool):
    """Connections that are dialled when the test says so."""

    world: "World"
    limit_bytes: int
    """What an answer of its app may have."""

    def _dial(self) -> None:
        self._retry = None

    @property
    def wanted(self) -> bool:
        """Whether a request waits for a connection."""
        return bool(self._waiting) and self._retry is None

    def accept(self) -> App:
        app = App(self.world, self)
        self.world.apps.append(app)
        app.begin()
        return app

    def refuse(self) -> None:
        self._refused(ConnectionRefusedError(111, "refused"))
