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

from pytest_synth_tunnels.relay import directory
from pytest_synth_tunnels.relay.call import Call
from pytest_synth_tunnels.relay.http11 import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay

from ..conftest import ManualLoop, Timer
from .ends import App, Caller, ManualOrigin, text_of
from .links import WALL_S, Lease, Wiring


class Clock(ManualLoop):
    """The loop, for the agent too."""

    def call_later(self, delay: float, callback: Callable[..., None]) -> Timer:
        return self.call_at(self.now + delay, callback)


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
        self.visits: Counter[str] = Counter()
        """How often apps got a request."""
        self.repeated: set[str] = set()
        """Rids of which one end may have heard again after their end."""
        self.leases: list[Lease] = []
        self.callers = [Caller(self) for _ in range(callers)]
        self._tags = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let what asks for the running loop have this one, and dial no real connections."""
        origin = type("Dialled", (ManualOrigin,), {"world": self})
        with (
            mock.patch.object(asyncio, "get_running_loop", return_value=self.loop),
            mock.patch.object(directory, "Origin", origin),
        ):
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

    def answered(self, caller: Caller) -> None:
        """A caller has the whole of an answer."""
        self.statuses[caller.tag] = caller.status
        whose = caller.headers.get("x-tag")
        if whose is None:
            known = (401, 408, 410, 429, 502, 503, 504)
            assert caller.status in known or caller.tag in self.spoilt, caller.status
            return
        assert whose == caller.tag
        self._check_body(caller.tag, caller.body)
        if caller.tag not in self.spoilt:
            assert self.given[caller.tag] == (caller.status, len(caller.body))

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
        while moved:
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
        for caller in self.callers:
            if caller.wire is not None:
                caller.go_on()
        for lease in self.leases:
            lease.accepting = True
            for wiring in lease.wirings:
                for way in (False, True):
                    wiring.fill(way, False)
                    wiring.held[way] = False
        for _ in range(8):
            self.settle()
            self.check()
            self.loop.advance(31)
        self.settle()
        for app in self.apps:
            app.lose(None)
        self.settle()
        self.check()
        for caller in self.callers:
            assert not caller.tag, f"{caller.tag} has no end"
            assert caller.wire is None
        for lease in self.leases:
            assert lease.route.inflight == 0
            assert not lease.route.held
            assert lease.agent.inflight == 0
            assert not lease.agent._held
            assert not lease.origin._waiting
            assert not lease.origin._idle
            assert len(lease.agent.deadlines) <= 1  # the origin's own, for idle connections
            for wiring in lease.wirings:
                assert not wiring.session.streams
                assert wiring.relay_end.reading
                assert wiring.agent_end.reading or wiring.left
        assert len(self.relay.deadlines) == 0
        assert self.relay.held_bytes == 0
        assert len(self.server.deadlines) == 0

    def check(self) -> None:
        """Check what is true at every moment."""
        calls = 0
        for lease in self.leases:
            route = lease.route
            session = route.session
            streams = [] if session is None else list(session.streams.values())
            assert route.inflight == len(streams) + len(route.held)
            assert route.inflight <= route.limits.max_inflight
            assert not (streams and route.held)
            assert not (route.closed and route.inflight)
            calls += route.inflight
            if session is not None:
                assert session._stalled <= set(streams)
                assert session.link.reading is (not session._stalled)
            agent = lease.agent
            forwards = list(agent._forwards.values())
            assert agent._leases[route.lease_id].inflight == len(forwards)
            assert agent._stalled <= set(forwards)
            assert agent.attached or not forwards
            assert len(agent.deadlines) <= len(forwards) + len(agent._origins)
            assert set(lease.origin._waiting) <= set(forwards)
            wiring = lease.wirings[-1] if lease.wirings else None
            if wiring is not None and not (wiring.closed or wiring.to_agent or wiring.to_relay):
                # Nothing is on its way, so both ends know of the same requests.
                known = set(wiring.session.streams) ^ set(agent._forwards)
                assert known <= self.repeated
                self._check_flow(wiring)
        assert len(self.relay.deadlines) == calls
        assert self.relay.held_bytes >= 0
        connected = {caller.connection for caller in self.callers if caller.wire is not None}
        assert self.server.callers.connections == connected
        assert len(self.server.deadlines) <= len(connected)

    def _check_flow(self, wiring: Wiring) -> None:
        """Check that nobody waits without a reason. No frame is on its way."""
        session, agent = wiring.session, wiring.agent
        for rid, call in session.streams.items():
            forward = agent._forwards.get(rid)
            if forward is None or rid in self.repeated or self.tags[rid] in self.spoilt:
                continue
            assert isinstance(call, Call)
            caller = call._exchange._connection
            assert caller is not None
            if call._request_open and not caller.transport.is_reading():
                assert session.writing_paused or call._credit <= 0
            if call._credit <= 0:
                assert forward._sink_paused or forward._connection is None
            app = forward._connection
            if app is not None and app._read_paused:
                assert agent.link_paused or forward._credit <= 0
            if forward._credit <= 0:
                assert not call._exchange.writable
