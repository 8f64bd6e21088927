"""The SDK's few types. Standard library only."""

from enum import Enum
from typing import SupportsIndex

__all__ = ["Secret", "TunnelProvider"]


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
