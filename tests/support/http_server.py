"""An HTTP server with one connection, without sockets."""

from pytest_synth_tunnels.http.connection import HttpLimits
from pytest_synth_tunnels.http.server import HttpServer

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


class Handler:
    """Keeps what it is told."""

    def __init__(self, exchange):
        self.exchange = exchange
        self.head = exchange.head
        self.body = b""
        self.events = []
        self.stays = False
        """It has an answer for a caller that has ended its side."""

    def body_received(self, data):
        assert data
        self.body += data
        if self.events[-1:] != ["body"]:
            self.events.append("body")

    def body_ended(self):
        self.events.append("end")

    def aborted(self):
        self.events.append("aborted")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def half_closed(self):
        self.events.append("half closed")
        return self.stays


class OneConnection:
    """A server with one connection."""

    def __init__(self, loop, wire, router=None, **limits):
        self.loop = loop
        self.wire = wire
        self.handlers = []
        self.server = HttpServer(router or self.route, loop=loop, limits=HttpLimits(**limits))
        self.connection = self.server()
        self.connection.connection_made(wire)

    def route(self, exchange):
        self.handlers.append(Handler(exchange))
        return self.handlers[-1]

    @property
    def handler(self):
        return self.handlers[-1]

    def feed(self, data):
        self.connection.data_received(data)
        return self

    def answer(self):
        """Return what was written, at the end of this tick."""
        self.loop.tick()
        return self.wire.take()

    def lose(self):
        self.connection.connection_lost(None)
