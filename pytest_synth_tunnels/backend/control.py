"""One HTTP request to the control plane: its body collected, and its answer."""

from typing import Final

from ..http.exchange import IGNORE, Exchange, RequestHandler
from .common import RefusedError
from .routes import Match, Routes, refusal

__all__ = ["MAX_BODY_BYTES", "control"]

MAX_BODY_BYTES: Final = 262_144
"""The largest body that the control plane takes."""


def control(exchange: Exchange, routes: Routes) -> RequestHandler:
    """Check a request by its head alone, and carry it out once its body is complete.

    Args:
        exchange: the request, whose head has come.
        routes: what the control plane can do.

    Returns:
        The handler that collects the body.
    """
    head = exchange.head
    try:
        match = routes.match(head.method, head.path, head.get("authorization"))
        if head.content_length > MAX_BODY_BYTES:
            raise _too_large()
    except RefusedError as error:
        exchange.respond(*refusal(error, head.peer_host))
        return IGNORE
    exchange.continue_()
    return _Control(exchange, routes, match)


class _Control:
    """Collects the body of one request to the control plane, and answers it."""

    def __init__(self, exchange: Exchange, routes: Routes, match: Match) -> None:
        self._exchange = exchange
        self._routes = routes
        self._match = match
        self._body = bytearray()

    def body_received(self, data: bytes) -> None:
        if self._exchange.done:
            return
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            self._body.clear()
            self._exchange.respond(*refusal(_too_large(), self._exchange.head.peer_host))

    def body_ended(self) -> None:
        exchange = self._exchange
        try:
            answer = self._routes.run(self._match, exchange.head.query, bytes(self._body))
        except RefusedError as error:
            answer = refusal(error, exchange.head.peer_host)
        exchange.respond(*answer)

    def aborted(self) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def half_closed(self) -> bool:
        return True


def _too_large() -> RefusedError:
    return RefusedError(413, "payload_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
