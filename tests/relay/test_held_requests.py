"""What waits for an agent, by lease."""

from pytest_synth_tunnels.relay.held_requests import HeldRequests


class Waiting:
    def release(self, session): ...
    def fail(self, failure): ...


def test_what_waits_is_kept_by_lease_in_order_of_arrival():
    held = HeldRequests()
    first, second, other = Waiting(), Waiting(), Waiting()
    held.add("l1", first)
    held.add("l2", other)
    held.add("l1", second)
    assert held.of("l1") == [first, second]
    assert held.count("l1") == 2
    assert held.of("l2") == [other]
    held.discard("l1", first)
    assert held.of("l1") == [second]


def test_nothing_is_left_of_a_lease_for_which_nothing_waits():
    held = HeldRequests()
    waiting = Waiting()
    held.discard("l1", waiting)
    held.add("l1", waiting)
    held.discard("l1", waiting)
    held.discard("l1", waiting)
    assert held.of("l1") == []
    assert held.count("l1") == 0
