"""The hub: who may attach, what a frame is for, and how leases end."""

import pytest

from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Route
from pytest_synth_tunnels.wire.frames import (
    AgentCapabilities,
    Attach,
    AttachAck,
    AttachLease,
    FrameError,
    ReqEnd,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    Window,
    WsClose,
)
from pytest_synth_tunnels.wire.link import memory_links


class Agent:
    """The far end of a link: keeps what arrives."""

    def __init__(self, relay, token):
        inner, self.link = memory_links()
        self.session = relay.session(inner, token)
        inner.handler = self.session
        self.link.handler = self
        self.frames = []
        self.lost = None

    def attach(self, *leases, **capabilities):
        self.link.send(
            Attach(
                leases=[AttachLease(lease) for lease in leases],
                agent_id="me",
                capabilities=AgentCapabilities(**capabilities),
            )
        )
        return self

    def frame_received(self, frame):
        self.frames.append(frame)

    def link_lost(self, reason):
        self.lost = reason


class Stream:
    """One request: keeps what it is told."""

    def __init__(self, session, route, rid):
        self.route = route
        self.told = []
        self._session = session
        self._rid = rid
        session.requests[rid] = self

    def response_headers(self, frame):
        self.told.append(frame.status)

    def response_body(self, chunk):
        self.told.append(chunk)

    def response_end(self, trailers):
        self.told.append("end")

    def response_error(self, code, message):
        self.told.append(code)

    def credit(self, credit_bytes):
        self.told.append(credit_bytes)

    def pause(self):
        self.told.append("pause")

    def resume(self):
        self.told.append("resume")

    def lost(self, reason, *, cancel):
        del self._session.requests[self._rid]
        self.told.append((reason, cancel))

    def fail(self, failure, *, cancel=True):
        del self._session.requests[self._rid]
        self.told.append((failure[0], failure[1], cancel))


class World:
    def __init__(self, loop):
        self.time = 5000.0
        self.relay = Relay(loop=loop, now=lambda: self.time)

    def route(self, name="1", **options):
        route = Route(
            lease_id=f"l{name}", route_token=f"rt_{name}", agent_token=f"at_{name}", **options
        )
        self.relay.add(route)
        return route


@pytest.fixture
def world(loop):
    return World(loop)


def test_an_agent_attaches_its_own_lease_only(world):
    route, other = world.route("1"), world.route("2")
    agent = Agent(world.relay, "at_1").attach("l1", "l2", "l3")
    assert agent.frames == [AttachAck(agent_id="me", accepted_leases=["l1"])]
    assert route.connected
    assert agent.session.attached
    assert route.last_seen_at == world.time
    assert not other.connected
    assert agent.lost is None


def test_flow_control_is_confirmed_to_those_who_know_it(world):
    world.route()
    agent = Agent(world.relay, "at_1").attach("l1", flow_control=True)
    assert agent.frames[0].capabilities.flow_control
    assert agent.session.flow_control


@pytest.mark.parametrize("token", ["", "at_", "at_2", "\udcff", "é"])
def test_a_wrong_token_attaches_nothing(world, token):
    world.route()
    agent = Agent(world.relay, token).attach("l1")
    assert agent.frames == [AttachAck(agent_id="me", accepted_leases=[])]
    assert agent.lost
    assert not agent.session.attached


def test_who_is_admitted_to_a_handshake(world):
    route = world.route(expires_at=6000.0)
    assert world.relay.admits("at_1")
    assert not world.relay.admits("at_2")
    assert not world.relay.admits("")
    world.time = 6000.0
    assert not world.relay.admits("at_1")
    assert route.closed


def test_the_newer_agent_takes_over(world):
    route = world.route()
    old = Agent(world.relay, "at_1").attach("l1")
    stream = Stream(old.session, route, "r")
    new = Agent(world.relay, "at_1").attach("l1")
    assert stream.told == [("another agent took over", True)]
    assert old.lost
    assert world.relay.sessions[route.lease_id] is new.session
    new.attach("l1")
    assert world.relay.sessions[route.lease_id] is new.session
    assert new.lost is None


def test_frames_reach_their_stream(world):
    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    stream = Stream(agent.session, route, "r")
    for frame in (
        RespHeaders("r", 200, []),
        RespBody("r", b"x"),
        RespEnd("r"),
        RespError("r", "CODE"),
        Window("r", 7),
        # Nobody's, and none of an agent's business:
        RespEnd("late"),
        RespBody("late", b"x"),
        ReqEnd("r"),
        AttachAck("me", []),
        WsClose("r"),
    ):
        agent.link.send(frame)
    assert stream.told == [200, b"x", "end", "CODE", 7]


def test_one_agent_cannot_answer_for_another(world):
    route = world.route("1")
    world.route("2")
    agent = Agent(world.relay, "at_1").attach("l1")
    other = Agent(world.relay, "at_2").attach("l2")
    stream = Stream(agent.session, route, "r")
    other.link.send(RespHeaders("r", 200, [], lease_id="l1"))
    assert stream.told == []


