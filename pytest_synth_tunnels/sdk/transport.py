"""Asynchronous HTTP straight to one backend, for httpx.

httpx's own pool compares every waiting call with every connection each time one of them changes:
500 calls at once, which a backend answers in 100 ms, take it 10 s. Here a call takes the idle
connection on top of a stack, or makes one.
"""

import asyncio
import ssl
from typing import Final, cast

import httptools
import httpx

__all__ = ["MAX_ANSWER_BYTES", "MAX_CONNECTIONS", "DirectTransport"]

MAX_CONNECTIONS: Final = 512
"""Calls beyond these wait their turn, for as long as it takes."""

MAX_ANSWER_BYTES: Final = 64 << 20
"""Nothing that the API answers comes near."""

_MAX_IDLE_S: Final = 3.0
"""Well below what servers wait, so that a connection hardly ever dies in the hands of a call."""

_HAPPY_EYEBALLS_DELAY_S: Final = 0.25


class DirectTransport(httpx.AsyncBaseTransport):
    """Sends requests over connections of its own; for one event loop and one origin.

    The timeouts of a request hold for connecting and for everything else, not for each read.

    Args:
        ssl_context: for https.
    """

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[_Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and return the whole answer."""
        timeouts = request.extensions.get("timeout", {})
        # A body is JSON here, never a stream.
        body = await request.aread()
        async with self._slots:
            connection = self._take_idle() or await self._connect(request, timeouts.get("connect"))
            try:
                async with asyncio.timeout(timeouts.get("read")):
                    answer = await connection.exchange(_head(request) + body)
            except TimeoutError:
                connection.abort()
                raise httpx.ReadTimeout("no answer in time") from None
            except BaseException:  # the call was cancelled: its answer would be the next one's
                connection.abort()
                raise
            if connection.reusable:
                connection.idle_since = self._loop.time()
                self._idle.append(connection)
            return answer

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().abort()
        await asyncio.sleep(0)  # the event loop closes sockets in its next round

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and self._loop.time() - connection.idle_since < _MAX_IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self, request: httpx.Request, timeout_s: float | None) -> "_Connection":
        url = request.url
        # Plain http is for loopback alone, where there is nothing to race.
        is_https = url.scheme == "https"
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await self._loop.create_connection(
                    _Connection,
                    url.raw_host.decode("ascii"),
                    url.port or (443 if is_https else 80),
                    ssl=self._ssl_context if is_https else None,
                    happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY_S if is_https else None,
                )
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except OSError as error:  # a failed TLS handshake is one too
            raise httpx.ConnectError(str(error)) from None
        return connection


def _head(request: httpx.Request) -> bytes:
    lines = [
        b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path),
        *(b"%s: %s" % header for header in request.headers.raw),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One connection, and the one exchange that is under way on it.

    Attributes:
        reusable: whether it can take another exchange.
        idle_since: when the last one ended, on the loop's clock.
    """

    def __init__(self) -> None:
        self.reusable = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[httpx.Response] | None = None

    async def exchange(self, request: bytes) -> httpx.Response:
        """Send a request and wait for its whole answer.

        Raises:
            httpx.RequestError: the connection broke, or what came is not HTTP.
        """
        if self._transport.is_closing():
            raise httpx.RemoteProtocolError("the backend hung up without an answer")
        self.reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._received_bytes = 0
        self._has_head = False
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def abort(self) -> None:
        """Close at once."""
        self.reusable = False
        self._transport.abort()

    # --- asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_busy():
            self.abort()  # nobody asked
            return
        self._received_bytes += len(data)
        if self._received_bytes > MAX_ANSWER_BYTES:
            self._fail(httpx.RemoteProtocolError(f"over {MAX_ANSWER_BYTES} bytes"))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if not self._is_busy():
            return
        if error is not None:
            self._fail(httpx.ReadError(str(error)))
        elif self._has_head and not self._is_delimited():
            self._finish()
        else:
            what = "in the middle of its answer" if self._received_bytes else "without an answer"
            self._fail(httpx.RemoteProtocolError(f"the backend hung up {what}"))

    # --- the parser calls

    def on_message_begin(self) -> None:
        if not self._is_busy():
            self.abort()  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # informational: the answer is still to come
            self._headers, self._has_head = [], False
            return
        self.reusable = self._parser.should_keep_alive()
        self._finish()

    # ---

    def _is_busy(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def _is_delimited(self) -> bool:
        """Whether the head says where the body ends; without that, the connection's end does."""
        names = {name.lower() for name, _ in self._headers}
        return not names.isdisjoint((b"content-length", b"transfer-encoding"))

    def _finish(self) -> None:
        response = httpx.Response(
            self._parser.get_status_code(),
            headers=self._headers,
            stream=httpx.ByteStream(bytes(self._body)),
        )
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)
        if not self.reusable:
            self.abort()

    def _fail(self, error: httpx.RequestError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()
