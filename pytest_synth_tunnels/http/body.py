"""A chunked request body, piece by piece. No I/O."""

from typing import Final

import httptools

from .request import BadRequest

__all__ = ["ChunkedBody"]

_END: Final = b"\r\n\r\n"
_MAX_OVERHEAD_BYTES: Final = 65_536
"""What chunk extensions and trailers may add to a body..."""
_OVERHEAD_PER_BYTE: Final = 16
"""...and what each byte may add to that: the smallest chunks carry five bytes for each."""


class ChunkedBody:
    """Takes the chunks apart, through llhttp in its strict mode, and drops the trailers.

    llhttp does not say where a message ends within what it was given. The end of a chunked body
    is always an empty line, though, so it is given the bytes up to each empty line in turn, and
    the next message stays untouched.
    """

    def __init__(self) -> None:
        self.ended = False
        """The last chunk and the trailers have come."""
        self._pieces: list[bytes] = []
        self._tail = b""
        """The last bytes taken, which may be the beginning of an empty line."""
        self._overhead = _MAX_OVERHEAD_BYTES
        self._llhttp = httptools.HttpRequestParser(self)
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take a piece from llhttp."""
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Take the end from llhttp."""
        self.ended = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Read on.

        Args:
            data: what came next on the connection.

        Returns:
            The part of the body that it held, and what follows the body (empty until
            :attr:`ended`).

        Raises:
            BadRequest: it is malformed, or mostly something else than a body.
        """
        start = 0
        try:
            while start < len(data) and not self.ended:
                end = self._empty_line(data, start)
                self._llhttp.feed_data(memoryview(data)[start:end])
                start = end
        except httptools.HttpParserError as error:
            reason = error.args[0] if error.args else "malformed"
            raise BadRequest(400, "BAD_REQUEST", f"malformed chunked body: {reason}") from None
        self._tail = (self._tail + data[-3:])[-3:]
        body = b"".join(self._pieces)
        self._pieces.clear()
        self._overhead += _OVERHEAD_PER_BYTE * len(body) - (start - len(body))
        if self._overhead < 0:
            raise BadRequest(431, "HEADERS_TOO_LARGE", "chunk extensions or trailers too large")
        return body, data[start:]

    def _empty_line(self, data: bytes, start: int) -> int:
        """Return where the next empty line ends, or the data does."""
        if start == 0:
            found = (self._tail + data[:3]).find(_END)
            if found >= 0:
                return found + 4 - len(self._tail)
        found = data.find(_END, start)
        return found + 4 if found >= 0 else len(data)
