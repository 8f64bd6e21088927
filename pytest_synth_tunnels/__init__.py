"""Tunnels for test suites: a public URL that forwards to the app under test.

The names here come on first use, so that ``import pytest_synth_tunnels`` costs nothing. The
fixtures are in :mod:`.plugin`, the SDK in :mod:`.sdk`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._version import __version__
    from .hook_events import LeaseFacts
    from .keeper.ipc.errors import KeeperError
    from .lease import ExposedLease, Lease
    from .sdk import (
        AsyncSynthClient,
        AsyncTunnelsClient,
        SynthClient,
        TunnelError,
        TunnelProvider,
        TunnelsClient,
    )
    from .serving import ServeError, Server
    from .settings import Settings

__all__ = [
    "AsyncSynthClient",
    "AsyncTunnelsClient",
    "ExposedLease",
    "KeeperError",
    "Lease",
    "LeaseFacts",
    "ServeError",
    "Server",
    "Settings",
    "SynthClient",
    "TunnelError",
    "TunnelProvider",
    "TunnelsClient",
    "__version__",
]

_HOMES = {
    "ExposedLease": ".lease",
    "KeeperError": ".keeper.ipc.errors",
    "Lease": ".lease",
    "LeaseFacts": ".hook_events",
    "ServeError": ".serving",
    "Server": ".serving",
    "Settings": ".settings",
    "__version__": "._version",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, ".sdk"), __name__), name)


def __dir__() -> list[str]:
    return __all__
