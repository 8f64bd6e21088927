"""What can go wrong with a call, and what to do about it. Without httpx.

::

    TunnelError
    ├── TunnelConfigError (a ValueError)  no API key, or a backend URL that cannot be used
    ├── TunnelAuthError                   the backend does not accept the key
    ├── TunnelRequestError                the backend refuses the arguments
    ├── TunnelNotFoundError               no such tunnel or lease
    ├── TunnelConflictError               it clashes with something that exists
    ├── TunnelExpiredError                the lease is over
    ├── TunnelUnavailableError            not now: a limit is reached, or no agent is attached
    ├── TunnelConnectionError             the backend, or what is behind it, cannot be reached
    ├── TunnelTimeoutError                no answer in time
    └── TunnelBackendError                the backend failed
        └── TunnelAnswerError (a ValueError)  it answered something that is no answer

What the HTTP clients raise is, besides, the matching httpx exception: see :mod:`.http_errors`.
``code`` is one of :data:`~pytest_synth_tunnels.sdk.errors.CODES` and does not change between
versions.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from .hinted_error import HintedError

__all__ = [
    "CODES",
    "TunnelAnswerError",
    "TunnelAuthError",
    "TunnelBackendError",
    "TunnelConfigError",
    "TunnelConflictError",
    "TunnelConnectionError",
    "TunnelError",
    "TunnelExpiredError",
    "TunnelNotFoundError",
    "TunnelRequestError",
    "TunnelTimeoutError",
    "TunnelUnavailableError",
    "excerpt",
    "from_status",
]

_MAX_EXCERPT = 300


class TunnelError(HintedError):
    """Base of all errors of this SDK. Holds no secret.

    Attributes:
        message: what happened, in a sentence.
        code: for programs; one of :data:`~pytest_synth_tunnels.sdk.errors.CODES`.
        status: the HTTP status of the answer, or ``None`` where there was none.
        request_id: the backend's name for the request, or ``None``.
        hint: what to do next; may be empty.
        retry_after_s: when the backend said to come back, in seconds, or ``None``.
    """

    default_code = "TUNNEL_INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        code = code or self.default_code
        # Not super(): subclasses mix in httpx exceptions, whose initialisers want other things.
        HintedError.__init__(self, code, message, CODES.get(code, "") if hint is None else hint)
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        hint = f" {self.hint}" if self.hint else ""
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message.rstrip('.')}.{hint} [{self.code}{request}]"


class TunnelConfigError(TunnelError, ValueError):
    """There is no API key, or the backend's URL cannot be used."""

    default_code = "TUNNEL_URL_INVALID"


class TunnelAuthError(TunnelError):
    """The backend does not accept the API key."""

    default_code = "TUNNEL_AUTH_INVALID"


class TunnelRequestError(TunnelError):
    """The backend refuses the arguments of the call."""

    default_code = "TUNNEL_REQUEST_INVALID"


class TunnelNotFoundError(TunnelError):
    """The backend knows no such tunnel or lease."""

    default_code = "TUNNEL_NOT_FOUND"


class TunnelConflictError(TunnelError):
    """The call clashes with something that exists."""

    default_code = "TUNNEL_CONFLICT"


class TunnelExpiredError(TunnelError):
    """The lease is over."""

    default_code = "TUNNEL_LEASE_EXPIRED"


class TunnelUnavailableError(TunnelError):
    """It cannot be done now; it may work later."""

    default_code = "TUNNEL_CAPACITY_EXCEEDED"


class TunnelConnectionError(TunnelError):
    """The backend, or what is behind it, cannot be reached."""

    default_code = "TUNNEL_ENDPOINT_UNREACHABLE"


class TunnelTimeoutError(TunnelError):
    """There was no answer in time."""

    default_code = "TUNNEL_TIMEOUT"


class TunnelBackendError(TunnelError):
    """The backend failed."""

    default_code = "TUNNEL_INTERNAL"


class TunnelAnswerError(TunnelBackendError, ValueError):
    """The backend answered something that is no answer, such as an HTML page."""


CODES: Final[Mapping[str, str]] = {
    "TUNNEL_AUTH_REQUIRED": "Pass api_key=... or set SYNTH_API_KEY.",
    "TUNNEL_AUTH_INVALID": "Check that SYNTH_API_KEY is a key of this backend.",
    "TUNNEL_REQUEST_INVALID": "Check the arguments of the call.",
    "TUNNEL_PROVIDER_INVALID": "Use a member of TunnelProvider.",
    "TUNNEL_PAYLOAD_TOO_LARGE": "Send less at once.",
    "TUNNEL_NOT_FOUND": "Check the id, and that it belongs to this backend.",
    "TUNNEL_CONFLICT": "Look at what exists with list() or list_leases().",
    "TUNNEL_LEASE_PENDING": "Wait until the lease is active.",
    "TUNNEL_LEASE_EXPIRED": "Create a new lease.",
    "TUNNEL_AGENT_OFFLINE": "Check that the process that holds the tunnel still runs.",
    "TUNNEL_CAPACITY_EXCEEDED": "Wait a moment, or do less at once.",
    "TUNNEL_ENDPOINT_UNREACHABLE": "Check the address, and that something listens there.",
    "TUNNEL_TIMEOUT": "Try again, or allow more time with timeout=...",
    "TUNNEL_INTERNAL": "Try again; if it persists, report it to the operators of the backend.",
    "TUNNEL_URL_REQUIRED": "Pass backend_base=... or set SYNTH_BACKEND_URL.",
    "TUNNEL_URL_INVALID": "Give the backend's origin, such as https://api.usesynth.ai.",
    "TUNNEL_URL_FORBIDDEN": "Use https; plain http is for loopback addresses only.",
}
"""Every stable code, and what to do about it."""

