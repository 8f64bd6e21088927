"""Callers, relay, agent and apps against each other, with whatever may go wrong in between.

Hypothesis chooses the steps. ``SYNTH_TUNNELS_TEST_EXAMPLES`` sets how many runs it makes, at
random, and then it looks for the shortest one that fails. Without it the runs are few and always
the same.
"""

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pytest_synth_tunnels.relay.frames import AgentCapabilities

from .model.links import Lease
from .model.world import World

EXAMPLES = int(os.environ.get("SYNTH_TUNNELS_TEST_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=80,
    derandomize=not EXAMPLES,
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

NTH = st.integers(0, 5)
SIZES = st.sampled_from([900_000, 400_000, 70_000, 700, 1, 0])
MAX_LEASES = 5
AGENTS = {
    "1": AgentCapabilities(flow_control=True, whole_messages=True),
    "2": AgentCapabilities(flow_control=True),
    "3": AgentCapabilities(),
}


class Tunnel(RuleBasedStateMachine):
    """A lease for each kind of agent, and a few callers of any."""

    @initialize()
    def begin(self) -> None:
        self.world = World(callers=4)
        for name, capabilities in AGENTS.items():
            self.world.leases.append(Lease(self.world, name, capabilities))
            self.world.leases[-1].attach()

    @rule(
        nth=NTH,
        lease=NTH,
        method=st.sampled_from(["GET", "POST", "POST without", "PUT", "HEAD"]),
        size=SIZES,
        at_once=SIZES,
        chunked=st.booleans(),
        stalled=st.sampled_from([False, False, True]),
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
    ) -> None:
        idle = [caller for caller in self.world.callers if not caller.tag]
        if not idle:
            return
        caller = idle[nth % len(idle)]
        if method in ("GET", "HEAD", "POST without"):
            method, size, chunked = method.split()[0], 0, False
        caller.ask(method, size, chunked=chunked, at_once=at_once, lease=self.lease(lease))
        if stalled:
            caller.stall()

    @rule(
        nth=NTH,
        status=st.sampled_from([200, 404, 500]),
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
        does=st.sampled_from(["sends", "sends", "stops reading", "reads on", "vanishes"]),
        size=SIZES,
    )
    def a_caller(self, nth: int, does: str, size: int) -> None:
        callers = [caller for caller in self.world.callers if caller.tag]
        if not callers:
            return
        caller = callers[nth % len(callers)]
        match does:
            case "sends":
                caller.send(size)
            case "stops reading":
                caller.stall()
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
                world.leases.append(Lease(world, name, chosen.capabilities))
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

    def lease(self, nth: int) -> Lease:
        """Choose a lease, seldom one that is over."""
        leases = self.world.leases
        if nth:
            leases = [lease for lease in leases if not lease.route.closed]
        return leases[nth % len(leases)]


TestTunnel = Tunnel.TestCase
TestTunnel.settings = SETTINGS
