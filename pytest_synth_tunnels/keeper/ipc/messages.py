"""What a pytest process and the keeper say to each other: one JSON object a line.

Standard library only, since the pytest process imports it. Every connection begins with a mutual
proof that both know the secret of the run file (a loopback port can be reached by any user):
the keeper sends :class:`Challenge`, the process answers :class:`Hello`, the keeper answers
:class:`Welcome`. After that the process asks and the keeper answers each request in turn;
:class:`Event` lines may come in between, unasked, on connections that want them.
"""

from collections.abc import Iterable
from hashlib import sha256
from hmac import new as new_hmac
from inspect import get_annotations
from json import dumps, loads
from types import NoneType, UnionType
from typing import Any, ClassVar, dataclass_transform

__all__ = [
    "MAX_LINE_BYTES",
    "Accepts",
    "BackendInfo",
    "Challenge",
    "CloseLease",
    "Done",
    "EndTraffic",
    "Event",
    "Expose",
    "Failure",
    "Finish",
    "GetBackend",
    "GetTraffic",
    "Hello",
    "InboxRespond",
    "InspectorAddress",
    "LeaseEvents",
    "LeaseInfo",
    "ListTraffic",
    "Message",
    "OpenAddress",
    "OpenInspector",
    "OpenLease",
    "OpenTraffic",
    "Port",
    "RefreshToken",
    "ReplayRequest",
    "Report",
    "ReservePort",
    "RunRecord",
    "Status",
    "StatusInfo",
    "TakeLeaseEvents",
    "TargetAccepts",
    "Token",
    "TrafficAddress",
    "TrafficCaughtUp",
    "TrafficNoApp",
    "TrafficRecord",
    "TrafficTimeUp",
    "WaitReady",
    "WatchTraffic",
    "Welcome",
    "decode",
    "encode",
    "proof",
]

MAX_LINE_BYTES = 1 << 20
_MAX_NUMBER = 1e15


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Message:
    """Base of all messages; a subclass's name is its type on the wire.

    Its annotations are its fields, as in a dataclass; real dataclasses would cost every pytest
    start 20 ms. No ``repr`` of the values: some are secret.
    """

    types: ClassVar[dict[str, type["Message"]]] = {}
    fields: ClassVar[dict[str, Any]] = {}
    """Their types, by name."""

    def __init_subclass__(cls) -> None:
        cls.fields = get_annotations(cls)
        Message.types[cls.__name__] = cls

    def __init__(self, **values: Any) -> None:
        if values.keys() != self.fields.keys():
            raise TypeError(f"{type(self).__name__}: {_describe_fields(values, self.fields)}")
        self.__dict__.update(values)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]


# --- the handshake


class Challenge(Message):
    """The keeper's first message: the process must prove, over this nonce, that it knows the
    secret."""

    nonce: str


class Hello(Message):
    """The process says who it is. ``address`` is its part of a shared URL, empty without xdist;
    ``wants_events`` whether the keeper shall send :class:`Event` lines on this connection."""

    proof: str
    nonce: str
    pid: int
    address: str
    wants_events: bool


class Welcome(Message):
    """The keeper knows the secret too, and counts this process as a holder from now on."""

    proof: str
    pid: int


# --- what a process asks


class ReservePort(Message):
    """Asks for the local port that this process's lease exposes; it is the same one each time, and
    free of the connections of an earlier server. → Port"""


class OpenLease(Message):
    """Asks for the lease of this run (or of this process, as ``share`` says). The answer comes
    when it is active or has failed. → LeaseInfo"""


class OpenAddress(Message):
    """Asks for this process's URL on the lease that OpenLease gives, without waiting for the run's
    command. → LeaseInfo"""


class Expose(Message):
    """Asks for a lease of its own for ``target`` (an http URL, or a port of 127.0.0.1), which is
    held until it is closed or the process ends. What is ``None`` is as the run's settings say.
    → LeaseInfo"""

    target: str
    provider: str | None
    ttl_s: float | None
    name: str | None
    require_token: bool | None
    url_style: str | None
    host_header: str | None
    strip_prefix: bool | None


class CloseLease(Message):
    """Releases a lease that Expose opened. → Done"""

    lease_id: str


class WaitReady(Message):
    """Waits until a nonce has come through the public URL and the target accepts. → Done"""

    lease_id: str
    timeout_s: float


