"""Records what passes, into the log: requests at the agent, refusals at the relay.

A recorded request is filled by the agent or the relay as it goes. It keeps references to what is
there already, and nothing waits for it. What costs time, such as taking a head apart, is done when
somebody wants to see the request (:meth:`RecordedRequest.data`), which for most is never.

Nobody looks at most requests while they are in flight, and most are answered in one piece. Such a
one is logged once, when it is finished (:meth:`Recorder.finished`), together with those that
finish next, unless somebody looks before. Any other is a
:class:`RecordedRequest` from the moment on when something of it is worth telling, or when somebody
watches: :meth:`Recorder.watch` asks all sources for what they have in flight.

Theory of operation. A recorded request begins when it has come to the agent. It has *reached* the
app once a connection has taken its head, and is received once it has *ended*, too. Its answer
begins with :meth:`RecordedRequest.response_started` and is complete with
:meth:`RecordedRequest.response_ended`. It is *over*, and changes no more, with that, with
:meth:`RecordedRequest.refused` (the tunnel answers itself), or with
:meth:`RecordedRequest.broken_off` (nothing more comes); of these the first counts. A WebSocket is
answered with its opening, and over with its close.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from .finished import BATCH, LONG_BYTES, Batch, Contents, CutBody, pack_into
from .log import Logged, TrafficLog, Watch
from .place import NOWHERE, Place, RecordedApp

__all__ = ["RecordedRequest", "Recorder"]

_REQUEST_COST_BYTES: Final = 700
"""What a recorded request takes besides its texts and bodies."""

_HEADER_COST_BYTES: Final = 160
"""What a header field takes besides its text."""

_MESSAGE_COST_BYTES: Final = 200
"""What a message of a WebSocket takes besides its data; it counts as so much of a body, too."""

_TOKEN_HEADER: Final = "x-synthtunnel-worker-token"  # noqa: S105 - a name

Headers = Sequence[tuple[str, str]]


class _Body:
    """The beginning of a body that comes in more than one piece, or is cut."""

    __slots__ = ("pieces", "room_bytes")

    def __init__(self, first: bytes, limit_bytes: int) -> None:
        self.pieces = [first[:limit_bytes]]
        self.room_bytes = limit_bytes - len(self.pieces[0])

    def add(self, piece: bytes) -> int:
        """Keep what there is room for; return how many bytes that was."""
        if not self.room_bytes:
            return 0
        kept = piece[: self.room_bytes]
        self.room_bytes -= len(kept)
        self.pieces.append(kept)
        return len(kept)


class _Messages:
    """The messages of a WebSocket, or the beginnings of them."""

    def __init__(self, limit_bytes: int) -> None:
        self.kept: list[_Message] = []
        self.dropped = 0
        self.room_bytes = {"caller": limit_bytes, "app": limit_bytes}
        """How much more is kept of each sender."""
        self.open: dict[str, _Message | None] = {}
        """The message of each sender that is not complete; ``None`` for one that is not kept."""


class _Message:
    """A message of a WebSocket, or the beginning of one."""

    __slots__ = ("at_s", "data", "sender", "size_bytes", "text")

    def __init__(self, sender: str, *, text: bool, at_s: float) -> None:
        self.sender = sender
        self.text = text
        self.at_s = at_s
        self.data = b""
        self.size_bytes = 0


class RecordedRequest:
    """One request in the log (a :class:`.log.Logged`).

    Args:
        recorder: made it.
        app: where it goes.
        head: its head as the app gets it: the request line and the header fields, each with its
            line end.
        arrived_s: when it came, by the recorder's clock.
    """

    sequence = 0
    dropped = False
    reached = False
    """Whether the app has it, or some of it."""
    ended = False
    """Whether all of it has come."""
    answered_by: str | None = None
    error = ""
    over = False
    websocket = False
    status = 0
    """Of the answer; 0 while there is none."""
    _body: bytes | _Body = b""
    _body_size = 0
    _response_reason: str | None = None
    """``None`` for the usual one of the status."""
    _response_headers: Headers = ()
    _response_body: bytes | _Body = b""
    _response_size = 0
    _response_complete = False
    _ended_s: float | None = None
    """When it was over."""
    _messages: _Messages | None = None

    def __init__(self, recorder: "Recorder", app: RecordedApp, head: str, arrived_s: float) -> None:
        self.log = recorder.log
        self.place = app.place
        self.arrived_s = arrived_s
        self.size_bytes = _REQUEST_COST_BYTES + len(head)
        self._recorder = recorder
        self._app = app
        self.head = head
        """The request's head as the app gets it."""

    @classmethod
    def of(
        cls,
        recorder: "Recorder",
        app: RecordedApp,
        contents: Contents,
        bodies: tuple[CutBody, CutBody] | None,
    ) -> "RecordedRequest":
        """Return a request of a batch.

        Args:
            recorder: made the batch.
            app: where the request went.
            contents: what was packed of it.
            bodies: those of request and answer, if they were not packed.
        """
        request = cls(recorder, app, contents.head, contents.arrived_s)
        request.ended = request.reached = request.over = True
        request.answered_by = app.name
        request.status = contents.status
        request._response_reason = contents.reason
        request._response_headers = contents.headers
        request._response_complete = True
        request._ended_s = contents.ended_s
        body, response = bodies or (
            CutBody(contents.body, len(contents.body)),
            CutBody(contents.response_body, len(contents.response_body)),
        )
        request._body, request._body_size = body
        request._response_body, request._response_size = response
        request.size_bytes += len(body.kept) + len(response.kept) + request._answer_cost_bytes()
        return request

    # --- the request

    def take_body(self, chunk: bytes) -> None:
        """Record a piece of the request's body."""
        self._body_size += len(chunk)
        self._body = self._extended(self._body, chunk)

    def _extended(self, body: bytes | _Body, piece: bytes) -> bytes | _Body:
        """Return a body with one more piece, as much of it as is kept."""
        log = self.log
        if not body and len(piece) <= self._recorder.body_bytes:
            log.resize(self, self.size_bytes + len(piece))
            return piece
        if not isinstance(body, _Body):
            body = _Body(body, self._recorder.body_bytes)
        log.resize(self, self.size_bytes + body.add(piece))
        return body

    def end(self) -> None:
        """Note that all of the request has come."""
        self.ended = True
        if self.reached:
            self.changed()

    def reach(self) -> None:
        """Note that the app has it as far as it has come."""
        self.reached = True
        if self.ended:
            self.changed()

    # --- the answer

    def response_started(self, status: int, headers: Headers, reason: str | None = None) -> None:
        """Record the head of the app's answer; without a reason it has the usual one."""
        self.answered_by = self._app.name
        self.status = status
        self._response_headers = headers
        self._response_reason = reason
        self.changed()

    def response_body(self, data: bytes) -> None:
        """Record a piece of the answer's body."""
        self._response_size += len(data)
        self._response_body = self._extended(self._response_body, data)

    def response_ended(self) -> None:
        """Note that the answer is complete."""
        self._response_complete = True
        self._finish()

    def refused(self, status: int, code: str, message: str) -> None:
        """Note that the tunnel answers instead of the app.

        Args:
            status: the HTTP status.
            code: the stable code.
            message: why, for people.
        """
        if not self.over:
            self.answered_by = "tunnel"
            self.status = status
            self.error = f"{code}: {message}"
            self._response_complete = True
            self._finish()

    def broken_off(self, why: str) -> None:
        """Note that nothing more comes, of the request or of its answer. Harmless if it is over."""
        if not self.over:
            self.error = why
            self._finish()

    def _finish(self) -> None:
        """Be over."""
        self.over = True
        self._ended_s = self._recorder.now()
        self.log.resize(self, self.size_bytes + self._answer_cost_bytes())
        self.changed()

    def _answer_cost_bytes(self) -> int:
        """Return what the head of the answer takes of the log's memory."""
        return sum(
            len(name) + len(value) + _HEADER_COST_BYTES for name, value in self._response_headers
        )

    # --- a WebSocket

    def opened(self, status: int, headers: Headers) -> None:
        """Note that the app has taken the WebSocket."""
        self._messages = _Messages(self._recorder.body_bytes)
        self._response_complete = True
        self._ended_s = self._recorder.now()
        self.response_started(status, headers)

    def message(self, sender: str, data: bytes, *, text: bool, fin: bool) -> None:
        """Record a message of the WebSocket, or the next piece of one.

        Args:
            sender: ``caller`` or ``app``.
            data: the piece.
            text: whether it is a text message.
            fin: whether the message ends with it.
        """
        messages = self._messages
        if messages is None:
            return
        if sender in messages.open:
            message = messages.open[sender]
        else:
            message = self._begin_message(messages, sender, text=text)
        if message is not None:
            message.size_bytes += len(data)
            kept = data[: max(0, messages.room_bytes[sender])]
            message.data += kept
            messages.room_bytes[sender] -= len(kept)
            self.log.resize(self, self.size_bytes + len(kept))
        if fin:
            messages.open.pop(sender, None)
            self.changed()
        else:
            messages.open[sender] = message

    def _begin_message(self, messages: _Messages, sender: str, *, text: bool) -> _Message | None:
        if messages.room_bytes[sender] <= 0:
            messages.dropped += 1
            return None
        messages.room_bytes[sender] -= _MESSAGE_COST_BYTES
        self.log.resize(self, self.size_bytes + _MESSAGE_COST_BYTES)
        message = _Message(sender, text=text, at_s=self._recorder.now())
        messages.kept.append(message)
        return message

    def close(self) -> None:
        """Note that a WebSocket is over. Harmless if it is."""
        if not self.over:
            self.over = True
            self.changed()

    # --- for those who look

    def changed(self) -> None:
        """Tell those who wait that it has changed."""
        if self.log.watched:
            self.log.changed(self)

    @property
    def request_line(self) -> tuple[str, str, str]:
        """The method, the path as the app sees it, and the query as it came."""
        method, target, _ = self.head.partition("\r\n")[0].split(" ", 2)
        path, _, query = target.partition("?")
        return method, path, query

    def replayable(self) -> tuple[str, str, str, list[tuple[str, str]], bytes] | None:
        """Return method, path, query, headers and body to send again; ``None`` if that cannot be
        done, because only a part of it is known or it was a WebSocket."""
        body = _content(self._body)
        if self.websocket or not self.ended or len(body) < self._body_size:
            return None
        return *self.request_line, _fields(self.head), body

    def summary(self) -> dict[str, Any]:
        """Return what a list shows of it, named as in :meth:`data`: no headers and no bodies."""
        method, path, query = self.request_line
        response = None
        if self.status:
            response = {"status": self.status, "duration_s": self._duration_s()}
        return {
            "sequence": self.sequence,
            "method": method,
            "path": path,
            "query": query,
            "received_at": self._recorder.wall_s(self.arrived_s),
            "websocket": self.websocket,
            "answered_by": self.answered_by,
            "error": self.error,
            "over": self.over,
            "response": response,
        }

    def _duration_s(self) -> float:
        """Return how long the answer has taken so far, in seconds."""
        until_s = self._recorder.now() if self._ended_s is None else self._ended_s
        return until_s - self.arrived_s

    def data(self) -> dict[str, Any]:
        """Return all of it as :meth:`.exchange.InboundRequest.from_data` reads it, but for bodies,
        which are bytes here and base64 there."""
        headers = _fields(self.head)
        forwarded = [value for name, value in headers if name.lower() == "x-forwarded-for"]
        method, path, query = self.request_line
        messages = self._messages or _NO_MESSAGES
        body = _content(self._body)
        return {
            "sequence": self.sequence,
            "lease_id": self.place.lease_id,
            "address": self.place.address,
            "method": method,
            "path": path,
            "query": query,
            "headers": headers,
            "body": body,
            "size_bytes": self._body_size,
            "truncated": len(body) < self._body_size,
            "received_at": self._recorder.wall_s(self.arrived_s),
            "client": forwarded[-1].rpartition(",")[2].strip() if forwarded else "",
            "websocket": self.websocket,
            "received": self.reached and self.ended,
            "answered_by": self.answered_by,
            "error": self.error,
            "over": self.over,
            "local_url": self._app.local_url,
            "messages": [self._message_data(message) for message in messages.kept],
            "messages_dropped": messages.dropped,
            "response": self._response_data() if self.status else None,
        }

    def _message_data(self, message: _Message) -> dict[str, Any]:
        return {
            "sender": message.sender,
            "text": message.text,
            "data": message.data,
            "size_bytes": message.size_bytes,
            "truncated": len(message.data) < message.size_bytes,
            "at": self._recorder.wall_s(message.at_s),
        }

    def _response_data(self) -> dict[str, Any]:
        body = _content(self._response_body)
        return {
            "status": self.status,
            "reason": (
                _phrase(self.status) if self._response_reason is None else self._response_reason
            ),
            "headers": self._response_headers,
            "body": body,
            "size_bytes": self._response_size,
            "truncated": len(body) < self._response_size,
            "duration_s": self._duration_s(),
            "complete": self._response_complete,
        }