def test_a_malformed_frame_fails_its_request_only(world, refused):
    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    stream = Stream(agent.session, route, "r")
    agent.session.frame_failed(FrameError("bad", "other"))
    agent.session.frame_failed(FrameError("bad"))
    assert stream.told == []
    agent.session.frame_failed(FrameError("bad", "r"))
    # The agent does not know that it has failed, and is told.
    assert stream.told == [(502, "TUNNEL_ENDPOINT_UNREACHABLE", True)]
    assert refused() == ["a frame of an agent: 502 BAD_FRAME"] * 3


def test_a_lost_agent_ends_its_requests(world):
    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    stream = Stream(agent.session, route, "r")
    world.time += 9
    agent.link.close()
    assert stream.told == [("its connection was lost", False)]
    assert not route.connected
    assert route.last_seen_at == 5009
    agent.session.link_lost("again")


def test_the_links_pauses_reach_every_stream(world):
    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    streams = [Stream(agent.session, route, rid) for rid in "ab"]
    agent.session.pause_writing()
    assert agent.session.writing_paused
    agent.session.resume_writing()
    assert [stream.told for stream in streams] == [["pause", "resume"]] * 2


def test_a_link_that_is_full_again_lets_another_stream_begin_next_time(world):
    class Filling(Stream):
        def resume(self):
            super().resume()
            self.session.pause_writing()

    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    streams = [Filling(agent.session, route, rid) for rid in "abc"]
    for stream in streams:
        stream.session = agent.session
    first = []
    agent.session.pause_writing()
    for _ in range(6):
        agent.session.resume_writing()
        assert agent.session.writing_paused
        resumed = [stream for stream in streams if "resume" in stream.told]
        first += resumed
        assert len(resumed) == 1
        for stream in streams:
            stream.told.clear()
    assert len(set(map(id, first))) == 3


def test_closing_a_lease_ends_its_traffic_and_lets_the_agent_go(world):
    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    stream = Stream(agent.session, route, "r")
    world.relay.close("l1", "it was closed")
    world.relay.close("l1", "again")
    world.relay.close("unknown", "x")
    assert stream.told == [(410, "TUNNEL_LEASE_EXPIRED", True)]
    assert agent.lost
    assert not route.connected
    assert world.relay.by_prefix("/s/rt_1") is route
    assert route.closed_because == "it was closed"
    assert Agent(world.relay, "at_1").attach("l1").lost


def test_rotating_the_agents_token_cuts_off_who_has_the_old_one(world):
    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    stream = Stream(agent.session, route, "r")
    world.time += 9
    world.relay.rotate_agent("l1", "at_new")
    assert stream.told == [("the agent token was rotated", True)]
    assert agent.lost
    assert not route.connected
    assert route.last_seen_at == world.time
    assert not world.relay.admits("at_1")
    assert Agent(world.relay, "at_1").attach("l1").lost
    assert Agent(world.relay, "at_new").attach("l1").lost is None
    world.relay.rotate_agent("l1", "at_newer")
    assert not route.connected
    world.relay.rotate_agent("l1", "at_newest")
    world.relay.close("l1", "it was closed")
    world.relay.rotate_agent("l1", "at_1")
    assert route.agent_token == "at_newest"
    world.relay.rotate_agent("unknown", "x")


def test_rotating_the_worker_token(world):
    route = world.route(worker_token="wt_1")
    world.relay.rotate_worker("l1", "wt_2")
    assert route.worker_token == "wt_2"
    world.relay.close("l1", "it was closed")
    world.relay.rotate_worker("l1", "wt_3")
    assert route.worker_token == "wt_2"
    world.relay.rotate_worker("unknown", "x")


def test_an_agent_of_several_leases_keeps_the_others(world):
    one = world.route("1")
    two = Route(lease_id="l2", route_token="rt_2", agent_token="at_1")
    world.relay.add(two)
    agent = Agent(world.relay, "at_1").attach("l1", "l2")
    streams = [Stream(agent.session, route, route.lease_id) for route in (one, two)]
    world.relay.close("l1", "it was closed")
    assert streams[0].told
    assert streams[1].told == []
    assert agent.lost is None
    assert two.connected


def test_expiry_on_look_up(world):
    route = world.route(expires_at=6000.0)
    assert not world.relay.by_prefix("/s/rt_1").closed
    world.time = 6000.5
    assert world.relay.by_prefix("/s/rt_1") is route
    assert route.closed
    assert world.relay.by_lease("l1") is route


def test_remove(world):
    route = world.route()
    world.relay.remove("l1")
    world.relay.remove("l1")
    assert route.closed
    assert world.relay.by_prefix("/s/rt_1") is None
    assert world.relay.by_lease("l1") is None


def test_shut_down(world, loop):
    route = world.route()
    agent = Agent(world.relay, "at_1").attach("l1")
    world.relay.shut_down()
    assert route.closed
    assert agent.lost


def test_rids_are_unique(world, loop):
    other = Relay(loop=loop)
    rids = {relay.new_rid() for relay in (world.relay, other) for _ in range(1000)}
    assert len(rids) == 2000
