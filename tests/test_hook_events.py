from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels.hook_events import HookCaller, LeaseFacts

LEASE: dict[str, Any] = {
    "lease_id": "lease_1",
    "provider": "synthtunnel",
    "backend": "http://127.0.0.1:1",
    "local_host": "127.0.0.1",
    "local_port": 8000,
    "public_url": None,
    "created_at": 1_000_000_000.5,
    "ended_at": None,
}
NAMES = ("pytest_synth_lease_created", "pytest_synth_lease_lost", "pytest_synth_lease_released")


class Hook:
    def __init__(self, implementation: Callable[..., None] | None) -> None:
        self._implementation = implementation

    def get_hookimpls(self) -> list[object]:
        return [] if self._implementation is None else [self._implementation]

    def __call__(self, **values: Any) -> None:
        if self._implementation is not None:
            self._implementation(**values)


def config(**hooks: Callable[..., None]) -> Any:
    return SimpleNamespace(hook=SimpleNamespace(**{n: Hook(hooks.get(n)) for n in NAMES}))


def event(kind: str, reason: str = "", **lease: Any) -> dict[str, Any]:
    return {"kind": kind, "lease": {**LEASE, **lease}, "reason": reason}


def test_each_is_told_to_its_hook() -> None:
    told: list[dict[str, Any]] = []
    given = config(**{name: lambda **values: told.append(values) for name in NAMES})

    lines = HookCaller(given).tell(
        [event("created"), event("lost", "gone", ended_at=1_000_000_010.0)]
    )

    assert lines == []
    created, lost = told
    assert created.keys() == {"config", "lease"}
    assert created["lease"] == LeaseFacts(
        **LEASE | {"created_at": datetime(2001, 9, 9, 1, 46, 40, 500_000, UTC)}
    )
    assert lost["config"] is given
    assert lost["reason"] == "gone"
    assert lost["lease"].ended_at == datetime(2001, 9, 9, 1, 46, 50, tzinfo=UTC)


def test_whether_anybody_wants_to_know() -> None:
    assert not HookCaller(config()).is_wanted
    assert HookCaller(config(pytest_synth_lease_lost=lambda **_: None)).is_wanted


def test_an_error_is_told_once_and_the_next_lease_is_told_all_the_same() -> None:
    calls: list[str] = []

    def fail(lease: LeaseFacts, **_: Any) -> None:
        calls.append(lease.lease_id)
        raise OSError("no disk")

    caller = HookCaller(config(pytest_synth_lease_created=fail))
    lines = caller.tell([event("created"), event("created", lease_id="lease_2")])
    lines += caller.tell([event("created", lease_id="lease_3")])

    assert calls == ["lease_1", "lease_2", "lease_3"]
    assert len(lines) == 1
    assert lines[0].startswith(
        "pytest_synth_lease_created failed: OSError: no disk (test_hook_events"
    )


def test_a_hook_may_end_the_run() -> None:
    def end(**_: Any) -> None:
        pytest.exit("enough")

    with pytest.raises(pytest.exit.Exception, match="enough"):
        HookCaller(config(pytest_synth_lease_lost=end)).tell([event("lost")])
