"""Links on which frames wait until they are delivered, or something worse happens to them."""

from collections import Counter, deque
from typing import TYPE_CHECKING

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.wire.codec import decode, encode
from pytest_synth_tunnels.wire.frames import (
    WINDOW_BYTES,
    AgentCapabilities,
    ConnClosed,
    Frame,
    FrameError,
    ReqBody,
    ReqHeaders,
    RespBody,
    Window,
    WsFrame,
    WsOpen,
    in_pieces,
)
from pytest_synth_tunnels.wire.link import LinkHandler

from .apps import ManualOrigin
from .wires import PIECE_BYTES

if TYPE_CHECKING:
    from .world import World

WALL_S = 1_000_000.0
"""The wall clock when the loop's is 0."""


def rid_of(frame: Frame) -> str:
    """Return the request that a frame belongs to, or the caller's connection."""
    return frame.conn if isinstance(frame, ConnClosed) else frame.rid


class End:
    """One end of a :class:`Wiring` (a :class:`~.link.Link`)."""

    def __init__(self, wiring: "Wiring", queue: deque[Frame | None], *, sends_answers: bool):
        self.reading = True
        """The other end's frames are wanted."""
        self._wiring = wiring
        self._queue = queue
        self._sends_answers = sends_answers
        self.under_way: Counter[str] = Counter()
        """Body bytes sent and not yet credited, by rid."""

    def send(self, frame: Frame, *, at_once: bool = False) -> None:
        for piece in [frame] if self._wiring.whole_messages else in_pieces(frame):
            self._send(piece)

    def _send(self, frame: Frame) -> None:
        if self._wiring.closed:
            return
        world = self._wiring.world
        assert decode(encode(frame)) == frame
        if isinstance(frame, RespBody | ReqBody | WsFrame):
            if isinstance(frame, WsFrame):
                data = frame.data
            else:
                data = frame.chunk
                assert isinstance(frame, RespBody) is self._sends_answers
            self.under_way[frame.rid] += len(data)
            if self._wiring.flow_control:
                # The read in which the window ends may go beyond it, and so may what was read
                # before the request had an agent.
                allowed = WINDOW_BYTES + 2 * PIECE_BYTES
                if self.under_way[frame.rid] > allowed and frame.rid not in world.repeated:
                    world.wrong.append(f"{frame.rid} goes beyond its window")
        self._queue.append(frame)

    def close(self, code: int = 1000, reason: str = "") -> None:
        if not self._wiring.closed:
            self._wiring.closed = True
            self._wiring.incoming(self).clear()
            self._queue.append(None)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Wiring:
    """A link on which frames wait until they are delivered, or something worse happens to them."""

    def __init__(self, world: "World", lease: "Lease") -> None:
        self.world = world
        self.flow_control = lease.capabilities.flow_control
        self.whole_messages = lease.capabilities.whole_messages
        self.closed = False
        """No frames are taken any more; those under way still arrive."""
        self.left = False
        """The agent knows that it is closed."""
        self.over = False
        """Both ends know."""
        self.to_agent: deque[Frame | None] = deque()
        self.to_relay: deque[Frame | None] = deque()
        self.relay_end = End(self, self.to_agent, sends_answers=False)
        self.agent_end = End(self, self.to_relay, sends_answers=True)
        self.held = {False: False, True: False}
        """Frames wait: to the agent, to the relay."""
        self.garbles = {False: False, True: False}
        """The next frame arrives malformed: at the agent, at the relay."""
        self.paused = {False: False, True: False}
        """Whose buffer is full: the relay's, the agent's."""
        self.past: deque[tuple[bool, Frame]] = deque(maxlen=30)
        """What was delivered of late, and whether it went to the relay."""
        self.session = world.relay.session(self.relay_end, lease.route.agent_token)
        self.agent = lease.agent
        attach = lease.agent.attach_frame()
        attach.capabilities = lease.capabilities
        ack = self.session.attach(attach)
        if not ack.accepted_leases:
            self.closed = self.left = self.over = True
            return
        assert ack.capabilities.flow_control is lease.capabilities.flow_control
        assert ack.capabilities.whole_messages is lease.capabilities.whole_messages
        lease.agent.connected(self.agent_end, ack.capabilities)

    def handler(self, to_relay: bool) -> LinkHandler:
        return self.session if to_relay else self.agent

    def incoming(self, end: End) -> deque[Frame | None]:
        """Return what is on its way to an end."""
        return self.to_relay if end is self.relay_end else self.to_agent

    def deliver(self, to_relay: bool, limit: int, *, nth_rid: int = 0) -> bool:
        """Deliver frames in order.

        Args:
            to_relay: which way.
            limit: how many.
            nth_rid: leave as many requests behind: only frames of the next one go.
        """
        queue = self.to_relay if to_relay else self.to_agent
        end = self.relay_end if to_relay else self.agent_end
        moved = False
        wanted = ""
        if nth_rid:
            rids = list(dict.fromkeys(rid_of(frame) for frame in queue if frame is not None))
            if nth_rid >= len(rids):
                return False
            wanted = rids[nth_rid]
        for _ in range(limit):
            if not queue or not end.reading:
                break
            at = 0
            if wanted:
                found = [n for n, frame in enumerate(queue) if frame and rid_of(frame) == wanted]
                if not found:
                    break
                at = found[0]
            frame = queue[at]
            del queue[at]
            moved = True
            if frame is None:
                self.left = self.over = True
                self.handler(to_relay).link_lost("closed")
                break
            self._arrive(to_relay, frame)
        return moved

    def repeat(self, nth: int) -> None:
        """Deliver something again that was delivered before."""
        if self.past and not self.closed:
            to_relay, frame = self.past[nth % len(self.past)]
            self.world.spoil(frame.rid)
            self.world.repeated.add(frame.rid)
            self.handler(to_relay).frame_received(frame)

    def fill(self, from_agent: bool, full: bool) -> None:
        """Let the buffer of one end be full, or empty again."""
        paused = self.paused[from_agent]
        if self.closed or paused is full:
            return
        self.paused[from_agent] = full
        handler = self.handler(not from_agent)
        if full:
            handler.pause_writing()
        else:
            handler.resume_writing()

    def cut(self, *, relay_knows: bool) -> None:
        """Lose the link with all that is on it.

        Args:
            relay_knows: else the relay hears of it later, by :meth:`deliver`.
        """
        if self.left:
            return
        self.closed = self.left = True
        self.to_agent.clear()
        self.to_relay.clear()
        if relay_knows:
            self.over = True
            self.session.link_lost("cut")
        else:
            self.to_relay.append(None)
            self.relay_end.reading = True
        self.agent.link_lost("cut")

    def _arrive(self, to_relay: bool, frame: Frame) -> None:
        if isinstance(frame, ReqHeaders | WsOpen):
            self.world.tags[frame.rid] = frame.path.removeprefix("/")
        if isinstance(frame, Window):
            sender = self.agent_end if not to_relay else self.relay_end
            sender.under_way[frame.rid] -= frame.credit_bytes
            assert sender.under_way[frame.rid] >= 0 or frame.rid in self.world.repeated
        if isinstance(frame, ConnClosed):
            self.handler(to_relay).frame_received(frame)
            return
        if self.garbles[to_relay]:
            self.garbles[to_relay] = False
            self.world.spoil(frame.rid)
            self.handler(to_relay).frame_failed(FrameError("malformed", frame.rid))
            return
        self.past.append((to_relay, frame))
        self.handler(to_relay).frame_received(frame)


