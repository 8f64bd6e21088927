"""The frames that relay and agent exchange, typed.

In memory a frame is one of the structs below; on a WebSocket it is the JSON text that
:mod:`.codec` makes of it, with the names of the published protocol (protocol, section 3).
``chunk``, ``data`` and ``body`` are bytes here and base64 there.

Four things are this project's own additions (protocol, section 6), because published agents and
relays know none of them. What makes a message arrive exactly as it was sent goes only to a peer
that announced ``exact_http``: :class:`RespInterim`, ``reason``, ``trailers``, ``chunked``,
``negotiated``, a ``?`` with nothing behind it, and bytes of a target that are no ASCII.
:class:`Window` is sent only to a peer that announced ``flow_control`` when it attached. A whole
message in one frame (``end``, with ``body``, on :class:`ReqHeaders` and :class:`RespHeaders`) goes
only to a peer that announced ``whole_messages``: most requests and answers are short, and a frame
costs more than what is in it. Relay and agent always write whole messages where they can; the link
takes them apart, with :func:`in_pieces`, for a peer that does not know them. What says which
caller's connection a request came on, and how that connection ends (``conn`` and ``close`` on
:class:`ReqHeaders`, ``close`` on :class:`RespHeaders`, :class:`CallerEof`, :class:`ConnClosed`),
goes only to a peer that announced ``caller_connections``.
"""

from typing import Final, Literal

import msgspec

from ..http.headers import Headers

__all__ = [
    "CONNECTION_CLOSED",
    "CONNECTION_ENDS",
    "CONNECTION_RESET",
    "MAX_CHUNK_BYTES",
    "MAX_WHOLE_BYTES",
    "MAX_WS_MESSAGE_BYTES",
    "WINDOW_BYTES",
    "WORKER_TOKEN_HEADER",
    "AgentCapabilities",
    "AgentFrame",
    "Attach",
    "AttachAck",
    "AttachLease",
    "CallerEof",
    "Cancel",
    "ConnClosed",
    "Frame",
    "FrameEnvelope",
    "FrameError",
    "LocalTarget",
    "RelayCapabilities",
    "RelayFrame",
    "ReqBody",
    "ReqEnd",
    "ReqHeaders",
    "RespBody",
    "RespEnd",
    "RespError",
    "RespHeaders",
    "RespInterim",
    "Window",
    "WsClose",
    "WsFrame",
    "WsOpen",
    "WsOpenAck",
    "WsOpenReject",
    "in_pieces",
]

MAX_CHUNK_BYTES: Final = 65_536
"""The largest body chunk on the wire (protocol, section 3: one agent dies on large frames)."""

MAX_WHOLE_BYTES: Final = 16_384
"""The longest body that goes in one frame with its head."""

MAX_WS_MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message of a caller's or an app's WebSocket."""

CONNECTION_CLOSED: Final = "APP_CONNECTION_CLOSED"
"""The code of a ``RESP_ERROR``: the app has closed its connection instead of answering, as apps
close connections that were idle. The caller's connection is to end in the same way."""

CONNECTION_RESET: Final = "APP_CONNECTION_RESET"
"""The code of a ``RESP_ERROR`` that says the same of a connection that was reset."""

CONNECTION_ENDS: Final = frozenset({CONNECTION_CLOSED, CONNECTION_RESET})
"""Both of these codes."""

WINDOW_BYTES: Final = 262_144
"""What a sender may have in flight for one stream before the receiver has taken it."""

WORKER_TOKEN_HEADER: Final = "x-synthtunnel-worker-token"  # noqa: S105  # a header's name
"""Where a caller shows the worker token if it needs ``Authorization`` for the app (protocol,
section 2)."""


class FrameError(ValueError):
    """A frame that names a known type and cannot be used.

    Attributes:
        rid: the request it belongs to, which is the only thing that fails; ``None`` where the
            frame does not say.
    """

    def __init__(self, message: str, rid: str | None = None) -> None:
        super().__init__(message)
        self.rid = rid


class FrameEnvelope(msgspec.Struct, gc=False):
    """What a malformed frame may still tell: whose failure it is."""

    type: str = ""
    rid: str | None = None


