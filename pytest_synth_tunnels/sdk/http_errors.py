"""The errors that the HTTP clients raise: those of :mod:`.errors` that are httpx exceptions too.

So ``except httpx.HTTPStatusError`` and ``except httpx.ConnectError`` go on working, with
``.request`` and ``.response``, in code that was written for the published client.
"""

import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from .errors import (
    TunnelAnswerError,
    TunnelConnectionError,
    TunnelError,
    TunnelRequestError,
    TunnelTimeoutError,
    excerpt,
    from_status,
)
from .requests import Request

__all__ = ["from_transport", "read_answer"]


def read_answer(response: httpx.Response, request: Request, *, origin: str, secret: str) -> Any:
    """Return the JSON of a success; an empty body counts as ``{}``.

    Args:
        response: the answer, with its body.
        request: what was asked.
        origin: of whom.
        secret: the API key, which no message shows.

    Raises:
        TunnelError: it is no success, or not what the call answers.
    """
    where = f"{request} of {origin}"
    if not response.is_success:
        raise _with_httpx(
            from_status(
                response.status_code,
                _json_object(response),
                where=where,
                retry_after_s=_retry_after_s(response.headers.get("retry-after", "")),
                request_id=response.headers.get("x-request-id"),
                secret=secret,
            ),
            httpx.HTTPStatusError,
            request=response.request,
            response=response,
        )
    if not response.content:
        return {}
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        # The body is not shown: half an answer may hold a token.
        kind = excerpt(response.headers.get("content-type", "an unknown type"), secret)
        raise TunnelAnswerError(
            f"{where} answered {response.status_code} with {kind} that is not JSON",
            status=response.status_code,
            hint="Check that the backend URL is that of a Synth backend.",
        ) from None
    # A backend may wrap a list into an object; the published client would pass that on.
    if not isinstance(answer, dict | list if request.many else dict):
        raise TunnelAnswerError(
            f"{where} answered {response.status_code} with a JSON {type(answer).__name__} "
            f"instead of {'a list' if request.many else 'an object'}",
            status=response.status_code,
        )
    return answer


def from_transport(
    error: httpx.RequestError | httpx.InvalidURL,
    request: Request,
    *,
    origin: str,
    secret: str,
    timeout_s: float,
) -> TunnelError:
    """Make an error of a call that got no answer, of the same httpx class.

    Args:
        error: what httpx raised.
        request: what was asked.
        origin: of whom.
        secret: the API key, which no message shows.
        timeout_s: how long the client waits, in seconds.
    """
    reason = excerpt(str(error) or type(error).__name__, secret)
    where = excerpt(f"{request} of {origin}")
    own: TunnelError
    match error:
        case httpx.InvalidURL():
            own = TunnelRequestError(f"{where}: the id does not fit into a URL ({reason})")
        case httpx.ConnectTimeout():
            own = TunnelTimeoutError(f"{where}: no connection within {timeout_s:g} s")
        case httpx.TimeoutException():
            own = TunnelTimeoutError(f"{where}: no answer within {timeout_s:g} s")
        case httpx.ConnectError():
            own = TunnelConnectionError(f"{where}: cannot connect ({reason})")
        case httpx.DecodingError():
            own = TunnelAnswerError(f"{where} answered with a broken encoding ({reason})")
        case _:
            own = TunnelConnectionError(f"{where}: the connection broke ({reason})")
    sent = None if isinstance(error, httpx.InvalidURL) else error.request
    return _with_httpx(own, type(error), request=sent)


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after_s(value: str) -> float | None:
    """Read a ``Retry-After`` header, in seconds or as a date."""
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _with_httpx(
    error: TunnelError,
    http: type[Exception],
    *,
    request: httpx.Request | None,
    response: httpx.Response | None = None,
) -> TunnelError:
    """Return ``error`` as one that is an ``http`` as well."""
    extra = {"_request": request} | ({} if response is None else {"response": response})
    return _rebuild(type(error), http, error.message, vars(error) | extra)


def _rebuild(
    kind: type[TunnelError], http: type[Exception], message: str, state: dict[str, Any]
) -> TunnelError:
    error = _mixed(kind, http)(message)
    vars(error).update(state)
    return error


_MIXED: dict[tuple[type[TunnelError], type[Exception]], type[TunnelError]] = {}


def _mixed(kind: type[TunnelError], http: type[Exception]) -> type[TunnelError]:
    """Return the class that is both; one for each pair, made when it is first needed."""
    if (kind, http) not in _MIXED:

        def reduce(self: TunnelError) -> tuple[Any, ...]:
            # Pickle finds classes by name, and this one shares its name with `kind`.
            return _rebuild, (kind, http, self.message, vars(self))

        names = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce__": reduce,
        }
        _MIXED[kind, http] = type(kind.__name__, (kind, http), names)
    return _MIXED[kind, http]
