"""Everybody who carries requests."""

from ours import (
    Embedded,
    EmbeddedCompiled,
    EmbeddedCompiledUnrecorded,
    EmbeddedCompiledUvloop,
    EmbeddedUnrecorded,
    EmbeddedUvloop,
    OwnAgent,
    OwnAgentCompiled,
    OwnAgentCompiledUvloop,
    OwnAgentUvloop,
    PublishedAgent,
    RustAgent,
)
from peers import AioWsTunnel, Contender, Direct, Forwarder, LocalTunnel, Ssh

__all__ = ["KEYS", "contenders"]

_ALL: dict[str, type[Contender]] = {
    "direct": Direct,
    "forwarder": Forwarder,
    "embedded": Embedded,
    "embedded-uvloop": EmbeddedUvloop,
    "embedded-unrecorded": EmbeddedUnrecorded,
    "embedded-compiled": EmbeddedCompiled,
    "embedded-compiled-uvloop": EmbeddedCompiledUvloop,
    "embedded-compiled-unrecorded": EmbeddedCompiledUnrecorded,
    "websocket": OwnAgent,
    "websocket-uvloop": OwnAgentUvloop,
    "websocket-compiled": OwnAgentCompiled,
    "websocket-compiled-uvloop": OwnAgentCompiledUvloop,
    "rust": RustAgent,
    "containers": PublishedAgent,
    "ssh": Ssh,
    "aiowstunnel": AioWsTunnel,
    "localtunnel": LocalTunnel,
}
KEYS = tuple(_ALL)
"""How the command line names them."""


def contenders(keys: list[str] | None = None) -> list[Contender]:
    """Return new ones, all or those with these keys; the app itself is always there."""
    return [make() for key, make in _ALL.items() if not keys or key in (*keys, "direct")]
