"""Frames over a WebSocket: the :class:`~.link.Link` that leaves the process.

A server answers the upgrade with :func:`accept` and hands its transport to
:meth:`WebSocketLink.adopt`; a client calls :func:`..agent.dialer.connect`.
"""

import asyncio
import socket
from typing import Final, cast

from websockets.protocol import Protocol, State

from .codec import decode, encode
from .endpoint import Endpoint
from .fast_framing import Framing
from .frames import (
    MAX_CHUNK_BYTES,
    Attach,
    AttachAck,
    Frame,
    FrameError,
    ReqBody,
    ReqHeaders,
    RespBody,
    RespHeaders,
    in_pieces,
)
from .handshake import MAX_MESSAGE_BYTES, HandshakeError, accept, explain, server_protocol
from .link import Link, LinkHandler

__all__ = ["HandshakeError", "WebSocketLink", "accept"]

PING_INTERVAL_S: Final = 20.0
"""Between pings; a peer that was silent from one to the next is dead."""

_PROBE_S = 5.0
"""For an answer where there is reason to doubt that the peer is still there."""

_CLOSE_TIMEOUT_S: Final = 2.0
"""For the other end to answer a close frame."""

_WRITE_BUFFER_BYTES: Final = 512 * 1024
"""Above it the handler is asked to pause its bodies."""

_MAX_BACKLOG_BYTES = 64 * 1024 * 1024
"""A peer that lets this much wait is gone: frames that are no bodies are never held back."""

_QUICK_ACK: Final = getattr(socket, "TCP_QUICKACK", None)


