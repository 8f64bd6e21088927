"""A whole tunnel without sockets: callers, relay, links, agents and apps, one step at a time.

Relay and agent are the real ones, on a loop whose time the test moves. Every request and every
answer is made of one word, the request's own, over and over: a byte that reaches another's reader
is noticed.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from websockets.protocol import Side, State

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.forwarded_request import ForwardedRequest
from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.proxied_request import ProxiedRequest
from pytest_synth_tunnels.relay.proxied_websocket import ProxiedWebSocket
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.websocket import tunnelled
from pytest_synth_tunnels.websocket.tunnelled import TunnelledWebSocket
from pytest_synth_tunnels.wire.frames import WINDOW_BYTES

from ...support.manual_loop import ManualLoop, Timer
from .apps import App
from .callers import NOWHERE, Asked, Caller, text_of
from .links import WALL_S, Lease, Wiring
from .talks import Talker
from .wires import FULL_BYTES, PIECE_BYTES

KNOWN = (401, 408, 410, 413, 429, 502, 503, 504)
"""Statuses with which the tunnel itself answers."""

UNREAD_BYTES = FULL_BYTES + WINDOW_BYTES + 4 * PIECE_BYTES
"""What may wait for a caller that does not read: one answer's window behind a full buffer."""

REFUSAL_BYTES = 1 << 20
"""What an app may say to a WebSocket that it does not open, which travels in one frame."""

QUEUE_BYTES = 1_000_000
"""What may wait on a WebSocket for a reader that cannot make the other end wait."""


MAX_ROUNDS = 10_000
"""In which bytes move at a moment."""


class Clock(ManualLoop):
    """The loop, for the agent too."""

    def call_later(self, delay: float, callback: Callable[..., None]) -> Timer:
        return self.call_at(self.now + delay, callback)


def websocket_ends(agent: Agent) -> set[TunnelledWebSocket]:
    """Return those of an agent's WebSockets that have a connection."""
    return set() if agent._websockets is None else set(agent._websockets.ends)


