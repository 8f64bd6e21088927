"""The error of ``synth_serve``."""

from ..sdk.hinted_error import HintedError

__all__ = ["ServeError"]


class ServeError(HintedError):
    """An application cannot be served.

    ``code`` is ``SERVE_NO_APP``, ``SERVE_EXTRA_MISSING``, ``SERVE_PORT_TAKEN``,
    ``SERVE_START_FAILED`` (the application's own exception is its cause) or
    ``SERVE_START_TIMEOUT``.
    """