class WebSocketLink(Endpoint, Link):
    """One end of a WebSocket that carries frames (see :class:`~.link.Link`).

    Args:
        protocol: the state machine; by default a server's, its handshake done.
        handler: takes what arrives; may be replaced at any time through :attr:`handler`.
        quick_ack: acknowledge at once on TCP. For a peer that writes a response in several small
            pieces with Nagle's algorithm on, which would wait 40 ms for each acknowledgement.
    """

    def __init__(
        self,
        protocol: Protocol | None = None,
        handler: LinkHandler | None = None,
        *,
        quick_ack: bool = True,
    ) -> None:
        super().__init__(protocol or server_protocol(MAX_MESSAGE_BYTES), asyncio.get_running_loop())
        self.handler = handler
        """Takes what arrives. Frames that arrive while there is none are lost."""
        self._framing = Framing(self._protocol, MAX_MESSAGE_BYTES)
        self.quick_ack = quick_ack and _QUICK_ACK is not None
        """Whether to acknowledge at once."""
        self.opened: asyncio.Future[None] = self._loop.create_future()
        """A client's handshake."""
        self.gone: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, once nothing more will come."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done once there is no connection any more, which may be a while later."""
        self._opening = self._protocol.state is State.CONNECTING
        self._socket: socket.socket | None = None
        self._whole_messages = False
        """The other end takes a whole message in one frame, as it announced in the frame by which
        it attached."""
        self._silenced = False
        """The handler has heard the last of this link: it was lost, or closed from here."""
        self._unwritten = 0
        """Bytes of what was said in this tick."""
        self._read_paused = False
        self._heard = True
        """Something arrived since the last ping."""
        self._timer: asyncio.TimerHandle | None = None
        """The next ping, or, after a close frame was sent, the end of the wait for the answer."""

    # --- Link

    def send(self, frame: Frame, *, at_once: bool = False) -> None:
        """Send one frame (see :class:`~.link.Link`)."""
        if self._silenced:
            return
        if isinstance(frame, (ReqHeaders, RespHeaders)):
            if frame.end and not self._whole_messages:
                *first, last = in_pieces(frame)
                for piece in first:
                    self.send(piece)
                frame = last
        elif isinstance(frame, (RespBody, ReqBody)) and len(frame.chunk) > MAX_CHUNK_BYTES:
            kind, chunk = type(frame), frame.chunk
            for start in range(0, len(chunk), MAX_CHUNK_BYTES):
                part = chunk[start : start + MAX_CHUNK_BYTES]
                self.send(kind(frame.rid, part, lease_id=frame.lease_id))
            return
        message = encode(frame)
        self._framing.send_text(message)
        self._unwritten += len(message)
        if self._unwritten > _WRITE_BUFFER_BYTES and not self._write_paused:
            # Only what is written can tell the handler to pause, and it must before the tick ends:
            # every stream may have something to send in this one.
            self._flush()
        elif self._flush_due:
            return
        elif at_once and not self._write_paused:
            self._flush()
        else:
            self._flush_soon()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the link with a WebSocket close code. The handler is not told."""
        if self._silenced:
            return
        self._silenced = True
        # The other end's own close may have come in the read that is being handled now.
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:120].decode(errors="ignore"))
        self._flush()

    def abort(self) -> None:
        """End the connection without a word, to the handler neither."""
        self._silenced = True
        super().abort()

    def probe(self) -> None:
        """Ask at once whether the other end is still there, and do not wait long for an answer."""
        if self._silenced or self._timer is None or self._protocol.state is not State.OPEN:
            return
        self._timer.cancel()
        self._ping_again_in(_PROBE_S)

    def pause_reading(self) -> None:
        """Let the other end wait (see :class:`~.link.Link`)."""
        self._read_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on after :meth:`pause_reading`."""
        self._read_paused = False
        self._heard = True
        if self._transport is not None:
            self._transport.resume_reading()

    # --- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the client's handshake, and the pings."""
        super().connection_made(transport)
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._socket = transport.get_extra_info("socket")
        if self._socket is not None and self._socket.family in (socket.AF_INET, socket.AF_INET6):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.quick_ack = False
        self._timer = self._loop.call_later(PING_INTERVAL_S, self._beat)
        if self._opening:
            self._flush()

    def data_received(self, data: bytes) -> None:
        """Hand every frame in ``data`` to the handler."""
        self._heard = True
        if self.quick_ack and self._socket is not None and _QUICK_ACK is not None:
            # The kernel forgets it again and again, so it is said with every read.
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        protocol = self._protocol
        messages = self._framing.receive(data)
        if self._opening:
            self._check_handshake()
        for message in messages:
            self._message(message)
        if protocol.writes or protocol.state is not State.OPEN:
            self._flush()
        if protocol.close_rcvd is not None:
            self._lost(f"closed by the other end: {protocol.close_rcvd}")
        elif protocol.parser_exc is not None:
            self._lost(f"protocol error: {protocol.parser_exc}")

    def eof_received(self) -> None:
        """Let the transport close: :meth:`connection_lost` tells the handler."""
        self._protocol.receive_eof()
        if self._opening:
            self._check_handshake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler, unless it knows."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport = self._socket = None
        reason = f"connection lost: {exc}" if exc else "connection closed without a close frame"
        if self._opening and not self.opened.done():
            self._silenced = True
            self.opened.set_exception(ConnectionResetError(reason))
        self._lost(reason)
        if not self.gone.done():
            self.gone.set_result("closed from this end")
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Pass the transport's wish on."""
        super().pause_writing()
        if not self._silenced and self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass the transport's wish on."""
        super().resume_writing()
        if not self._silenced and self.handler is not None:
            self.handler.resume_writing()

    # --- inside

    def _check_handshake(self) -> None:
        """End a client's handshake, well or badly, once the answer is complete."""
        error = self._protocol.handshake_exc
        if error is None and self._protocol.state is State.CONNECTING:
            return
        self._opening = False
        if self.opened.done():  # cancelled: nobody waits for it any more
            return
        if error is None:
            self.opened.set_result(None)
            return
        self._silenced = True
        self.opened.set_exception(explain(error))

    def _message(self, data: bytes) -> None:
        """Hand one message to the handler, as the frame that it is."""
        if self._silenced or self.handler is None:
            return
        try:
            frame = decode(data)
        except FrameError as error:
            self.handler.frame_failed(error)
            return
        if frame is None:
            return
        if isinstance(frame, (Attach, AttachAck)):
            self._whole_messages = frame.capabilities.whole_messages
            if frame.capabilities.flow_control:
                self.quick_ack = False  # one of ours: it writes whole ticks, without Nagle
        self.handler.frame_received(frame)

    def _written(self, transport: asyncio.Transport) -> None:
        """Bound what comes after a write: the close of the other end, or its silence."""
        self._unwritten = 0
        if self._protocol.close_expected():
            self._expect_close()
        elif self._write_paused and transport.get_write_buffer_size() > _MAX_BACKLOG_BYTES:
            self._lost(f"the other end reads nothing: {_MAX_BACKLOG_BYTES >> 20} MiB wait")
            transport.abort()

    def _expect_close(self) -> None:
        """Bound the wait for the other end to close."""
        if self._timer is not None:
            self._timer.cancel()
        if self._read_paused:
            self.resume_reading()
        self._timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self.abort)

    def _beat(self) -> None:
        """Ping, or give a silent peer up. A peer that we do not read is not silent."""
        if not self._heard and not self._read_paused:
            self._lost("no answer to a ping")
            self.abort()
            return
        self._ping_again_in(PING_INTERVAL_S)

    def _ping_again_in(self, seconds: float) -> None:
        """Ping; it must be answered by the next time."""
        self._heard = False
        self._timer = self._loop.call_later(seconds, self._beat)
        if self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"synth")
            self._flush()

    def _lost(self, reason: str) -> None:
        """Tell the handler once that nothing more will come."""
        if self._silenced:
            return
        self._silenced = True
        if not self.gone.done():
            self.gone.set_result(reason)
        if self.handler is not None:
            self.handler.link_lost(reason)
