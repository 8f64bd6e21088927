"""The hooks that tell other plugins what happened to the run's leases, and what they are told."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from ._unpatched import unpatched

__all__ = ["HookCaller", "LeaseFacts"]

_HOOKS = {
    "created": "pytest_synth_lease_created",
    "lost": "pytest_synth_lease_lost",
    "released": "pytest_synth_lease_released",
}
"""By the kind of event."""

_FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFacts:
    """A lease as it was when something happened to it. Without secrets, so that it may be logged.

    Attributes:
        lease_id: the backend's name for it, when it began; the same in every hook.
        provider: what gives it its public URL.
        backend: the backend's URL.
        local_host: the host that it was asked for with.
        local_port: the port that it was asked for with. Under pytest-xdist the run's lease leads
            to a port of each worker besides.
        public_url: where its callers come, without a worker's address. ``None`` where the URL
            alone is enough to get through (a public provider, ``require_token=False``): there it
            is the only secret, and what hooks learn ends up in logs.
        created_at: when it began to carry traffic, in UTC.
        ended_at: when it was lost or released, in UTC; ``None`` before.
    """

    lease_id: str
    provider: str
    backend: str
    local_host: str
    local_port: int
    public_url: str | None
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LeaseFacts":
        """Read what the keeper's journal gave."""
        ended_at = values["ended_at"]
        times = {
            "created_at": _moment(values["created_at"]),
            "ended_at": None if ended_at is None else _moment(ended_at),
        }
        return cls(**{**values, **times})


def _moment(unix_s: float) -> datetime:
    # The real class: a test may have frozen the one in the module.
    return unpatched.datetime.fromtimestamp(unix_s, UTC)


class HookCaller:
    """Calls the hooks of one run, in its owner.

    Args:
        config: whose hooks are called.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: set[str] = set()
        """The hooks that raised an error, of which the first is enough."""

    @property
    def is_wanted(self) -> bool:
        """Whether anybody implements one of the hooks."""
        hooks = (getattr(self._config.hook, name) for name in _HOOKS.values())
        return any(hook.get_hookimpls() for hook in hooks)

    def tell(self, events: Iterable[Mapping[str, Any]]) -> list[str]:
        """Call the hook of each event.

        Args:
            events: as the keeper's journal gave them.

        Returns:
            A line for each hook that raised an error for the first time: that neither ends the
            run nor keeps the next from being told.

        Raises:
            pytest.exit.Exception: a hook wants to end the run.
        """
        lines = []
        for event in events:
            name = _HOOKS[event["kind"]]
            values = {"config": self._config, "lease": LeaseFacts.from_json(event["lease"])}
            if event["kind"] == "lost":
                values["reason"] = event["reason"]
            try:
                getattr(self._config.hook, name)(**values)
            except pytest.exit.Exception:
                raise
            except _FAILURES as error:
                if name not in self._failed:
                    self._failed.add(name)
                    lines.append(f"{name} failed: {_describe(error)}")
        return lines


def _describe(error: BaseException) -> str:
    # Where it was raised, without the frames of pytest's own fail().
    place = pytest.ExceptionInfo.from_exception(error).getrepr(style="native").reprcrash
    where = f" ({os.path.basename(place.path)}:{place.lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}"
