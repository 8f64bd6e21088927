"""Why a request of a process fails, as an exception inside the keeper."""

from .ipc.messages import Failure

__all__ = ["KeeperRequestError"]


class KeeperRequestError(Exception):
    """What a process asked for cannot be had.

    Args:
        code: stable, for programs.
        message: what went wrong, for people, without secrets.
        hint: what to do about it.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.failure = Failure(code=code, message=message, hint=hint)

    @classmethod
    def of(cls, failure: Failure) -> "KeeperRequestError":
        """Return a new error for a failure that was told before."""
        return cls(failure.code, failure.message, failure.hint)
