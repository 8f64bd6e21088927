"""The Synth tunnels SDK. Needs no pytest.

Its names are loaded when they are first used, because httpx takes longer to import than many a
test takes to run.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .async_client import AsyncSynthClient, AsyncTunnelsClient
    from .client import SynthClient, TunnelsClient
    from .errors import (
        TunnelAnswerError,
        TunnelAuthError,
        TunnelBackendError,
        TunnelConfigError,
        TunnelConflictError,
        TunnelConnectionError,
        TunnelError,
        TunnelExpiredError,
        TunnelNotFoundError,
        TunnelRequestError,
        TunnelTimeoutError,
        TunnelUnavailableError,
    )
    from .identity import client_instance_id
    from .models import TunnelProvider

__all__ = [
    "AsyncSynthClient",
    "AsyncTunnelsClient",
    "SynthClient",
    "TunnelAnswerError",
    "TunnelAuthError",
    "TunnelBackendError",
    "TunnelConfigError",
    "TunnelConflictError",
    "TunnelConnectionError",
    "TunnelError",
    "TunnelExpiredError",
    "TunnelNotFoundError",
    "TunnelProvider",
    "TunnelRequestError",
    "TunnelTimeoutError",
    "TunnelUnavailableError",
    "TunnelsClient",
    "client_instance_id",
]

_MODULES = {
    "AsyncSynthClient": "async_client",
    "AsyncTunnelsClient": "async_client",
    "SynthClient": "client",
    "TunnelsClient": "client",
    "TunnelProvider": "models",
    "client_instance_id": "identity",
}


if not TYPE_CHECKING:  # a type checker that saw it would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f".{_MODULES.get(name, 'errors')}", __name__)
        value: object = getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
