"""Which failed calls are sent again, and after how long. Loaded only where retries are on."""

from collections.abc import Callable
from typing import Final, TypedDict

import httpx
import tenacity

from .errors import (
    TunnelBackendError,
    TunnelConnectionError,
    TunnelError,
    TunnelTimeoutError,
    TunnelUnavailableError,
)
from .requests import Request, Retry

__all__ = ["MAX_WAIT_S", "async_retrying", "retrying", "worth_retrying"]

MAX_WAIT_S: Final = 30.0
"""A backend that asks for more patience than this is not waited for."""

_BACK_OFF = tenacity.wait_random_exponential(multiplier=0.1, max=2.0)


def retrying(request: Request, retries: int) -> tenacity.Retrying:
    """Return what calls a function until the call succeeds or may not be sent again.

    Args:
        request: the call.
        retries: how often it may be sent again.
    """
    return tenacity.Retrying(**_policy(request, retries))


def async_retrying(request: Request, retries: int) -> tenacity.AsyncRetrying:
    """Return the same as :func:`retrying` does, for a coroutine function."""
    return tenacity.AsyncRetrying(**_policy(request, retries))


class _Policy(TypedDict):
    retry: tenacity.retry_if_exception
    stop: tenacity.stop_after_attempt
    wait: Callable[[tenacity.RetryCallState], float]
    reraise: bool


def _policy(request: Request, retries: int) -> _Policy:
    return {
        "retry": tenacity.retry_if_exception(lambda error: worth_retrying(request, error)),
        "stop": tenacity.stop_after_attempt(retries + 1),
        "wait": _wait_s,
        "reraise": True,
    }


def worth_retrying(request: Request, error: BaseException) -> bool:
    """Whether the call may be sent again without anything happening twice."""
    if not isinstance(error, TunnelError):
        return False
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return True  # nothing left this machine
    wait_s = error.retry_after_s
    if wait_s is not None and wait_s > MAX_WAIT_S:
        return False
    if request.retry is Retry.NEVER:
        return False
    if error.status in (429, 503) and wait_s is not None:
        return True
    transient = (
        TunnelBackendError | TunnelConnectionError | TunnelTimeoutError | TunnelUnavailableError
    )
    return request.retry is Retry.KEYED and isinstance(error, transient)


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Return the pause before the next attempt, in seconds: at least what the backend asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, TunnelError) else None
    return (asked_s or 0.0) + (0.0 if asked_s == 0 else _BACK_OFF(state))
