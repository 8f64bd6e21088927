"""A relay with one lease, a fake agent and callers: without sockets, time by hand."""

import json

from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.wire.frames import (
    AgentCapabilities,
    Attach,
    AttachAck,
    AttachLease,
    RespBody,
    RespEnd,
    RespHeaders,
    in_pieces,
)
from pytest_synth_tunnels.wire.link import memory_links

from .manual_loop import Wire

TOKEN = "Authorization: Bearer wt_1"


class FakeAgent:
    """The far end of a link: it keeps what arrives, and answers what a test tells it to.

    Args:
        relay: where it attaches.
        answer: called with each frame and with what sends one, inside the relay's own sending.
        name: of its lease.
        whole_messages: it takes whole messages in one frame; else it sees them in pieces, as it
            would behind a WebSocket.
        capabilities: further ones that it announces.
    """

    def __init__(self, relay, answer=None, *, name="1", whole_messages=False, **capabilities):
        inner, self.link = memory_links()
        self.session = inner.handler = relay.session(inner, f"at_{name}")
        self.link.handler = self
        self.frames = []
        self.answer = answer
        self.whole_messages = whole_messages
        announced = {"websocket": True, "flow_control": True, **capabilities}
        self.link.send(
            Attach(
                [AttachLease(f"l{name}")],
                capabilities=AgentCapabilities(whole_messages=whole_messages, **announced),
            )
        )
        assert isinstance(self.frames.pop(), AttachAck)

    def frame_received(self, frame):
        for piece in [frame] if self.whole_messages else in_pieces(frame):
            self.frames.append(piece)
            if self.answer is not None:
                self.answer(piece, self.link.send)

    def link_lost(self, reason):
        self.frames.append(reason)

    def take(self, kind):
        """Return the next frame, which must be of this kind."""
        frame = self.frames.pop(0)
        assert isinstance(frame, kind), frame
        return frame

    def take_all(self):
        """Return every frame that has come since the last time."""
        frames, self.frames = self.frames, []
        return frames

    def send(self, *frames):
        for frame in frames:
            self.link.send(frame)

    def respond(self, rid, body=b""):
        """Answer a request with 200, in pieces."""
        length = [("Content-Length", str(len(body)))]
        self.send(RespHeaders(rid, 200, length), RespBody(rid, body), RespEnd(rid))


class RelayCaller:
    """One caller's connection to the relay, or to an origin of the lease's own."""

    def __init__(self, world, wire=None, server=None):
        self.world = world
        self.wire = wire or Wire()
        self.connection = (server or world.server)()
        self.connection.connection_made(self.wire)

    def send(self, data):
        self.connection.data_received(data)

    def ask(self, method="GET", path="/x", *lines, body=b"", token=TOKEN):
        """Send a request to the lease."""
        head = [f"{method} /s/rt_1{path} HTTP/1.1", "Host: relay.test:80", token, *lines]
        text = "".join(f"{line}\r\n" for line in head if line)
        self.send(text.encode("latin-1") + b"\r\n" + body)

    def read(self):
        """Return what the caller gets until the end of this tick."""
        self.world.loop.tick()
        return self.wire.take()

    def failure(self):
        """Return status and code of the error that the caller gets."""
        head, _, body = self.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["code"]

    def error(self, status):
        """Return the error that the caller gets."""
        head, _, body = self.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert b"application/json" in head
        error = json.loads(body)
        assert error.keys() == {"code", "detail", "message", "request_id"}
        assert error["request_id"]
        assert b"wt_1" not in body
        return error


class RelayWorld:
    """A relay with a lease, callers and, unless it is told otherwise, an agent.

    Args:
        loop: the manual loop.
        agent: whether an agent is there from the beginning.
        limits: those of the lease.
        capabilities: what the agent announces.
    """

    def __init__(self, loop, *, agent=True, limits=None, **capabilities):
        self.loop = loop
        self.time = 5000.0
        """Unix seconds, as the relay sees them."""
        self.relay = Relay(loop=loop, now=lambda: self.time, request_timeout_s=30)
        self.route = Route(
            lease_id="l1",
            route_token="rt_1",
            agent_token="at_1",
            worker_token="wt_1",
            public_base_url="http://127.0.0.1:8787",
            limits=limits or Limits(),
        )
        self.relay.add(self.route)
        ingress = Ingress(self.relay)
        self.server = HttpServer(ingress, loop=loop)
        self.origin = HttpServer(
            lambda exchange: ingress.at_origin(exchange, self.route, ""), loop=loop
        )
        self.agent = FakeAgent(self.relay, **capabilities) if agent else None
        self.caller = RelayCaller(self)
        """The first caller; :meth:`call` makes others."""

    def attach(self, **capabilities):
        """Attach another agent, and let it begin."""
        self.agent = FakeAgent(self.relay, **capabilities)
        self.loop.tick()
        return self.agent

    def call(self, *args, **kwargs):
        """Return another caller that has sent a request."""
        caller = RelayCaller(self)
        caller.ask(*args, **kwargs)
        return caller

    def ask(self, *args, **kwargs):
        """Have the first caller send a request; return its first frame, if it got that far."""
        self.caller.ask(*args, **kwargs)
        frames = self.agent.frames if self.agent is not None else []
        return frames.pop(0) if frames else None

    def read(self):
        """Return what the first caller gets until the end of this tick."""
        return self.caller.read()

    def error(self, status):
        """Return the error that the first caller gets."""
        return self.caller.error(status)

    def assert_nothing_in_flight(self):
        assert self.route.inflight == self.route.websockets == 0
        assert not self.relay.held.count("l1")
        assert self.relay.held.body_bytes == 0
        if self.agent is not None:
            assert not self.agent.session.requests
            assert not self.agent.session.websockets