class Lease:
    """A lease, the agent that serves it, and the link between them, if there is one."""

    def __init__(
        self,
        world: "World",
        name: str,
        capabilities: AgentCapabilities,
        max_body_bytes: int | None,
    ) -> None:
        self.world = world
        self.capabilities = capabilities
        """What the agent says of itself."""
        self.max_body_bytes = max_body_bytes
        """Of requests and of answers."""
        limits = Limits(max_inflight=3, max_websocket_streams=2)
        if max_body_bytes is not None:
            limits.max_request_bytes = limits.max_response_bytes = max_body_bytes
        self.route = Route(
            lease_id=f"lease-{name}",
            route_token=f"rt_{name}",
            agent_token=f"at_{name}",
            worker_token=f"wt_{name}",
            public_base_url="http://relay.test",
            expires_at=WALL_S + 100_000,
            limits=limits,
        )
        world.relay.add(self.route)
        with world.running():
            self.agent = Agent(agent_id=name, timeout_s=60, patience_s=1)
            # They dial no real connections.
            self.agent.leases.make_pool = type("Dialled", (ManualOrigin,), {"world": world})
            self.agent.leases.serve(self.route.lease_id, self.route.public_url)
            self.agent.leases.set_target(self.route.lease_id, "", Target("127.0.0.1", 8000))
        (self.origin,) = self.agent.leases.pools
        self.origin.limit_bytes = limits.max_response_bytes
        self.accepting = True
        """The app takes connections."""
        self.wirings: list[Wiring] = []
        """The last one is the agent's; the relay may not know yet that the others are dead."""

    def attach(self) -> None:
        """Let the agent dial again; it does so only where it knows of no link."""
        self.wirings = [wiring for wiring in self.wirings if not wiring.over]
        if not self.wirings or self.wirings[-1].left:
            self.wirings.append(Wiring(self.world, self))

    def pump(self) -> bool:
        """Let frames and new connections flow, where nothing holds them up."""
        moved = False
        for wiring in list(self.wirings):
            for to_relay, held in wiring.held.items():
                if not held:
                    moved |= wiring.deliver(to_relay, 1_000)
        if self.accepting and self.origin.wanted:
            self.origin.accept()
            moved = True
        return moved