class World:
    """Everything there is."""

    def __init__(self, *, callers: int) -> None:
        self.loop = Clock()
        self.relay = Relay(
            loop=self.loop,  # type: ignore[arg-type]
            now=lambda: WALL_S + self.loop.now,
            request_timeout_s=30,
            idle_timeout_s=60,
        )
        self.server = HttpServer(Ingress(self.relay), loop=self.loop)  # type: ignore[arg-type]
        self.apps: list[App] = []
        self.tags: dict[str, str] = {}
        """Which request a rid is."""
        self.sent: set[str] = set()
        """Requests whose body the caller has sent to its end."""
        self.given: dict[str, tuple[int, int]] = {}
        """What apps have answered in full: status and length, by request."""
        self.vanished: set[str] = set()
        self.interrupted: set[str] = set()
        self.statuses: dict[str, int] = {}
        """What callers got in full, by request."""
        self.spoilt: set[str] = set()
        """Requests whose frames were tampered with: they may fail, or miss something."""
        self.too_large: set[str] = set()
        """Requests of which a body is over the lease's limit."""
        self.talks: dict[str, dict[Side, Talker]] = {}
        """WebSockets, by the request that opened them."""
        self.visits: Counter[str] = Counter()
        """How often apps got a request."""
        self.repeated: set[str] = set()
        """Rids of which one end may have heard again after their end."""
        self.wrong: list[str] = []
        """What was noticed where an exception would be caught."""
        self.leases: list[Lease] = []
        self.callers = [Caller(self) for _ in range(callers)]
        self._tags = 0
        self._queue = mock.patch.object(tunnelled, "_MAX_QUEUE_BYTES", QUEUE_BYTES)
        self._queue.start()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let what asks for the running loop have this one."""
        with mock.patch.object(asyncio, "get_running_loop", return_value=self.loop):
            yield

    def new_tag(self) -> str:
        self._tags += 1
        return f"t{self._tags}"

    def spoil(self, rid: str) -> None:
        self.spoilt.add(self.tags.get(rid, ""))

    # What callers and apps tell.

    def reached(self, app: App) -> None:
        """An app has the head of a request."""
        self.visits[app.tag] += 1
        if app.method == "POST" and app.tag not in self.spoilt:
            assert self.visits[app.tag] == 1

    def received(self, app: App) -> None:
        """An app has the whole of a request."""
        self._check_body(app.tag, app.body)
        if app.tag not in self.spoilt:
            # What the caller has not sent to its end never looks as if it had.
            assert app.tag in self.sent

    def answered(self, asked: Asked) -> None:
        """A caller has the whole of an answer."""
        tag = asked.tag
        if tag == NOWHERE:
            assert asked.status in (404, 408)
            return
        self.statuses[tag] = asked.status
        whose = asked.headers.get("x-tag")
        if whose is None:
            assert asked.lease is not None
            known = (*KNOWN, 501) if asked.upgrades else KNOWN
            assert asked.status in known or tag in self.spoilt, asked.status
            assert asked.status != 413 or tag in self.too_large
            return
        assert whose == tag
        self._check_body(tag, asked.body)
        if tag not in self.spoilt:
            assert self.given[tag] == (asked.status, len(asked.body))
            assert asked.lease is not None
            assert len(asked.body) <= asked.lease.route.limits.max_response_bytes

    def _check_body(self, tag: str, body: bytearray) -> None:
        if tag in self.spoilt:
            # A piece may have come twice, or not at all.
            assert not body.translate(None, text_of(tag, 20))
        else:
            assert body == text_of(tag, len(body))

    # Time.

    def settle(self) -> None:
        """Let everything happen that happens by itself, but for frames on links."""
        moved = True
        rounds = 0
        while moved:
            rounds += 1
            assert rounds < MAX_ROUNDS, "it never comes to rest"
            self.loop.tick()
            movers: list[Caller | App | Lease] = [*self.callers, *self.apps, *self.leases]
            moved = sum(mover.pump() for mover in movers) > 0
            self.loop.tick()
        self.apps = [app for app in self.apps if not app.lost]

    def drain(self) -> None:
        """Let everything happen that does not wait for time or for an app."""
        moved = True
        while moved:
            self.settle()
            moved = False
            for lease in self.leases:
                for wiring in lease.wirings:
                    for to_relay in (False, True):
                        moved |= wiring.deliver(to_relay, 1_000)

    def end(self) -> None:
        """Let everybody go on, and time pass: nothing may be left."""
        try:
            self._end()
        finally:
            self._queue.stop()

    def _end(self) -> None:
        for caller in self.callers:
            caller.finish()
        for lease in self.leases:
            lease.accepting = True
            for wiring in lease.wirings:
                for way in (False, True):
                    wiring.fill(way, False)
                    wiring.held[way] = False
        for _ in range(8 + max(len(caller.asked) for caller in self.callers)):
            self.settle()
            self.check()
            self.loop.advance(31)
            for caller in self.callers:
                caller.finish()
        self.settle()
        for app in self.apps:
            app.lose(None)
        self.loop.advance(31)
        self.settle()
        self.check()
        for caller in self.callers:
            assert not caller.asked, f"{caller.asked[0].tag} has no end"
            assert caller.wire is None
        for lease in self.leases:
            assert lease.route.inflight == lease.route.websockets == 0
            assert not self.relay.held.count(lease.route.lease_id)
            assert lease.agent.inflight == len(lease.agent.uplink.websockets) == 0
            assert not websocket_ends(lease.agent)
            assert not lease.agent.uplink._held
            assert not lease.origin._waiting
            assert not lease.origin._tied
            assert not len(lease.agent.deadlines)
            for wiring in lease.wirings:
                assert not wiring.session.requests
                assert not wiring.session.websockets
                assert wiring.relay_end.reading
                assert wiring.agent_end.reading or wiring.left
        assert len(self.relay.deadlines) == 0
        assert not self.relay.ends
        assert self.relay.held.body_bytes == 0
        assert len(self.server.deadlines) == 0

    def check(self) -> None:
        """Check what is true at every moment."""
        assert not self.wrong
        calls: set[object] = set()
        websockets: set[object] = set(self.relay.ends)
        for lease in self.leases:
            route = lease.route
            session = self.relay.sessions.get(route.lease_id)
            streams = set() if session is None else set(session.requests.values())
            sockets = set() if session is None else set(session.websockets.values())
            waiting = set(self.relay.held.of(route.lease_id))
            held_sockets = {held for held in waiting if isinstance(held, ProxiedWebSocket)}
            held = waiting - held_sockets
            assert route.inflight == len(streams) + len(held)
            assert route.inflight <= route.limits.max_inflight
            assert route.websockets == len(sockets) + len(held_sockets)
            assert route.websockets <= route.limits.max_websocket_streams
            assert not (session is not None and waiting)
            assert not (route.closed and (route.inflight or route.websockets))
            calls |= streams | held
            websockets |= sockets | held_sockets
            if session is not None:
                assert session.link.reading
            agent = lease.agent
            forwards = list(agent.uplink.requests.values())
            opened = list(agent.uplink.websockets.values())
            served = agent.leases.get(route.lease_id)
            assert (served.inflight, served.websockets) == (len(forwards), len(opened))
            assert agent.uplink._stalled <= set(forwards)
            assert agent.attached or not (forwards or opened)
            ends = websocket_ends(agent) | set(opened)
            assert agent.deadlines._items <= {*forwards, *agent.leases.pools, *ends}
            assert set(lease.origin._waiting) <= {*forwards, *opened}
            wiring = lease.wirings[-1] if lease.wirings else None
            if wiring is not None and not (wiring.closed or wiring.to_agent or wiring.to_relay):
                # Nothing is on its way, so both ends know of the same requests.
                known = set(wiring.session.requests) ^ set(agent.uplink.requests)
                known |= set(wiring.session.websockets) ^ set(agent.uplink.websockets)
                assert known <= self.repeated
                self._check_flow(wiring)
                self._check_websockets(wiring)
        deadlines = self.relay.deadlines._items
        assert calls <= deadlines <= calls | websockets
        assert self.relay.held.body_bytes >= 0
        for caller in self.callers:
            self._check_buffers(caller)
        connected = {caller.wire.protocol for caller in self.callers if caller.wire is not None}
        assert self.server.limiter.connections == connected - self.relay.ends
        assert len(self.server.deadlines) <= len(connected)

    def _check_buffers(self, caller: Caller) -> None:
        """Check that little waits for a caller, or of one."""
        wire = caller.wire
        if wire is None or caller.tags & self.spoilt:
            return
        end = wire.protocol
        if not isinstance(end, TunnelledWebSocket):
            refusal = REFUSAL_BYTES if caller.upgrades else 0
            leases = [asked.lease for asked in caller.asked]
            if all(lease is not None and lease.capabilities.flow_control for lease in leases):
                assert len(wire.written) <= UNREAD_BYTES + refusal
            return
        assert len(wire.written) <= max(QUEUE_BYTES, UNREAD_BYTES) + 2 * PIECE_BYTES

    def _check_flow(self, wiring: Wiring) -> None:
        """Check that nobody waits without a reason. No frame is on its way."""
        session, agent = wiring.session, wiring.agent
        for rid, call in session.requests.items():
            forward = agent.uplink.requests.get(rid)
            if forward is None or rid in self.repeated or self.tags[rid] in self.spoilt:
                continue
            assert isinstance(call, ProxiedRequest)
            caller = call._exchange.connection
            assert caller is not None
            if call._request_open and not caller.transport.is_reading():
                assert session.writing_paused or _used_up(call)
            if _used_up(call):
                assert forward._sink_paused or forward._connection is None
            app = forward._connection
            if app is not None and app._read_paused:
                assert agent.uplink.link_paused or _used_up(forward)
            if _used_up(forward):
                assert not call._exchange.writable

    def _check_websockets(self, wiring: Wiring) -> None:
        """Check the same of WebSockets."""
        for rid, near in wiring.session.websockets.items():
            far = wiring.agent.uplink.websockets.get(rid)
            if far is None or rid in self.repeated or self.tags[rid] in self.spoilt:
                continue
            assert isinstance(near, ProxiedWebSocket)
            for end, other in ((near, far), (far, near)):
                if end._read_paused and not end._closing:
                    assert end._link_paused or _used_up(end)
                if _used_up(end):
                    slow = other._write_paused or other._transport is None
                    assert slow or other._protocol.state is not State.OPEN


def _used_up(sender: ProxiedRequest | ForwardedRequest | TunnelledWebSocket) -> bool:
    """Return whether it has sent as much as the other end of its link takes."""
    window = sender._send_window
    return window is not None and not window.open