class _Frame(msgspec.Struct, tag_field="type", gc=False, omit_defaults=False):
    """Base of all frames. ``gc=False``: frames hold no cycles, and there are many of them."""


class LocalTarget(msgspec.Struct, gc=False):
    """Where a lease's traffic goes on the agent's machine."""

    host: str
    port: int


class AttachLease(msgspec.Struct, gc=False, omit_defaults=True):
    """One lease that an agent offers to serve."""

    lease_id: str
    local_target: LocalTarget | None = None


class AgentCapabilities(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an agent can do; a published agent may leave any of them out."""

    streaming: bool = False
    max_inflight: int | None = None
    max_body_chunk_bytes: int | None = None
    supports_cancel: bool = False
    websocket: bool = False
    flow_control: bool = False
    whole_messages: bool = False
    caller_connections: bool = False
    exact_http: bool = False


class RelayCapabilities(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the relay says of itself in ``ATTACH_ACK``; published relays leave it out."""

    flow_control: bool = False
    whole_messages: bool = False
    caller_connections: bool = False
    exact_http: bool = False


class Attach(_Frame, tag="ATTACH", omit_defaults=True):
    """Agent → relay, the first frame: the leases it serves."""

    leases: list[AttachLease]
    agent_id: str | None = None
    capabilities: AgentCapabilities = AgentCapabilities()


class AttachAck(_Frame, tag="ATTACH_ACK", omit_defaults=True):
    """Relay → agent, the first frame: the leases it may serve."""

    agent_id: str
    accepted_leases: list[str]
    capabilities: RelayCapabilities = RelayCapabilities()


class ReqHeaders(_Frame, tag="REQ_HEADERS", omit_defaults=True):
    """Relay → agent: a caller's request. ``path`` and ``query`` are raw, still percent-encoded.

    With ``end`` it is complete, and ``body`` is all of its body. ``conn`` names the caller's
    connection that it came on; with ``close`` it is the last one there. Without ``conn`` no other
    request is known to come on the same connection. With ``chunked`` the caller sent its body in
    chunks; ``negotiated`` is its ``Expect``, ``TE`` and ``Trailer``.
    """

    lease_id: str
    rid: str
    method: str
    path: str
    query: str
    headers: Headers
    deadline_ms: int
    body: bytes = msgspec.field(name="body_b64", default=b"")
    end: bool = False
    conn: str = ""
    close: bool = False
    chunked: bool = False
    negotiated: Headers | None = None


class ReqBody(_Frame, tag="REQ_BODY"):
    """Relay → agent: a piece of the request body."""

    rid: str
    chunk: bytes = msgspec.field(name="chunk_b64")
    lease_id: str = ""


class ReqEnd(_Frame, tag="REQ_END", omit_defaults=True):
    """Relay → agent: the request is complete; ``trailers`` came behind its body."""

    rid: str
    lease_id: str = ""
    trailers: Headers | None = None


class Cancel(_Frame, tag="CANCEL"):
    """Relay → agent: nobody waits for this request any more."""

    rid: str
    lease_id: str = ""


class CallerEof(_Frame, tag="CALLER_EOF"):
    """Relay → agent: behind this request, which is complete, the caller has ended its side of the
    connection. It may still read the response."""

    rid: str
    lease_id: str = ""


class ConnClosed(_Frame, tag="CONN_CLOSED"):
    """Both ways: the caller's connection has ended, or nothing is tied to it at the agent any
    more, since the app has closed its connection."""

    conn: str


class RespInterim(_Frame, tag="RESP_INTERIM", omit_defaults=True):
    """Agent → relay: an interim response of the app, 100 to 199 but not 101."""

    rid: str
    status: int
    headers: Headers = []
    lease_id: str = ""


class RespHeaders(_Frame, tag="RESP_HEADERS", omit_defaults=True):
    """Agent → relay: the app's status and headers.

    With ``end`` the response is complete, and ``body`` is all of its body. With ``close`` the app
    closes its connection behind it. ``reason`` is the app's reason phrase where it is not the usual
    one of the status.
    """

    rid: str
    status: int
    headers: Headers
    lease_id: str = ""
    body: bytes = msgspec.field(name="body_b64", default=b"")
    end: bool = False
    close: bool = False
    reason: str | None = None


class RespBody(_Frame, tag="RESP_BODY"):
    """Agent → relay: a piece of the response body."""

    rid: str
    chunk: bytes = msgspec.field(name="chunk_b64")
    eof: bool = False
    lease_id: str = ""


class RespEnd(_Frame, tag="RESP_END", omit_defaults=True):
    """Agent → relay: the response is complete; ``trailers`` came behind its body."""

    rid: str
    lease_id: str = ""
    trailers: Headers | None = None


class RespError(_Frame, tag="RESP_ERROR"):
    """Agent → relay: the request failed; after ``RESP_HEADERS`` it cuts the response off."""

    rid: str
    code: str
    message: str = ""
    lease_id: str = ""


class WsOpen(_Frame, tag="WS_OPEN"):
    """Relay → agent: a caller wants a WebSocket."""

    rid: str
    path: str
    query: str
    headers: Headers
    deadline_ms: int
    lease_id: str = ""


class WsOpenAck(_Frame, tag="WS_OPEN_ACK"):
    """Agent → relay: the app took it; ``headers`` names the subprotocol it chose, if any."""

    rid: str
    headers: Headers = []
    lease_id: str = ""


class WsOpenReject(_Frame, tag="WS_OPEN_REJECT"):
    """Agent → relay: the app's own HTTP answer to the upgrade, to be passed on as it is."""

    rid: str
    status: int
    headers: Headers = []
    body: bytes = msgspec.field(name="body_b64", default=b"")
    lease_id: str = ""
    reason: str | None = None


class WsFrame(_Frame, tag="WS_FRAME"):
    """Both ways: a message, or a piece of one where ``fin`` is false."""

    rid: str
    data: bytes = msgspec.field(name="data_b64")
    opcode: Literal["text", "binary"] = "binary"
    fin: bool = True
    lease_id: str = ""


class WsClose(_Frame, tag="WS_CLOSE", omit_defaults=True):
    """Both ways: the stream is over. Closing twice is harmless.

    Without a code the WebSocket is closed without one. Published ends take that for 1000, and may
    themselves send 1005 or 1006, which no close frame may carry.
    """

    rid: str
    code: int | None = None
    reason: str = ""
    lease_id: str = ""


class Window(_Frame, tag="WINDOW"):
    """Both ways: ``credit_bytes`` of this stream's body were taken; as many more may follow."""

    rid: str
    credit_bytes: int
    lease_id: str = ""


RelayFrame = (
    AttachAck
    | ReqHeaders
    | ReqBody
    | ReqEnd
    | Cancel
    | CallerEof
    | ConnClosed
    | WsOpen
    | WsFrame
    | WsClose
    | Window
)
"""What a relay says."""

AgentFrame = (
    Attach
    | RespInterim
    | RespHeaders
    | RespBody
    | RespEnd
    | RespError
    | ConnClosed
    | WsOpenAck
    | WsOpenReject
    | WsFrame
    | WsClose
    | Window
)
"""What an agent says."""

Frame = RelayFrame | AgentFrame


def in_pieces(frame: Frame) -> list[Frame]:
    """Take a whole message apart, for a peer that does not know whole messages.

    Args:
        frame: any frame; it is not changed.

    Returns:
        The frames that say the same without ``end``, in order; any other frame alone.
    """
    if not isinstance(frame, ReqHeaders | RespHeaders) or not frame.end:
        return [frame]
    body, rid, lease_id = frame.body, frame.rid, frame.lease_id
    head = msgspec.structs.replace(frame, body=b"", end=False)
    if isinstance(frame, ReqHeaders):
        request_body: list[Frame] = [ReqBody(rid, body, lease_id)] if body else []
        return [head, *request_body, ReqEnd(rid, lease_id)]
    response_body: list[Frame] = [RespBody(rid, body, lease_id=lease_id)] if body else []
    return [head, *response_body, RespEnd(rid, lease_id)]
