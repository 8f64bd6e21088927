import pytest

from pytest_synth_tunnels.keeper.leases.state import TRANSITIONS, LeaseState, LeaseStateMachine

S = LeaseState


def life_in(state: LeaseState) -> LeaseStateMachine:
    machine = LeaseStateMachine()
    if state in (S.LOST, S.EXPIRED, S.ACTIVE):
        machine.transition(S.ACTIVE)
    machine.transition(state, "the first cause")
    return machine


def test_the_table_covers_every_state() -> None:
    assert set(TRANSITIONS) == set(LeaseState)


def test_every_made_lease_can_be_released() -> None:
    for state in LeaseState:
        assert (S.RELEASED in TRANSITIONS[state]) == (state is not S.RELEASED)


@pytest.mark.parametrize("state", list(LeaseState))
@pytest.mark.parametrize("to", list(LeaseState))
def test_moves_only_as_the_table_says(state: LeaseState, to: LeaseState) -> None:
    machine = life_in(state)

    assert machine.transition(to) is (to in TRANSITIONS[state])
    assert machine.state is (to if to in TRANSITIONS[state] else state)


def test_no_news_is_taken_twice() -> None:
    machine = life_in(S.ACTIVE)

    assert machine.transition(S.LOST, "the backend closed it")
    assert not machine.transition(S.LOST, "again")
    assert not machine.transition(S.EXPIRED, "late")
    assert machine.reason == "the backend closed it"


def test_the_cause_survives_the_release() -> None:
    machine = life_in(S.LOST)

    assert machine.transition(S.RELEASED, "finished")
    assert machine.reason == "the first cause"


def test_is_over() -> None:
    assert {s for s in LeaseState if not life_in(s).is_over} == {S.PENDING, S.ACTIVE}
