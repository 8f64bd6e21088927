"""TLS in front of a server: handshakes on real sockets, good and bad ones."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trustme

from pytest_synth_tunnels.http.connection import HttpLimits
from pytest_synth_tunnels.http.errors import error_response
from pytest_synth_tunnels.http.exchange import IGNORE, Exchange, RequestHandler
from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.http.tls import TlsGate

AUTHORITY = trustme.CA()
LEAF = AUTHORITY.issue_cert("127.0.0.1")


class Server:
    """An HTTPS server that says how its callers came; it refuses bodies."""

    def __init__(self, http: HttpServer, gate: TlsGate, port: int, close: Callable[[], None]):
        self.http = http
        self.gate = gate
        self.port = port
        self.close = close

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context or trusting()
        )
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def answer(exchange: Exchange) -> RequestHandler:
    if exchange.head.has_body:
        exchange.respond(*error_response(413, "TOO_LARGE", "no bodies here"))
    else:
        said = f"{exchange.head.path} secure={exchange.head.secure}"
        exchange.respond(200, [], said.encode())
    return IGNORE


@asynccontextmanager
async def serving(**options: float) -> AsyncIterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    LEAF.configure_cert(context)
    http = HttpServer(
        answer, loop=asyncio.get_running_loop(), limits=HttpLimits(close_timeout_s=0.5)
    )
    gate = TlsGate(context, **options)  # type: ignore[arg-type]
    connections = http.listener(answer, secure=True)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = gate.serve(sock, connections)

        def close() -> None:
            listener.close()
            connections.close()

        try:
            yield Server(http, gate, sock.getsockname()[1], close)
        finally:
            close()
            http.close()
            await asyncio.sleep(0.01)


def run(test: Callable[[Server], Awaitable[None]], **options: float) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), serving(**options) as server:
            await test(server)

    asyncio.run(main())


GET = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def test_a_request_is_answered_and_known_to_be_secure(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Server) -> None:
        assert (await server.ask(GET)).endswith(b"/x secure=True")
        await server.until(lambda: not server.http.limiter.connections)
        assert server.gate.in_flight == 0

    run(test)
    # asyncio warns of protocols that want a half-closed connection, which TLS has not.
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_a_request_together_with_the_end_of_the_handshake() -> None:
    """TLS 1.3 lets a caller send it in one flight; nothing of it may be lost."""

    async def test(server: Server) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        reader, writer = await server.connect()
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        writer.write(outgoing.read())
        while True:
            incoming.write(await reader.read(65_536))
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        tls.write(GET)
        writer.write(outgoing.read())
        said = b""
        while not said.endswith(b"secure=True"):
            incoming.write(await reader.read(65_536))
            with suppress(ssl.SSLWantReadError):
                while piece := tls.read(65_536):
                    said += piece
        writer.close()

    run(test)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", bytes(600), b"\x16\x03"])
def test_what_is_no_handshake_costs_its_own_connection(data: bytes) -> None:
    async def test(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(data)
        if len(data) < 5:
            writer.write_eof()
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        await server.until(lambda: server.gate.in_flight == 0)
        assert not server.http.limiter.connections
        assert (await server.ask(GET)).endswith(b"secure=True")

    run(test)


def test_a_handshake_that_hangs_is_given_up() -> None:
    async def test(server: Server) -> None:
        reader, writer = await server.connect()
        writer.write(b"\x16\x03\x01")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await server.until(lambda: server.gate.in_flight == 0)

    run(test, handshake_timeout_s=0.1)


def test_too_many_handshakes_cost_the_oldest() -> None:
    async def test(server: Server) -> None:
        idle = []
        for count in (1, 2):
            idle.append(await server.connect())
            await server.until(lambda count=count: server.gate.in_flight == count)  # type: ignore[misc]

        assert (await server.ask(GET)).endswith(b"secure=True")

        with suppress(ConnectionResetError):
            assert await idle[0][0].read() == b""
        assert server.gate.in_flight == 1
        for _, writer in idle:
            writer.close()

    run(test, max_handshakes=2)


def test_connections_are_taken_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.http.tls._ACCEPT_AGAIN_S", 0.01)
    failures = [OSError(24, "Too many open files")]

    async def test(server: Server) -> None:
        loop = asyncio.get_running_loop()
        accept = loop.sock_accept

        async def fail_once(sock: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
            if failures:
                raise failures.pop()
            return await accept(sock)

        monkeypatch.setattr(loop, "sock_accept", fail_once, raising=False)
        assert (await server.ask(GET)).endswith(b"secure=True")
        assert (await server.ask(GET)).endswith(b"secure=True")
        assert failures == []

    run(test)


def test_a_listener_that_closes_takes_its_handshakes_along() -> None:
    async def test(server: Server) -> None:
        reader, writer = await server.connect()
        await server.until(lambda: server.gate.in_flight == 1)
        server.close()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await server.until(lambda: server.gate.in_flight == 0)

    run(test)


def test_an_answer_that_comes_before_the_body_is_read() -> None:
    """A connection that closed at once would take the answer along."""

    def upload(port: int) -> bytes:
        head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", port), 20) as raw,
            trusting().wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(head + bytes(4_000_000))
            return tls.recv(65_536)

    async def test(server: Server) -> None:
        assert (await asyncio.to_thread(upload, server.port)).startswith(b"HTTP/1.1 413 ")

    run(test)
