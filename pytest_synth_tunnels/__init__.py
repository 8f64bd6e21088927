"""Tunnels for test suites: a public URL that forwards to the app under test.

The names here come on first use, so that ``import pytest_synth_tunnels`` costs nothing. The
fixtures are in :mod:`.plugin`, the SDK in :mod:`.sdk`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._version import __version__
    from .fixture_types import SynthExpose, SynthServe
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
    from .synth_inbox import Inbox
    from .synth_traffic import Expectation, Traffic
    from .traffic.exchange import InboundRequest, Response, TruncatedBodyError, WebSocketMessage
    from .traffic.matching import Matcher, match

__all__ = [
    "AsyncSynthClient",
    "AsyncTunnelsClient",
    "Expectation",
    "ExposedLease",
    "InboundRequest",
    "Inbox",
    "KeeperError",
    "Lease",
    "LeaseFacts",
    "Matcher",
    "Response",
    "ServeError",
    "Server",
    "Settings",
    "SynthClient",
    "SynthExpose",
    "SynthServe",
    "Traffic",
    "TruncatedBodyError",
    "TunnelError",
    "TunnelProvider",
    "TunnelsClient",
    "WebSocketMessage",
    "__version__",
    "match",
]

_HOMES = {
    "ExposedLease": ".lease",
    "KeeperError": ".keeper.ipc.errors",
    "Lease": ".lease",
    "LeaseFacts": ".hook_events",
    "ServeError": ".serving",
    "Server": ".serving",
    "Settings": ".settings",
    "SynthExpose": ".fixture_types",
    "SynthServe": ".fixture_types",
    "Expectation": ".synth_traffic",
    "InboundRequest": ".traffic.exchange",
    "Inbox": ".synth_inbox",
    "Matcher": ".traffic.matching",
    "Response": ".traffic.exchange",
    "Traffic": ".synth_traffic",
    "TruncatedBodyError": ".traffic.exchange",
    "WebSocketMessage": ".traffic.exchange",
    "match": ".traffic.matching",
    "__version__": "._version",
}


if not TYPE_CHECKING:  # a type checker that saw it would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES.get(name, ".sdk"), __name__), name)


def __dir__() -> list[str]:
    return __all__
