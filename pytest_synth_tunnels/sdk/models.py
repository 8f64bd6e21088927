"""The SDK's few types. Standard library only."""

from enum import Enum
from typing import Final, SupportsIndex

__all__ = ["GATEWAY_PORT", "Secret", "TunnelProvider"]

GATEWAY_PORT: Final = 8016
"""The loopback port where a provider brings the traffic of managed leases, unless the lease names
another as ``gateway_port`` (protocol, section 4)."""


# A `StrEnum` would print its members differently from the published client's.
class TunnelProvider(str, Enum):  # noqa: UP042
    """The third-party providers of managed tunnels."""

    CLOUDFLARED = "cloudflared"
    NGROK = "ngrok"


class Secret(str):
    """A key or token: a string that works as one everywhere, and shows itself nowhere.

    Only its ``repr`` is masked, which is what tracebacks, assertion messages and debuggers print.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type["Secret"], tuple[str]]:
        return Secret, (str(self),)
