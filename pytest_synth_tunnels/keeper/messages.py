"""What a pytest process and the keeper say to each other: one JSON object a line.

Standard library only, since the pytest process imports it. Every connection begins with a mutual
proof that both know the secret of the run file (a loopback port can be reached by any user):
the keeper sends :class:`Challenge`, the process answers :class:`Hello`, the keeper answers
:class:`Welcome`. After that the process asks and the keeper answers each request in turn;
:class:`Event` lines may come in between, unasked.
"""

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

__all__ = [
    "MAX_LINE_BYTES",
    "Backend",
    "BackendInfo",
    "Challenge",
    "CloseLease",
    "Done",
    "Event",
    "Expose",
    "Failure",
    "Finish",
    "Hello",
    "LeaseInfo",
    "Message",
    "OpenLease",
    "Port",
    "RefreshToken",
    "Report",
    "ReservePort",
    "Status",
    "StatusInfo",
    "Token",
    "WaitReady",
    "Welcome",
    "decode",
    "encode",
    "proof",
]

MAX_LINE_BYTES = 1 << 20


class Message:
    """Base of all messages; a subclass's name is its type on the wire."""

    types: ClassVar[dict[str, type["Message"]]] = {}

    def __init_subclass__(cls) -> None:
        Message.types[cls.__name__] = cls


# --- the handshake


@dataclass(frozen=True, slots=True)
class Challenge(Message):
    """Keeper, first: prove that you know the secret, over this nonce."""

    nonce: str


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Process: who it is. ``address`` is its part of a shared URL, empty without xdist."""

    proof: str
    nonce: str
    pid: int
    address: str


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """Keeper: it knows the secret too, and counts this process as a holder from now on."""

    proof: str
    pid: int


# --- what a process asks


@dataclass(frozen=True, slots=True)
class ReservePort(Message):
    """The local port that this process's lease exposes; the same one each time. → Port"""


@dataclass(frozen=True, slots=True)
class OpenLease(Message):
    """The lease of this run (or of this process, as ``share`` says), once it is active or
    failed. → LeaseInfo"""


@dataclass(frozen=True, slots=True)
class Expose(Message):
    """A lease of its own for ``target`` (an http URL), held until closed or the process ends.
    → LeaseInfo"""

    target: str
    ttl_s: float | None
    name: str | None
    require_token: bool


@dataclass(frozen=True, slots=True)
class CloseLease(Message):
    """Release a lease that Expose opened. → Done"""

    lease_id: str


@dataclass(frozen=True, slots=True)
class WaitReady(Message):
    """Until a nonce has come through the public URL and the target accepts. → Done"""

    lease_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Status(Message):
    """→ StatusInfo"""

    lease_id: str


@dataclass(frozen=True, slots=True)
class Token(Message):
    """The worker token in force. → LeaseInfo"""

    lease_id: str


@dataclass(frozen=True, slots=True)
class RefreshToken(Message):
    """Rotate the worker token; the old one stops working. → LeaseInfo"""

    lease_id: str


@dataclass(frozen=True, slots=True)
class Backend(Message):
    """→ BackendInfo"""


@dataclass(frozen=True, slots=True)
class Finish(Message):
    """From the run's owner: release everything, and end. → Report, then the connection closes
    when the keeper is gone"""


# --- what the keeper answers


@dataclass(frozen=True, slots=True)
class Failure(Message):
    """The request failed. ``code`` is stable, ``hint`` says what to do."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Done(Message):
    """The request succeeded."""


@dataclass(frozen=True, slots=True)
class Port(Message):
    port: int


@dataclass(frozen=True, slots=True)
class LeaseInfo(Message):
    """All that a test may know of a lease. ``public_url`` includes this process's address."""

    lease_id: str
    public_url: str
    worker_token: str | None = field(repr=False)
    local_host: str
    local_port: int
    expires_at: str
    provider: str
    backend: str


@dataclass(frozen=True, slots=True)
class StatusInfo(Message):
    """``state`` is the keeper's (:mod:`.life`), ``answer`` the backend's own words."""

    state: str
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BackendInfo(Message):
    url: str
    api_key: str = field(repr=False)
    embedded: bool


@dataclass(frozen=True, slots=True)
class Event(Message):
    """Something happened to a lease: ``kind`` is ``lost``, ``expiring`` or ``failed``."""

    kind: str
    lease_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Report(Message):
    """What the run did. ``unreleased`` holds a line for each lease that could not be closed."""

    created: int
    released: int
    events: list[str]
    unreleased: list[str]


def encode(message: Message) -> bytes:
    """Return the message as a line."""
    body = {"type": type(message).__name__} | asdict(message)  # type: ignore[call-overload]
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read a line.

    Raises:
        ValueError: it is no message of this version.
    """
    body = json.loads(line)
    if not isinstance(body, dict) or body.get("type") not in Message.types:
        raise ValueError("not a keeper message")
    kind = Message.types[body["type"]]
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{name: value for name, value in body.items() if name in names})
    except TypeError as error:
        raise ValueError(f"incomplete {kind.__name__}: {error}") from None


def proof(secret: str, role: str, nonce: str) -> str:
    """Return what shows that ``role`` (``keeper`` or ``process``) knows the secret."""
    return hmac.new(secret.encode(), f"{role}:{nonce}".encode(), hashlib.sha256).hexdigest()
