"""The request under way on a caller's connection, and how its body gets to the handler."""

from math import inf
from typing import TYPE_CHECKING, Final

from .body import ChunkedBody
from .exchange import IGNORE, Exchange
from .outlet import Outlet
from .sockets import is_gone

if TYPE_CHECKING:
    from .server import HttpServer

__all__ = ["Intake"]

_LOOK_S: Final = 1.0
"""How often a caller whose body waits is looked at: it is not read, so its end does not come."""


class Intake(Outlet):
    """Hands bodies on as they are read, unless the handler lets the caller wait. Subclasses find
    where a request begins."""

    def __init__(self, server: "HttpServer") -> None:
        super().__init__(server)
        self._held = b""
        """What was read and not looked at yet."""
        self._exchange: Exchange | None = None
        """The request under way; ``None`` while a head is awaited."""
        self._handler = IGNORE
        self._body_left = 0
        self._body: ChunkedBody | None = None
        """The request's body as long as it is not complete, like ``_body_left``."""
        self._body_paused = False
        self._body_kept = False
        """Nor is that handed on which is read already."""

    def _advance(self) -> None:
        """Work through what was read, as far as it goes."""
        raise NotImplementedError

    def _read_body(self) -> None:
        data, left = self._held, self._body_left
        if len(data) <= left:
            self._held = b""
        else:
            data, self._held = data[:left], data[left:]
        self._body_left = left - len(data)
        self._deliver(data, ended=len(data) == left)

    def _read_chunks(self, body: ChunkedBody) -> None:
        data, self._held = body.feed(self._held)
        if body.ended:
            self._body = None
        self._deliver(data, ended=body.ended)

    def _deliver(self, data: bytes, *, ended: bool) -> None:
        exchange = self._exchange
        if ended:
            self.due_at = inf
            if self._body_paused:
                self._body_paused = self._body_kept = False
                self.transport.resume_reading()
        elif not self._body_paused:
            self.server.deadlines.set(self, self._time() + self._limits.body_timeout_s)
        if data:
            self._handler.body_received(data)
        if ended and self._exchange is exchange and exchange is not None and not exchange.done:
            self._handler.body_ended()

    @property
    def body_at_hand(self) -> int:
        """See :attr:`.exchange.Exchange.body_at_hand`."""
        left = self._body_left
        return left if len(self._held) >= left else 0

    def pause_body(self, *, keep: bool) -> None:
        """Stop reading for the handler's sake (see :meth:`.exchange.Exchange.pause_body`)."""
        if not self._body_paused and (self._body_left or self._body is not None):
            self._body_paused = True
            self._body_kept = keep
            self.server.deadlines.set(self, self._time() + _LOOK_S)
            self.transport.pause_reading()

    def resume_body(self) -> None:
        """Read again."""
        if self._body_paused:
            self._body_paused = self._body_kept = False
            self.server.deadlines.set(self, self._time() + self._limits.body_timeout_s)
            self.transport.resume_reading()
            if self._held:
                self._advance()

    def _close(self, *, read_on: bool) -> None:
        self._held = b""
        super()._close(read_on=read_on)

    def _look(self) -> None:
        """See whether a caller that is not read is still there."""
        if is_gone(self.transport):
            self._lose_exchange()
            self.transport.abort()
        else:
            self.server.deadlines.set(self, self._time() + _LOOK_S)

    def _lose_exchange(self) -> None:
        """End the exchange under way, if there is one, without a response."""
        exchange, self._exchange = self._exchange, None
        handler, self._handler = self._handler, IGNORE
        if exchange is not None and exchange.lose():
            handler.aborted()