_NO_MESSAGES: Final = _Messages(0)


class Recorder:
    """Makes the recorded requests of a run.

    Args:
        log: takes them.
        body_bytes: how much of each body is kept, in bytes.
        now: seconds, of a clock that all processes of the machine share.
        wall: unix seconds.
    """

    def __init__(
        self,
        log: TrafficLog,
        *,
        body_bytes: int,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.log = log
        self.body_bytes = body_bytes
        self.now = now
        self.sources: set[Callable[[], None]] = set()
        """Each begins to record what it has in flight."""
        self._wall = wall
        self._packed_bytes = min(body_bytes, LONG_BYTES)
        """What the bodies of a request that are packed have together at most."""
        self._apps: list[RecordedApp] = []
        """Where each request went that is finished and not logged yet."""
        self._contents: list[tuple[Any, ...]] = []
        """The :class:`.finished.Contents` of each, as a plain tuple."""
        self._bodies: dict[int, tuple[CutBody, CutBody]] = {}
        """Their bodies that are not packed, by index."""
        log.flush = self._flush
        log.unfold = self._unfold

    def wall_s(self, moment_s: float) -> float:
        """Return a moment of the clock in unix seconds."""
        return self._wall() - self.now() + moment_s

    def begin(self, app: RecordedApp, head: str, arrived_s: float) -> RecordedRequest:
        """Record a request; the arguments are those of :class:`RecordedRequest`."""
        request = RecordedRequest(self, app, head, arrived_s)
        self.log.add(request)
        return request

    def finished(
        self,
        app: RecordedApp,
        head: str,
        arrived_s: float,
        body: bytes,
        status: int,
        headers: Headers,
        response_body: bytes,
        reason: str | None = None,
    ) -> None:
        """Record a request that nobody has watched and that the app has answered, both in one
        piece.

        Args:
            app: where it went.
            head: its head as the app got it.
            arrived_s: when it came, by the recorder's clock.
            body: its body.
            status: of the answer.
            headers: of the answer.
            response_body: of the answer.
            reason: of the answer; ``None`` for the usual one of the status.
        """
        contents = self._contents
        is_long = len(body) + len(response_body) > self._packed_bytes
        if is_long:
            self._bodies[len(contents)] = self._cut(body), self._cut(response_body)
            body = response_body = b""
        now = self.now()
        contents.append((head, arrived_s, status, reason, headers, now, body, response_body))
        self._apps.append(app)
        if len(contents) >= BATCH or is_long:
            self._flush()

    def _cut(self, body: bytes) -> CutBody:
        return CutBody(body[: self.body_bytes], len(body))

    def _flush(self) -> None:
        """Log what is finished."""
        contents = self._contents
        if not contents:
            return
        buffer = bytearray()
        pack_into(contents, buffer)
        packed = bytes(buffer)
        # So much it takes once somebody has looked at it.
        size = len(packed) + _REQUEST_COST_BYTES * len(contents)
        size += _HEADER_COST_BYTES * sum([len(finished[4]) for finished in contents])
        bodies = self._bodies
        if bodies:
            size += sum(len(body.kept) for pair in bodies.values() for body in pair)
            self._bodies = {}
        apps, self._apps = self._apps, []
        ended_s = contents[-1][5]
        contents.clear()
        self.log.add_batch(Batch(apps, packed, bodies, size, ended_s))

    def _unfold(self, batch: Batch) -> list[RecordedRequest]:
        """Return the requests of a batch."""
        return [
            RecordedRequest.of(self, app, contents, batch.bodies.get(index))
            for index, (app, contents) in enumerate(zip(batch.apps, batch.unpack(), strict=True))
        ]

    def watch(
        self, places: Mapping[Place, float], changed: Callable[[Logged], None]
    ) -> tuple[Watch, list[Logged]]:
        """Tell of all changes at some places from now on; see :meth:`.log.TrafficLog.watch`."""
        for record in list(self.sources):
            record()
        return self.log.watch(places, changed)

    def refuse(
        self,
        lease_id: str,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        *,
        status: int,
        code: str,
        message: str,
    ) -> None:
        """Record a request that was answered before it came to an agent.

        Args:
            lease_id: the lease that it was for; empty if it was for none.
            method: its method.
            path: without the lease's own part, beginning with the address if it has one.
            query: as it came.
            headers: as they came; the tunnel's own token is left out.
            status: the HTTP status of the answer.
            code: the stable code.
            message: why, for people.
        """
        place, path = self.log.locate(lease_id, path) if lease_id else (NOWHERE, path)
        lines = [f"{name}: {value}\r\n" for name, value in headers if _is_the_callers(name, value)]
        target = f"{path}?{query}" if query else path
        head = f"{method} {target} HTTP/1.1\r\n{''.join(lines)}"
        request = self.begin(RecordedApp(place, ""), head, self.now())
        request.ended = True
        request.refused(status, code, message)


def _is_the_callers(name: str, value: str) -> bool:
    """Say whether a header may be shown: none that may hold the tunnel's own token."""
    lower = name.lower()
    if lower == "authorization":
        return not value.lower().startswith("bearer ")
    return lower != _TOKEN_HEADER


def _content(body: bytes | _Body) -> bytes:
    return b"".join(body.pieces) if isinstance(body, _Body) else body


def _fields(head: str) -> list[tuple[str, str]]:
    """Return the header fields of a head that was written for the app."""
    fields = []
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name and name.lower() != _TOKEN_HEADER:
            fields.append((name, value.strip()))
    return fields


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
