"""The error with which the keeper answers a request that it cannot fulfil."""

from typing import Self

from ..sdk.hinted_error import HintedError

__all__ = ["KeeperRequestError"]


class KeeperRequestError(HintedError):
    """What a process asked for cannot be had; see :class:`~..sdk.hinted_error.HintedError`."""

    def renewed(self) -> Self:
        """Return an equal error without a traceback, for another one who waits."""
        return type(self)(self.code, self.message, self.hint)
