"""Callers' WebSockets at a relay: without sockets, time by hand. The caller is the library's
protocol core."""

import json

from websockets.protocol import Protocol, Side

from pytest_synth_tunnels.wire.frames import WsOpen, WsOpenAck

from .manual_loop import Wire
from .relay_world import RelayWorld

HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class SlowWire(Wire):
    """A transport whose other end may stop reading."""

    def __init__(self):
        super().__init__()
        self.protocol = None
        self.waiting = 0
        """Bytes that the other end has not read, once it has stopped."""
        self.stopped = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def write(self, data):
        super().write(data)
        if self.stopped:
            if not self.waiting:
                self.protocol.pause_writing()
            self.waiting += len(data)

    def get_write_buffer_size(self):
        return self.waiting

    def go_on(self):
        self.stopped = False
        self.waiting = 0
        self.protocol.resume_writing()


class WebSocketWorld(RelayWorld):
    """A relay with a lease, an agent, and callers that want WebSockets."""

    def handshake(self, *lines, method="GET", path="/s/rt_1/chat?x=%20", handshake=HANDSHAKE):
        """Return a caller that has sent its handshake."""
        caller = WebSocketCaller(self)
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: relay.test:80",
            "Authorization: Bearer wt_1",
            *handshake,
            *lines,
        ]
        caller.connection.data_received("\r\n".join([*lines, "", ""]).encode())
        return caller

    def open(self, *lines, headers=()):
        """Return a caller whose WebSocket is open."""
        caller = self.handshake(*lines)
        caller.rid = self.agent.take(WsOpen).rid
        self.agent.send(WsOpenAck(caller.rid, list(headers), "l1"))
        caller.head = caller.wire.take()
        assert caller.head.startswith(b"HTTP/1.1 101 ")
        return caller


class WebSocketCaller:
    """A caller, with the library's protocol core behind the handshake."""

    def __init__(self, world):
        self.world = world
        self.wire = SlowWire()
        self.connection = self.wire.protocol = world.server()
        self.connection.connection_made(self.wire)
        self.protocol = Protocol(Side.CLIENT, max_size=None)
        self.rid = ""

    def say(self, raw=b""):
        """Bring what the protocol has said, or these bytes, to the relay."""
        data = b"".join(self.protocol.data_to_send()) + raw
        self.wire.protocol.data_received(data)

    def send(self, data, *, fin=True):
        if self.protocol.expect_continuation_frame:
            self.protocol.send_continuation(data, fin)
        else:
            self.protocol.send_binary(data, fin)
        self.say()

    def hear(self):
        """Return what the relay has said, at the end of the tick."""
        self.world.loop.tick()
        self.protocol.receive_data(self.wire.take())
        return self.protocol.events_received()

    def messages(self):
        return [bytes(event.data) for event in self.hear()]

    def close(self):
        """Return the close frame that has come."""
        self.hear()
        assert self.protocol.close_rcvd is not None
        return self.protocol.close_rcvd

    def error(self, status):
        """Return the refusal that has come instead of a WebSocket."""
        self.world.loop.tick()
        head, _, body = self.wire.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert b"Connection: close" in head
        assert b"wt_1" not in body
        return json.loads(body)["code"]
