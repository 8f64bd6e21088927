"""Tell other plugins what happened to the run's leases."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from .hook_events import LeaseFacts

__all__ = ["HookCaller"]

_HOOKS = {
    "created": "pytest_synth_lease_created",
    "lost": "pytest_synth_lease_lost",
    "released": "pytest_synth_lease_released",
}
"""By kind of happening."""

_FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception)


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

    def tell(self, happenings: Iterable[Mapping[str, Any]]) -> list[str]:
        """Call the hook of each happening.

        Args:
            happenings: as the keeper's journal gave them.

        Returns:
            A line for each hook that raised an error for the first time: that neither ends the
            run nor keeps the next from being told.

        Raises:
            pytest.exit.Exception: a hook wants to end the run.
        """
        lines = []
        for happening in happenings:
            name = _HOOKS[happening["kind"]]
            values = {"config": self._config, "lease": LeaseFacts.from_json(happening["lease"])}
            if happening["kind"] == "lost":
                values["reason"] = happening["reason"]
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
