"""Callers, relay, agent and apps against each other, with whatever may go wrong in between.

Hypothesis chooses the steps. ``SYNTH_TUNNELS_TEST_EXAMPLES`` sets how many runs it makes, at
random, and then it looks for the shortest one that fails. Without it the runs are few and always
the same.
"""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from websockets.frames import Opcode

from pytest_synth_tunnels.wire.frames import AgentCapabilities

from ..support.examples import GIVEN, examples
from .model.callers import Caller
from .model.links import Lease
from .model.talks import NO_CODE, Talker
from .model.world import World

SETTINGS = settings(
    max_examples=examples(400),
    stateful_step_count=80,
    derandomize=not GIVEN,
    phases=[Phase.generate, Phase.shrink] if GIVEN else [Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

NTH = st.integers(0, 5)
SIZES = st.sampled_from([900_000, 400_000, 70_000, 700, 1, 0])
MAX_LEASES = 6
AGENTS = {
    "1": (
        AgentCapabilities(
            flow_control=True, whole_messages=True, websocket=True, caller_connections=True
        ),
        None,
    ),
    "2": (AgentCapabilities(flow_control=True, websocket=True), None),
    "3": (AgentCapabilities(websocket=True), None),
    "4": (
        AgentCapabilities(flow_control=True, whole_messages=True, caller_connections=True),
        300_000,
    ),
}
"""What agents can do, and the largest body of their leases."""


class Tunnel(RuleBasedStateMachine):
    """A lease for each kind of agent, and a few callers of any."""

    @initialize()
    def begin(self) -> None:
        self.world = World(callers=4)
        for name, (capabilities, max_body_bytes) in AGENTS.items():
            self.world.leases.append(Lease(self.world, name, capabilities, max_body_bytes))
            self.world.leases[-1].attach()

    @rule(
        nth=NTH,
        lease=NTH,
        method=st.sampled_from(["GET", "POST", "POST without", "PUT", "HEAD"]),
        size=SIZES,
        at_once=SIZES,
        chunked=st.booleans(),
        stalled=st.sampled_from([False, False, True]),
        expects=st.sampled_from([False, False, True]),
    )
    def ask(
        self,
        nth: int,
        lease: int,
        method: str,
        size: int,
        at_once: int,
        chunked: bool,
        stalled: bool,
        expects: bool,
    ) -> None:
        caller = self.idle(nth)
        if caller is None:
            return
        if method in ("GET", "HEAD", "POST without"):
            method, size, chunked = method.split()[0], 0, False
        caller.ask(
            method,
            size,
            self.lease(lease),
            chunked=chunked,
            at_once=at_once,
            expects=expects and size > 0,
        )
        if stalled:
            caller.stall()

    @rule(
        nth=NTH,
        lease=NTH,
        what=st.sampled_from(["GET", "HEAD", "POST", "PUT", "a WebSocket", "nowhere", "nowhere"]),
        size=SIZES,
        count=st.sampled_from([1, 3, 1500]),
        stalled=st.sampled_from([None, True, False]),
    )
    def pipeline(
        self, nth: int, lease: int, what: str, size: int, count: int, stalled: bool | None
    ) -> None:
        """Ask for more before the answers are there."""
        callers = [caller for caller in self.world.callers if caller.may_pipeline]
        if not callers:
            return
        caller = callers[nth % len(callers)]
        if what == "a WebSocket":
            caller.open(self.lease(lease), lingers=False)
        elif what == "nowhere":
            caller.ask_nowhere(count)
        else:
            for _ in range(min(count, 8)):
                caller.ask(what, size if what[0] == "P" else 0, self.lease(lease))
        if stalled is not None:
            (caller.stall if stalled else caller.go_on)()

    @rule(nth=NTH, lease=NTH, lingers=st.booleans())
    def open(self, nth: int, lease: int, lingers: bool) -> None:
        caller = self.idle(nth)
        if caller is not None:
            caller.open(self.lease(lease), lingers=lingers)

    @rule(nth=NTH, lingers=st.booleans())
    def accept(self, nth: int, lingers: bool) -> None:
        asked = [app for app in self.world.apps if app.may_accept]
        if asked:
            asked[nth % len(asked)].accept(lingers=lingers)

    @rule(
        nth=NTH,
        does=st.sampled_from(["says", "says", "says a piece", "says a piece", "pings", "closes"]),
        opcode=st.sampled_from([Opcode.TEXT, Opcode.BINARY]),
        size=SIZES,
        code=st.sampled_from([1000, 1001, 3001, 4321, NO_CODE]),
    )
    def a_talker(self, nth: int, does: str, opcode: Opcode, size: int, code: int) -> None:
        ends = [*self.world.callers, *self.world.apps]
        talkers: list[Talker] = [end.socket for end in ends if end.socket is not None]
        if not talkers:
            return
        talker = talkers[nth % len(talkers)]
        match does:
            case "says" | "says a piece":
                talker.say(opcode, size, fin=does == "says")
            case "pings":
                talker.ping()
            case "closes":
                talker.close(code)

    @rule(
        nth=NTH,
        status=st.sampled_from([200, 304, 404, 500]),
        size=st.none() | SIZES,
        first=SIZES,
        whole=st.booleans(),
    )
    def answer(self, nth: int, status: int, size: int | None, first: int, whole: bool) -> None:
        waiting = [app for app in self.world.apps if app.may_begin]
        if waiting:
            app = waiting[nth % len(waiting)]
            app.head(status, size)
            app.write(first)
            if whole:
                app.end()

    @rule(status=st.sampled_from([200, 304]), size=st.none() | SIZES)
    def all_answer(self, status: int, size: int | None) -> None:
        for app in self.world.apps:
            if app.may_begin:
                app.head(status, size)
                app.write(size or 0)
                app.end()

    @rule(
        nth=NTH,
        does=st.sampled_from(["writes", "ends", "is reset", "closes", "reads slowly", "reads on"]),
        size=SIZES,
    )
    def an_app(self, nth: int, does: str, size: int) -> None:
        apps = [app for app in self.world.apps if app.tag]
        if not apps:
            return
        app = apps[nth % len(apps)]
        match does:
            case "writes":
                app.write(size)
            case "ends":
                app.end()
            case "is reset" | "closes":
                app.break_off(reset=does == "is reset")
            case "reads slowly":
                app.pause()
            case "reads on":
                app.go_on()

    @rule(
        nth=NTH,
        does=st.sampled_from(["sends", "sends", "stops reading", "sips", "reads on", "vanishes"]),
        size=SIZES,
    )
    def a_caller(self, nth: int, does: str, size: int) -> None:
        callers = [caller for caller in self.world.callers if caller.busy]
        if not callers:
            return
        caller = callers[nth % len(callers)]
        match does:
            case "sends":
                caller.send(size)
            case "stops reading":
                caller.stall()
            case "sips":
                caller.sip(size)
            case "reads on":
                caller.go_on()
            case "vanishes":
                caller.vanish()

    @rule(
        lease=NTH,
        to_relay=st.booleans(),
        does=st.sampled_from(
            ["waits", "flows", "delivers", "swaps", "garbles", "repeats", "is full", "is empty"]
        ),
        nth=st.integers(1, 20),
    )
    def a_link(self, lease: int, to_relay: bool, does: str, nth: int) -> None:
        for wiring in list(self.lease(lease).wirings):
            match does:
                case "waits" | "flows":
                    wiring.held[to_relay] = does == "waits"
                case "delivers":
                    wiring.deliver(to_relay, nth)
                case "swaps":
                    wiring.deliver(to_relay, 2, nth_rid=nth % 4)
                case "garbles":
                    wiring.garbles[to_relay] = True
                case "repeats":
                    wiring.repeat(nth)
                case "is full" | "is empty":
                    wiring.fill(to_relay, does == "is full")

    @rule(
        lease=NTH,
        leaves=st.sampled_from(["", "", "with a word", "without a word"]),
        returns=st.booleans(),
    )
    def an_agent(self, lease: int, leaves: str, returns: bool) -> None:
        if leaves:
            for wiring in list(self.lease(lease).wirings):
                wiring.cut(relay_knows=leaves == "with a word")
        if returns:
            self.lease(lease).attach()

    @rule(
        lease=NTH,
        does=st.sampled_from(
            ["closes", "expires", "rotates", "rotates its agent", "refuses", "listens"]
        ),
    )
    def a_lease(self, lease: int, does: str) -> None:
        world, chosen = self.world, self.lease(lease)
        route = chosen.route
        match does:
            case "rotates":
                world.relay.rotate_worker(route.lease_id, f"wt_{world.new_tag()}")
            case "rotates its agent":
                world.relay.rotate_agent(route.lease_id, f"at_{world.new_tag()}")
            case "refuses" | "listens":
                chosen.accepting = does == "listens"
                if does == "refuses" and chosen.origin.wanted:
                    chosen.origin.refuse()
            case _ if route.closed or len(world.leases) == MAX_LEASES:
                return
            case "closes" | "expires":
                if does == "closes":
                    world.relay.close(route.lease_id, "it was closed")
                else:
                    route.expires_at = world.relay.now()
                    world.relay.by_lease(route.lease_id)
                name = f"{len(world.leases) + 1}"
                successor = Lease(world, name, chosen.capabilities, chosen.max_body_bytes)
                world.leases.append(successor)
                world.leases[-1].attach()

    @rule(seconds=st.sampled_from([0.01, 0.3, 2, 6, 11, 31, 70]))
    def wait(self, seconds: float) -> None:
        self.world.loop.advance(seconds)

    @invariant()
    def nothing_is_out_of_order(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()

    def idle(self, nth: int) -> Caller | None:
        """Choose a caller that waits for nothing, if there is one."""
        idle = [caller for caller in self.world.callers if not caller.busy]
        return idle[nth % len(idle)] if idle else None

    def lease(self, nth: int) -> Lease:
        """Choose a lease, seldom one that is over."""
        leases = self.world.leases
        if nth:
            leases = [lease for lease in leases if not lease.route.closed]
        return leases[nth % len(leases)]


TestTunnel = Tunnel.TestCase
TestTunnel.settings = SETTINGS


def run_of(tunnel: Tunnel, *steps: Callable[[], None]) -> None:
    """Take these steps, as a run that Hypothesis chooses would."""
    tunnel.begin()
    try:
        for step in steps:
            step()
            tunnel.nothing_is_out_of_order()
    finally:
        tunnel.teardown()


def test_a_caller_that_pipelines_and_reads_nothing() -> None:
    tunnel = Tunnel()
    run_of(
        tunnel,
        lambda: tunnel.world.callers[0].ask("GET", 0, tunnel.lease(0)),
        lambda: tunnel.world.callers[0].stall(),
        lambda: tunnel.world.callers[0].ask_nowhere(2000),
        lambda: tunnel.all_answer(status=200, size=70_000),
        lambda: tunnel.world.callers[0].sip(70_000),
    )


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_a_length_over_the_limit_without_a_body(method: str, status: int) -> None:
    tunnel = Tunnel()
    run_of(
        tunnel,
        lambda: tunnel.world.callers[0].ask(method, 0, tunnel.lease(3)),
        lambda: tunnel.all_answer(status=status, size=400_000),
    )
    assert tunnel.world.statuses == {"t1": status}


def test_an_agent_is_lost_while_two_talk() -> None:
    tunnel = Tunnel()
    run_of(
        tunnel,
        lambda: tunnel.open(nth=0, lease=1, lingers=False),
        lambda: tunnel.accept(nth=0, lingers=False),
        lambda: tunnel.a_talker(0, "says", Opcode.TEXT, 400_000, NO_CODE),
        lambda: tunnel.a_talker(1, "says a piece", Opcode.BINARY, 70_000, NO_CODE),
        lambda: tunnel.an_agent(lease=1, leaves="with a word", returns=True),
    )
    assert tunnel.world.callers[0].socket is None
    ends = tunnel.world.talks["t1"]
    assert [len(end.heard) for end in ends.values()] == [1, 1]
