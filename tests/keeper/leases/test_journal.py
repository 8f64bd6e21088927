import json
from typing import Any

from pytest_synth_tunnels.keeper.ipc.messages import MAX_LINE_BYTES
from pytest_synth_tunnels.keeper.leases.journal import Journal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def created(journal: Journal, lease_id: str = "lease_1", **facts: Any) -> None:
    journal.created(
        lease_id,
        **{
            "lease_id": lease_id,
            "provider": "synthtunnel",
            "backend": "http://127.0.0.1:1",
            "local_host": "127.0.0.1",
            "local_port": 8000,
            "public_url": "http://127.0.0.1:1/s/rt_1",
        }
        | facts,
    )


def test_a_life_is_told_in_order_and_once() -> None:
    clock = Clock()
    journal = Journal(clock)

    created(journal)
    clock.now = 110.0
    journal.lost("lease_1", "the backend says that it is over")
    clock.now = 120.0
    journal.released("lease_1")

    first, second, third = journal.drain()
    assert first == {
        "kind": "created",
        "lease": {
            "lease_id": "lease_1",
            "provider": "synthtunnel",
            "backend": "http://127.0.0.1:1",
            "local_host": "127.0.0.1",
            "local_port": 8000,
            "public_url": "http://127.0.0.1:1/s/rt_1",
            "created_at": 100.0,
            "ended_at": None,
        },
        "reason": "",
    }
    assert (second["kind"], second["reason"]) == ("lost", "the backend says that it is over")
    # The time that it carried traffic ended with the loss.
    assert (second["lease"]["ended_at"], third["lease"]["ended_at"]) == (110.0, 110.0)
    assert (third["kind"], third["reason"]) == ("released", "")
    assert journal.drain() == []


def test_a_lease_keeps_its_first_name() -> None:
    journal = Journal()
    key = object()
    facts: Any = {"provider": "ngrok", "backend": "", "local_host": "", "local_port": 1}

    journal.created(key, lease_id="lease_1", public_url=None, **facts)
    journal.released(key)

    assert [one["lease"]["lease_id"] for one in journal.drain()] == ["lease_1", "lease_1"]


def test_what_is_told_twice_or_never_began_is_no_news() -> None:
    journal = Journal()
    journal.lost("lease_0", "gone")
    journal.released("lease_0")
    created(journal)
    journal.lost("lease_1", "gone")
    journal.lost("lease_1", "gone again")
    journal.released("lease_1")
    journal.released("lease_1")

    assert [happening["kind"] for happening in journal.drain()] == ["created", "lost", "released"]


def test_the_oldest_is_forgotten_and_the_rest_fits_into_one_line() -> None:
    journal = Journal()
    for number in range(2000):
        created(journal, f"lease_{number:032}", public_url="http://127.0.0.1:1/s/rt_" + 40 * "x")
        journal.lost(f"lease_{number:032}", 10_000 * "x")
        journal.released(f"lease_{number:032}")

    events = journal.drain()

    assert len(events) == 1000
    assert events[-1]["lease"]["lease_id"].endswith("1999")
    assert len(json.dumps(events)) < MAX_LINE_BYTES / 2
