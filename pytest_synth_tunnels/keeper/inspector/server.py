"""The HTTP server of the inspector.

It listens on a loopback port of its own, and all that it has lies under a secret in the path, which
is the only thing that lets anybody in. A browser keeps other pages away from it:

- ``Host`` must be the address that the URL names, so that no other name can be made to lead here
  (DNS rebinding), and an ``Origin`` must be its own, so that no other page can send anything here.
- The page runs its own modules and nothing else (Content-Security-Policy and Trusted Types), tells
  nobody where it is (``no-referrer``), is in no frame and in no cache.

A wrong secret gets the same answer as a path that does not exist, and is compared in constant time.

| request | answer |
|---|---|
| ``GET .`` and the page's files | the page |
| ``GET events`` | the list as server-sent events (:mod:`.feed`) |
| ``GET requests/7`` | all of one request |
| ``GET search?text=…&after=0`` | the numbers of requests with a text in a body |
| ``GET har`` | all requests as a HAR file |
| ``POST requests/7/replay`` | sends it again, changed or not (:mod:`.edits`); the new number |
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from ...aio.tasks import spawn
from ...http.connection import HttpLimits
from ...http.errors import error_response
from ...http.exchange import IGNORE, Exchange, RequestHandler
from ...http.headers import Headers, Response
from ...http.refusal_log import log_refusal
from ...http.server import HttpServer
from ...sdk.hinted_error import HintedError
from ...traffic.exchange import InboundRequest
from ...traffic.masking import Masker
from ...traffic.page import LIVE_FILES, live_file, live_page
from ..errors import KeeperRequestError
from ..leases.registry import LeaseRegistry
from ..ports import HOST
from ..traffic import RunTraffic
from .edits import apply_edits
from .feed import EventStream
from .view import TrafficView

__all__ = ["Inspector"]

_log = logging.getLogger(__name__)

_MAX_STREAMS: Final = 16
"""Pages that are open at the same time."""

_MAX_CALLS: Final = 32
"""Requests of pages that wait for their answers."""

_MAX_BODY_BYTES: Final = 12 << 20
"""Of a replay with changes: the largest body that is recorded, as base64, and its headers."""

_MAX_SEARCHED: Final = 1_000
"""Characters of a text to search for."""

_TYPES: Final = {"js": "text/javascript", "css": "text/css"}

_SECURITY: Final[Headers] = [
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        ),
    ),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]

_Call = Callable[[bytes], Awaitable[Response]]
"""Answers a request, given its body."""


class Inspector:
    """See the module's text. It listens from :meth:`open` on, and costs nothing before.

    Args:
        traffic: of the run.
        leases: through which requests are sent again; their secrets are never shown.
    """

    def __init__(self, traffic: RunTraffic, leases: LeaseRegistry) -> None:
        self._traffic = traffic
        self._leases = leases
        self._view = TrafficView(traffic.log, leases.secrets)
        self._masked: set[str] = set()
        """Names of keys besides the usual ones, as globs."""
        self._secret = secrets.token_urlsafe(32)
        self._host = ""
        """What ``Host`` must be."""
        self._http: HttpServer | None = None
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._streams: set[EventStream] = set()
        self._calls: set[_Pending] = set()

    async def open(self, masked: Iterable[str] = ()) -> str:
        """Listen, unless it does already.

        Args:
            masked: names of further keys, as globs, whose values are masked from now on.

        Returns:
            The page's URL, which is a secret.

        Raises:
            KeeperRequestError: nothing is recorded, or this machine lets nobody listen.
        """
        if self._traffic.recorder is None:
            raise KeeperRequestError(
                "TRAFFIC_OFF",
                "this run records no traffic that an inspector could show",
                "Leave out synth_tunnels_traffic = false",
            )
        if not self._masked.issuperset(masked):
            self._masked |= set(masked)
            self._view.masker = Masker(self._masked)
        async with self._opening:
            if self._server is None:
                await self._listen()
        return f"http://{self._host}/{self._secret}/"

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        limits = HttpLimits(max_connections=128, max_unauthenticated=128)
        self._http = HttpServer(self._route, loop=loop, limits=limits)
        try:
            self._server = await loop.create_server(self._http, HOST, 0)
        except OSError as error:
            raise KeeperRequestError(
                "NO_INSPECTOR", f"the inspector cannot listen on {HOST}: {error.strerror or error}"
            ) from None
        self._host = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        """Tell the pages that the run is over, and end. Harmless if it was never opened."""
        for stream in list(self._streams):
            stream.end()
        for call in list(self._calls):
            call.aborted()
        server, self._server = self._server, None
        if server is not None and self._http is not None:
            server.close()
            await asyncio.sleep(0)  # What was written is sent at the end of this tick.
            self._http.close()
            await asyncio.sleep(0)

    # --- requests

    def _route(self, exchange: Exchange) -> RequestHandler:
        head = exchange.head
        origins = [value for name, value in head.headers if name.lower() == "origin"]
        if head.host != self._host or any(one != f"http://{self._host}" for one in origins):
            log_refusal(403, "foreign_origin", "an inspector's caller", head.peer_host)
            message = "the inspector answers its own page alone, at the address of its URL"
            return _answer(exchange, error_response(403, "foreign_origin", message))
        _, secret, *rest = [*head.path.split("/", 2), ""]
        is_right = hmac.compare_digest(secret.encode("latin-1"), self._secret.encode())
        handler = self._handler(exchange, rest[0]) if is_right and len(rest) == 2 else None
        if handler is None:
            message = "there is nothing here"
            return _answer(exchange, error_response(404, "not_found", message))
        return handler

    def _handler(self, exchange: Exchange, path: str) -> RequestHandler | None:
        """Return who answers a request that has shown the secret; ``None`` for nobody."""
        head = exchange.head
        if head.method == "POST":
            number = _number(path, "/replay")
            return None if number is None else self._replay(exchange, number)
        if head.method != "GET":
            return None
        if path == "":
            return _answer(exchange, _text("text/html", live_page()))
        if path in LIVE_FILES:
            kind = _TYPES[path.rpartition(".")[2]]
            return _answer(exchange, _text(kind, live_file(path)))
        if path == "events":
            return self._events(exchange)
        if path == "har":
            return self._call(exchange, self._har)
        if path == "search":
            return self._call(exchange, lambda _: self._search(head.query))
        number = _number(path)
        return None if number is None else self._call(exchange, lambda _: self._detail(number))

    def _events(self, exchange: Exchange) -> RequestHandler:
        recorder = self._traffic.recorder
        if len(self._streams) >= _MAX_STREAMS or recorder is None:
            message = f"{_MAX_STREAMS} pages are open: close one"
            return _answer(exchange, error_response(503, "too_many_pages", message))
        exchange.start_response(200, [("Content-Type", "text/event-stream"), *_SECURITY])
        stream = EventStream(exchange, recorder, self._view, self._streams.discard)
        self._streams.add(stream)
        stream.start()
        return stream

    def _call(self, exchange: Exchange, call: _Call) -> RequestHandler:
        if len(self._calls) >= _MAX_CALLS:
            message = "the inspector has too much to do: try again"
            return _answer(exchange, error_response(503, "busy", message))
        pending = _Pending(exchange, call, self._calls.discard)
        self._calls.add(pending)
        return pending

    async def _detail(self, number: int) -> Response:
        return self._json(await self._view.detail(self._traffic.find(number)))

    async def _search(self, query: str) -> Response:
        asked = parse_qs(query)
        text = asked.get("text", [""])[0][:_MAX_SEARCHED]
        after = asked.get("after", ["0"])[0]
        if not (after.isascii() and after.isdigit()):
            raise ValueError("after must be a number")
        found = await self._view.search(text, int(after[:12]))
        return self._json({"numbers": found})

    async def _har(self, _: bytes) -> Response:
        status, headers, body = _text("application/json", await self._view.har())
        named = ("Content-Disposition", 'attachment; filename="synth-tunnels.har"')
        return status, [*headers, named], body

    def _replay(self, exchange: Exchange, number: int) -> RequestHandler:
        kind = (exchange.head.get("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # No form of another page can send this type.
            message = "the changes must be JSON, and their type application/json"
            return _answer(exchange, error_response(415, "no_json", message))

        async def send(body: bytes) -> Response:
            return self._json({"sequence": await self._send_again(number, body)})

        exchange.continue_()
        return self._call(exchange, send)

    async def _send_again(self, number: int, body: bytes) -> int:
        recorded = self._traffic.find(number)
        try:
            edits = msgspec.json.decode(body, type=dict[str, Any])
        except RecursionError:
            raise ValueError("the changes have more depth than can be walked through") from None
        lease = self._leases.find(recorded.place.lease_id)
        parts = None
        if recorded.websocket:
            raise KeeperRequestError("NOT_REPLAYABLE", "a WebSocket cannot be sent again")
        if edits:
            real = InboundRequest.from_data(msgspec.to_builtins(recorded.data()))
            parts = apply_edits(edits, self._view.masked(recorded), real)
        return (await self._traffic.send_again(recorded, lease, parts)).sequence

    def _json(self, value: object) -> Response:
        return _text("application/json", self._view.encode(value))


class _Pending:
    """One request whose answer takes a while: its body, the work, and the answer."""

    def __init__(
        self, exchange: Exchange, call: _Call, on_end: Callable[["_Pending"], None]
    ) -> None:
        self._exchange = exchange
        self._call = call
        self._on_end = on_end
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None

    def body_received(self, data: bytes) -> None:
        if self._exchange.done:
            return
        self._body += data
        if len(self._body) > _MAX_BODY_BYTES:
            self._body.clear()
            message = f"the request is longer than {_MAX_BODY_BYTES} bytes"
            _answer(self._exchange, error_response(413, "payload_too_large", message))
            self._on_end(self)

    def body_ended(self) -> None:
        if not self._exchange.done:
            self._task = spawn(self._run())

    async def _run(self) -> None:
        try:
            answer = await self._call(bytes(self._body))
        except HintedError as error:
            message = f"{error.message}. {error.hint}" if error.hint else error.message
            answer = error_response(409, error.code, message)
        except ValueError as error:
            answer = error_response(400, "bad_request", str(error))
        except Exception as error:
            _log.error("a request of the inspector's page failed", exc_info=error)
            # Its text may have a part of a body, which is masked nowhere.
            message = f"the keeper failed with {type(error).__name__}; its log says where"
            answer = error_response(500, "internal", message)
        _answer(self._exchange, answer)
        self._on_end(self)

    def aborted(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._on_end(self)

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def half_closed(self) -> bool:
        return True


def _answer(exchange: Exchange, answer: Response) -> RequestHandler:
    """Send an answer with all that keeps it safe."""
    status, headers, body = answer
    own = [pair for pair in headers if pair[0] != "Cache-Control"]
    exchange.respond(status, [*own, *_SECURITY], body)
    return IGNORE


def _text(kind: str, text: str | bytes) -> Response:
    body = text.encode() if isinstance(text, str) else text
    return 200, [("Content-Type", f"{kind}; charset=utf-8")], body


def _number(path: str, end: str = "") -> int | None:
    """Return the number in ``requests/7`` with an end; ``None`` for another path."""
    if not (path.startswith("requests/") and path.endswith(end)):
        return None
    number = path.removeprefix("requests/").removesuffix(end)
    return int(number) if number.isascii() and number.isdigit() and len(number) < 12 else None