class Status(Message):
    """Asks for a lease's state. → StatusInfo"""

    lease_id: str


class Token(Message):
    """Asks for the worker token in force. → LeaseInfo"""

    lease_id: str


class RefreshToken(Message):
    """Rotates the worker token; the old one stops working. → LeaseInfo"""

    lease_id: str


class GetBackend(Message):
    """Asks which backend the run uses. → BackendInfo"""


class OpenTraffic(Message):
    """Asks for an address of a test's own, which leads to this process's app or, with ``inbox``,
    to an inbox. → TrafficAddress"""

    test: str
    inbox: bool


class GetTraffic(Message):
    """Asks for an address as it is now; ``None`` for this process's own one on the lease.
    → TrafficAddress"""

    lease_id: str
    address: str | None


class EndTraffic(Message):
    """Notes that the test of an address is over. → Done"""

    lease_id: str
    address: str


class TargetAccepts(Message):
    """Asks whether the app of an address accepts connections. → Accepts"""

    lease_id: str
    address: str


class InboxRespond(Message):
    """Says how an inbox answers some requests: those of a ``method``, or any, with a path that all
    of the regular expression ``path`` matches, or any; ``times`` often, or always. Each header is
    a pair, and the body has a character for each byte. → Done"""

    address: str
    method: str | None
    path: str | None
    path_flags: int
    status: int
    headers: list[list[str]]
    body: str
    delay_s: float
    times: int | None


class WatchTraffic(Message):
    """Asks for the requests that came to some places, each of which is a lease's id, an address on
    it, and a time from which on requests count (in seconds of :func:`time.monotonic`).
    → a TrafficRecord for each, then TrafficCaughtUp; and, with ``timeout_s``, a TrafficRecord for
    each that is new or has changed, until TrafficTimeUp ends it; in between comes TrafficNoApp
    once it is certain that the first place's app is not running"""

    places: list[list[Any]]
    timeout_s: float | None


class ListTraffic(Message):
    """Asks for all that the run has recorded. → a RunRecord for each request, oldest first, then
    TrafficCaughtUp"""


class ReplayRequest(Message):
    """Sends a recorded request to its app again. → TrafficRecord"""

    sequence: int


class OpenInspector(Message):
    """Asks for the page that shows the run's traffic as it flows. It is opened with the first of
    these, and closed with the run. → InspectorAddress"""

    masked: list[str] = []
    """Names of further keys, as globs."""


class TakeLeaseEvents(Message):
    """The run's owner asks what happened to the run's leases since it asked last.
    → LeaseEvents"""


class Finish(Message):
    """The run's owner tells the keeper to release everything and to end. → Report, when
    nothing is left but the keeper's process, which then ends"""


# --- what the keeper answers


class Failure(Message):
    """The request failed. ``code`` is stable, ``hint`` says what to do, or is empty."""

    code: str
    message: str
    hint: str


class Done(Message):
    """The request succeeded."""


class Port(Message):
    """A port of this machine."""

    port: int


class LeaseInfo(Message):
    """All that a test may know of a lease. ``public_url`` is that of this process's address,
    ``loopback_url`` the same for callers on this machine (empty where there is no other),
    ``url_secret`` the part of them that alone lets callers in (empty where no part does),
    ``ca_file`` the certificate of the authority that vouches for them (empty where callers need
    none), and ``headers`` is what callers send along."""

    lease_id: str
    public_url: str
    loopback_url: str
    ca_file: str
    url_secret: str
    worker_token: str | None
    headers: dict[str, str]
    local_host: str
    local_port: int
    expires_at: str
    provider: str
    backend: str


class StatusInfo(Message):
    """``state`` is the keeper's (:mod:`..leases.state`), ``answer`` the backend's own words."""

    state: str
    answer: dict[str, Any]


class BackendInfo(Message):
    """The run's backend and the key for it."""

    url: str
    api_key: str
    embedded: bool


class TrafficAddress(Message):
    """Where requests of a test come, or those of a lease. ``own_address`` is the one that this
    process has on the lease, and ``local_url`` the app's, empty for an inbox; the others are as in
    :class:`LeaseInfo`."""

    lease_id: str
    address: str
    own_address: str
    public_url: str
    loopback_url: str
    ca_file: str
    headers: dict[str, str]
    url_secret: str
    local_url: str
    provider: str


class Accepts(Message):
    """Whether an app accepts connections."""

    accepts: bool