_CLASSES: Final[Mapping[str, type[TunnelError]]] = {
    "TUNNEL_AUTH_REQUIRED": TunnelAuthError,
    "TUNNEL_AUTH_INVALID": TunnelAuthError,
    "TUNNEL_NOT_FOUND": TunnelNotFoundError,
    "TUNNEL_CONFLICT": TunnelConflictError,
    "TUNNEL_LEASE_EXPIRED": TunnelExpiredError,
    "TUNNEL_LEASE_PENDING": TunnelUnavailableError,
    "TUNNEL_AGENT_OFFLINE": TunnelUnavailableError,
    "TUNNEL_CAPACITY_EXCEEDED": TunnelUnavailableError,
    "TUNNEL_ENDPOINT_UNREACHABLE": TunnelConnectionError,
    "TUNNEL_TIMEOUT": TunnelTimeoutError,
    "TUNNEL_INTERNAL": TunnelBackendError,
}

_BY_STATUS: Final = {
    401: "TUNNEL_AUTH_INVALID",
    403: "TUNNEL_AUTH_INVALID",
    404: "TUNNEL_NOT_FOUND",
    408: "TUNNEL_TIMEOUT",
    409: "TUNNEL_CONFLICT",
    410: "TUNNEL_LEASE_EXPIRED",
    413: "TUNNEL_PAYLOAD_TOO_LARGE",
    429: "TUNNEL_CAPACITY_EXCEEDED",
    502: "TUNNEL_ENDPOINT_UNREACHABLE",
    503: "TUNNEL_CAPACITY_EXCEEDED",
    504: "TUNNEL_TIMEOUT",
}

_BY_BACKEND_CODE: Final = {
    "unauthorized": "TUNNEL_AUTH_INVALID",
    "forbidden": "TUNNEL_AUTH_INVALID",
    "rate_limited": "TUNNEL_CAPACITY_EXCEEDED",
    "upstream_error": "TUNNEL_ENDPOINT_UNREACHABLE",
    "internal_error": "TUNNEL_INTERNAL",
}

_BY_WORDS: Final = {
    "lease_pending": "TUNNEL_LEASE_PENDING",
    "lease_expired": "TUNNEL_LEASE_EXPIRED",
    "agent_offline": "TUNNEL_AGENT_OFFLINE",
    "timed out": "TUNNEL_TIMEOUT",
}


def from_status(
    status: int,
    body: Mapping[str, Any],
    *,
    where: str,
    retry_after_s: float | None = None,
    request_id: str | None = None,
    secret: str | None = None,
) -> TunnelError:
    """Make an error of an answer that is no success.

    Args:
        status: its HTTP status.
        body: its JSON object, or an empty mapping where it had none.
        where: what was asked of whom, for the message.
        retry_after_s: its ``Retry-After``, in seconds.
        request_id: its request id, where a header gave one; the body's comes first.
        secret: what must not show even if the backend repeats it.

    Returns:
        The error, of the class and code that the answer means.
    """
    backend_code, said = _read(body)
    code = _code_of(status, backend_code, said)
    found_id = body.get("request_id") or request_id
    tail = f": {excerpt(said, secret)}" if said else ""
    return _CLASSES.get(code, TunnelRequestError)(
        f"{excerpt(where)} answered {status}{tail}",
        code=code,
        status=status,
        request_id=excerpt(str(found_id), secret) if found_id else None,
        retry_after_s=retry_after_s,
    )


def excerpt(text: str, secret: str | None = None) -> str:
    """Return foreign text as a message can show it: one short line without ``secret``."""
    if secret:
        text = text.replace(secret, "***")
    line = " ".join(re.sub(r"[^\x21-\x7e\xa1-\uffff]+", " ", text[: 4 * _MAX_EXCERPT]).split())
    return line if len(line) <= _MAX_EXCERPT else f"{line[: _MAX_EXCERPT - 1]}…"


def _read(body: Mapping[str, Any]) -> tuple[str, str]:
    """Return the backend's own code and words, from any of the places where backends put them."""
    nested = next(
        (v for v in (body.get("detail"), body.get("error")) if isinstance(v, Mapping)), {}
    )
    detail = nested.get("detail") or nested.get("message") or body.get("detail")
    if isinstance(detail, list):  # one entry for each field that does not validate
        detail = "; ".join(_field_error(entry) for entry in detail[:10])
    words = (detail, body.get("message"), body.get("error"))
    said = next((text for text in words if isinstance(text, str) and text), "")
    return str(nested.get("code") or body.get("code") or ""), said


def _field_error(entry: object) -> str:
    if not isinstance(entry, Mapping):
        return str(entry)
    place = entry.get("loc")
    names = [str(part) for part in place] if isinstance(place, list) else []
    return ": ".join([*([".".join(names)] if names else []), str(entry.get("msg", ""))])


def _code_of(status: int, backend_code: str, said: str) -> str:
    if backend_code in CODES:
        return backend_code
    if status in (401, 403):
        return "TUNNEL_AUTH_INVALID"
    words = f"{backend_code} {said}".lower()
    for phrase, code in _BY_WORDS.items():
        if phrase in words:
            return code
    if backend_code in _BY_BACKEND_CODE:
        return _BY_BACKEND_CODE[backend_code]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 300 <= status < 400:
        return "TUNNEL_URL_INVALID"
    if 400 <= status < 500:
        return "TUNNEL_PROVIDER_INVALID" if "provider" in words else "TUNNEL_REQUEST_INVALID"
    return "TUNNEL_INTERNAL"
