"""The error that the keeper's client raises."""

from ...sdk.errors import TunnelError

__all__ = ["KeeperError"]


class KeeperError(TunnelError):
    """The keeper cannot be reached, or it refused a request.

    ``code`` is ``KEEPER_NOT_STARTED``, ``KEEPER_DIED`` or, without an API key for a hosted backend,
    ``TUNNEL_AUTH_REQUIRED`` where no later request of this run can succeed; ``KEEPER_TIMEOUT`` or
    ``KEEPER_UNAVAILABLE`` where only this one failed; and else what the keeper said.
    """

    default_code = "KEEPER_UNAVAILABLE"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message