class TrafficRecord(Message):
    """A request as it is now (see :meth:`...traffic.exchange.InboundRequest.from_data`)."""

    request: dict[str, Any]


class RunRecord(Message):
    """A request, the test and the worker that it belongs to, as far as it does, and whether it came
    after that test."""

    request: dict[str, Any]
    test: str
    worker: str
    is_late: bool


class TrafficCaughtUp(Message):
    """All requests that were there have been told; ``dropped`` older ones of the run are not
    recorded any more."""

    dropped: int


class TrafficNoApp(Message):
    """No app is running where the requests are brought, as is certain ``waited_s`` seconds after
    the question."""

    waited_s: float


class InspectorAddress(Message):
    """Where the page is. The URL is a secret: it lets everybody of this machine in."""

    url: str


class TrafficTimeUp(Message):
    """The time of a WatchTraffic is over."""


class Event(Message):
    """The keeper tells what happened to a lease: ``kind`` is ``expiring``, ``offline`` (its agent
    has been cut off for a minute, and goes on trying), ``moved`` (it has another public URL now),
    ``lost``, or ``failed`` (the run's command died; ``lease_id`` is empty). ``shared`` is true
    unless Expose opened the lease; a lease that was made anew has another ``lease_id``."""

    kind: str
    lease_id: str
    shared: bool
    message: str


class LeaseEvents(Message):
    """What happened to leases, oldest first. Each event has ``kind`` (``created``, ``lost`` or
    ``released``), ``lease`` (as in :mod:`..leases.journal`) and ``reason``."""

    lease_events: list[dict[str, Any]]


class Report(Message):
    """What the run did. ``unreleased`` holds a line for each lease that could not be closed,
    ``public`` one for each port that was open to the internet, ``traffic`` what came after the
    tests that it was for, and ``lease_events`` what
    :class:`TakeLeaseEvents` has not told yet."""

    created: int
    released: int
    events: list[str]
    unreleased: list[str]
    public: list[str]
    traffic: list[str]
    lease_events: list[dict[str, Any]]


def encode(message: Message) -> bytes:
    """Return the message as a line."""
    body = {"type": type(message).__name__, **message.__dict__}
    return dumps(body, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read a line.

    Raises:
        ValueError: it is no message of this version.
    """
    try:
        body = loads(line)
    except RecursionError:
        raise ValueError("a message nested too deep") from None
    kind = Message.types.get(str(body.pop("type", ""))) if isinstance(body, dict) else None
    if kind is None:
        raise ValueError("not a keeper message")
    try:
        message = kind(**body)
    except TypeError as error:
        raise ValueError(str(error)) from None
    for name, wanted in kind.fields.items():
        if not _fits(body[name], wanted):
            raise ValueError(
                f"{kind.__name__}: field {name!r} must be {_describe_type(wanted)}, "
                f"got {type(body[name]).__name__}"
            )
    return message


def _describe_fields(given: Iterable[str], wanted: Iterable[str]) -> str:
    """Say which fields are missing and which are unknown."""
    missing = ", ".join(sorted(set(wanted) - set(given)))
    unknown = ", ".join(sorted(set(given) - set(wanted)))
    parts = [
        f"missing field {missing}" if missing else "",
        f"unknown field {unknown}" if unknown else "",
    ]
    return "; ".join(part for part in parts if part)


def _describe_type(wanted: Any) -> str:
    """Name a field's type: ``int``, or ``str or None``."""
    if isinstance(wanted, UnionType):
        return " or ".join(_describe_type(one) for one in wanted.__args__)
    if wanted is NoneType:
        return "None"
    if wanted is float:
        return f"a number below {_MAX_NUMBER:g}"
    name: str = getattr(wanted, "__origin__", wanted).__name__
    return name


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of a field's type; of a list or a dictionary, whether it is one."""
    if isinstance(wanted, UnionType):
        return any(_fits(value, one) for one in wanted.__args__)
    if wanted is float:
        # Finite, and no integer that cannot be made one.
        return type(value) in (int, float) and -_MAX_NUMBER < value < _MAX_NUMBER
    return type(value) is getattr(wanted, "__origin__", wanted)


def proof(secret: str, role: str, nonce: str) -> str:
    """Return what shows that ``role`` (``keeper`` or ``process``) knows the secret."""
    return new_hmac(secret.encode(), f"{role}:{nonce}".encode(), sha256).hexdigest()
