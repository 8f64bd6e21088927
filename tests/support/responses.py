"""What asks an app, and who owns the connection, where a test needs one."""

import asyncio

from pytest_synth_tunnels.http.client_connection import ClientConnection, OriginError
from pytest_synth_tunnels.http.headers import Headers

from .manual_loop import Wire

REQUEST = b"GET / HTTP/1.1\r\n\r\n"


class Response:
    """A response handler that keeps what it is told."""

    def __init__(self) -> None:
        self.connection: ClientConnection | None = None
        self.interims: list[tuple[int, Headers]] = []
        self.status = 0
        self.reason: str | None = None
        self.headers: Headers = []
        self.body = b""
        self.trailers: Headers = []
        self.ended = False
        self.refused = False
        self.error: OriginError | None = None
        self.pauses = 0
        """How often the rest of a response that had begun did not come with it."""
        self.writing = True
        self.upgraded: tuple[Headers, asyncio.Transport, bytes] | None = None

    def connected(self, connection: ClientConnection) -> None:
        self.connection = connection
        connection.begin(self, REQUEST, head_only=False, complete=True)

    def response_interim(self, status: int, headers: Headers) -> None:
        assert not self.status
        self.interims.append((status, headers))

    def response_started(
        self, status: int, reason: str | None, headers: Headers, located: bool
    ) -> None:
        assert not self.status
        self.status, self.reason, self.headers = status, reason, headers

    def response_body(self, data: bytes) -> None:
        assert self.status
        self.body += data

    def response_paused(self) -> None:
        self.pauses += 1

    def response_ended(self, trailers: Headers) -> None:
        assert not self.over
        self.ended, self.trailers = True, trailers

    def request_refused(self) -> None:
        self.refused = True

    def response_upgraded(
        self, headers: Headers, transport: asyncio.Transport, received: bytes
    ) -> None:
        assert not self.over
        self.upgraded = headers, transport, received

    def failed(self, error: OriginError) -> None:
        assert not self.over
        self.error = error

    def pause_writing(self) -> None:
        self.writing = False

    def resume_writing(self) -> None:
        self.writing = True

    @property
    def over(self) -> bool:
        """Whether the last thing was told."""
        return self.ended or self.error is not None or self.upgraded is not None


class Owner:
    """What a connection belongs to, with nothing behind it."""

    name = "app.test:80"

    def __init__(self) -> None:
        self.made: list[ClientConnection] = []
        self.released: list[ClientConnection] = []
        self.forgotten: list[ClientConnection] = []
        self.unwritten: list[ClientConnection] = []

    def connected(self, connection: ClientConnection) -> None:
        self.made.append(connection)

    def release(self, connection: ClientConnection) -> None:
        self.released.append(connection)

    def forget(self, connection: ClientConnection) -> None:
        self.forgotten.append(connection)

    def flush_soon(self, connection: ClientConnection) -> None:
        self.unwritten.append(connection)

    def tick(self) -> None:
        """End a tick of the loop."""
        unwritten, self.unwritten = self.unwritten, []
        for connection in unwritten:
            connection.flush()


class AppWire(Wire):
    """A transport to an app, which takes its protocol's wishes."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass
