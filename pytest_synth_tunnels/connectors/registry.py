"""Which class is the connector of a provider's name.

Built-in names come first, then those that the hook ``pytest_synth_tunnels_connectors`` gave, then
the entry points of installed packages. Nothing is imported but the class that is asked for.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, cast

from .base import Connector, ConnectorError

__all__ = ["BUILT_IN", "GROUP", "known_names", "load"]

GROUP: Final = "synth_tunnels.connectors"
"""The entry points' group."""

_HERE: Final = __name__.rpartition(".")[0]

BUILT_IN: Final[Mapping[str, str]] = {
    "cloudflared": f"{_HERE}.cloudflared:CloudflaredConnector",
    "cloudflared-quick": f"{_HERE}.cloudflared_quick:CloudflaredQuickConnector",
    "loopback": f"{_HERE}.loopback:LoopbackConnector",
    "ngrok": f"{_HERE}.ngrok:NgrokConnector",
}
"""Name → ``module:Class``."""

_METHODS: Final = {"start": True, "ready": True, "status": False, "stop": True, "logs": False}
"""Name → whether it is asynchronous."""
_FLAGS: Final = ("brings_url", "is_public")


def known_names(registered: Mapping[str, str]) -> list[str]:
    """Return all names that :func:`load` knows, sorted.

    Args:
        registered: name → ``module:Class``, from the hook.
    """
    return sorted({*BUILT_IN, *registered, *entry_points(group=GROUP).names})


def load(name: str, registered: Mapping[str, str]) -> type[Connector]:
    """Return the connector class of a name.

    Args:
        name: ``cloudflared``, for example.
        registered: name → ``module:Class``, from the hook.

    Raises:
        ConnectorError: there is none, it cannot be imported, or it lacks something.
    """
    place = BUILT_IN.get(name, registered.get(name))
    if place is None:
        place = _entry_point(name)
    if place is None:
        raise ConnectorError(
            f"no connector is called {name!r}", f"Known are {', '.join(known_names(registered))}"
        )
    found = _import(name, place)
    lacking = _lacking(found)
    if lacking:
        raise ConnectorError(
            f"the connector {name!r} ({place}) is incomplete: {', '.join(lacking)}",
            f"See {_HERE}.base.Connector for what one needs",
        )
    return cast("type[Connector]", found)


def _entry_point(name: str) -> str | None:
    return next((point.value for point in entry_points(group=GROUP, name=name)), None)


def _import(name: str, place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever somebody else's module does when it is imported
        raise ConnectorError(
            f"the connector {name!r} cannot be imported from {place!r}: "
            f"{type(error).__name__}: {error}",
            "It must be module:Class, importable with the sys.path of the test run",
        ) from error
    return found


def _lacking(found: Any) -> list[str]:
    if not inspect.isclass(found):
        return ["it is no class"]
    lacking = [
        f"{flag} is not True or False"
        for flag in _FLAGS
        if not isinstance(getattr(found, flag, None), bool)
    ]
    for method, is_async in _METHODS.items():
        function = getattr(found, method, None)
        if not callable(function):
            lacking.append(f"{method}() is missing")
        elif is_async and not inspect.iscoroutinefunction(function):
            lacking.append(f"{method}() is not async")
    return lacking
