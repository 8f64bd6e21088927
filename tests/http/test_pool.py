"""Origin: the pool of connections, against a small server on a real socket."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pytest_synth_tunnels.aio.deadlines import Deadlines
from pytest_synth_tunnels.http import pool as origin_module
from pytest_synth_tunnels.http.client_connection import ClientConnection
from pytest_synth_tunnels.http.pool import MAX_IDLE_S, ConnectionPool
from pytest_synth_tunnels.http.response import OriginError
from pytest_synth_tunnels.wire.frames import Headers

from ..support.manual_loop import Wire


class Request:
    """A responder that sends one GET and keeps the answer."""

    def __init__(self) -> None:
        self.connection: ClientConnection | None = None
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connected(self, connection: ClientConnection) -> None:
        self.connection = connection
        connection.begin(self, b"GET / HTTP/1.1\r\n\r\n", head_only=False, complete=True)

    def response_started(self, status: int, headers: Headers, located: bool) -> None:
        self.status, self.headers = status, headers

    def response_body(self, data: bytes) -> None:
        self.body += data

    def response_paused(self) -> None:
        pass

    def response_ended(self) -> None:
        self.done.set_result(None)

    def failed(self, error: OriginError) -> None:
        self.done.set_exception(error)

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


class Bench:
    """An origin and its server, which answers each request with the number of its connection."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self.loop)
        self.connections = 0
        self.open = 0
        self.requests = 0
        self.answer = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.greeting = b""
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Bench":
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.origin = ConnectionPool("127.0.0.1", port, self.deadlines, patience_s=0.0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.origin.aclose()
        self.deadlines.close()
        self.server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        number = b"%d" % self.connections
        writer.write(self.greeting)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                self._changed.set()
                await self.gate.wait()
                if self.answer:
                    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(number)
                    writer.write(head + number)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._changed.set()
            writer.close()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def get(self) -> bytes:
        request = Request()
        self.origin.submit(request)
        async with asyncio.timeout(5):
            await request.done
        return request.body


def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Bench() as bench:
            await scenario(bench)

    asyncio.run(main())


def test_one_connection_serves_one_request_after_the_other() -> None:
    async def scenario(bench: Bench) -> None:
        assert not bench.origin.accepted
        assert [await bench.get() for _ in range(5)] == [b"1"] * 5
        assert bench.origin.accepted

    run(scenario)


def test_requests_at_the_same_time_have_their_own_and_the_youngest_is_reused() -> None:
    async def scenario(bench: Bench) -> None:
        requests = [Request() for _ in range(4)]
        bench.gate.clear()
        for request in requests:
            bench.origin.submit(request)
        await bench.until(lambda: bench.requests == 4)
        bench.gate.set()
        await asyncio.gather(*(request.done for request in requests))
        assert sorted(request.body for request in requests) == [b"1", b"2", b"3", b"4"]
        last = await bench.get()
        assert [await bench.get() for _ in range(3)] == [last] * 3

    run(scenario)


def test_an_old_idle_connection_is_neither_used_nor_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(bench: Bench) -> None:
        now = bench.loop.time()
        monkeypatch.setattr(bench.loop, "time", lambda: now)
        assert await bench.get() == b"1"
        now += MAX_IDLE_S * 1.1
        assert await bench.get() == b"2"
        now += MAX_IDLE_S * 1.1
        bench.origin.expire()
        await bench.until(lambda: bench.open == 0)

    run(scenario)


def test_the_deadlines_close_what_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_module, "MAX_IDLE_S", 0.01)

    async def scenario(bench: Bench) -> None:
        requests = [Request() for _ in range(2)]
        for request in requests:
            bench.origin.submit(request)
        await asyncio.gather(*(request.done for request in requests))
        await bench.until(lambda: bench.open == 0)
        assert bench.connections == 2

    run(scenario)


def test_a_connection_that_speaks_unasked_is_not_used() -> None:
    async def scenario(bench: Bench) -> None:
        bench.answer = False
        request = Request()
        bench.origin.submit(request)
        await bench.until(lambda: bench.connections == 1)
        assert request.connection is not None
        request.connection.abandon()
        bench.answer, bench.greeting = True, b"HTTP/1.1 408 Request Timeout\r\n\r\n"
        # A connection made for nobody: its greeting comes while it is idle.
        bench.origin.submit(request)
        bench.origin.withdraw(request)
        await bench.until(lambda: bench.connections == 2 and bench.open == 0)
        bench.greeting = b""
        assert await bench.get() == b"3"

    run(scenario)


def test_who_wants_a_fresh_connection_gets_no_used_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        bench.gate.clear()
        first, fresh, other = Request(), Request(), Request()
        bench.origin.submit(first)
        await bench.until(lambda: bench.requests == 1)
        connect, may_dial = bench.loop.create_connection, asyncio.Event()

        async def dial(*args: object) -> object:
            await may_dial.wait()
            return await connect(*args)  # type: ignore[call-overload]

        monkeypatch.setattr(bench.loop, "create_connection", dial)
        bench.origin.submit(fresh, fresh=True)
        bench.origin.submit(other)
        bench.gate.set()
        await asyncio.gather(first.done, other.done)
        assert (first.body, other.body, fresh.connection) == (b"1", b"1", None)
        may_dial.set()
        await fresh.done
        assert fresh.body == b"2"

    run(scenario)


def test_a_withdrawn_request_leaves_its_connection_to_the_next() -> None:
    async def scenario(bench: Bench) -> None:
        gone, request = Request(), Request()
        bench.origin.submit(gone)
        bench.origin.withdraw(gone)
        bench.origin.submit(request)
        await request.done
        assert bench.connections == 1
        assert gone.connection is None

    run(scenario)


def test_a_closed_origin_serves_who_waits_and_keeps_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        request = Request()
        bench.origin.submit(request)
        bench.origin.close()
        assert not bench.origin.closed
        await request.done
        assert bench.origin.closed
        await bench.until(lambda: bench.open == 0)

    run(scenario)


def test_closing_fails_who_waits() -> None:
    async def scenario(bench: Bench) -> None:
        request = Request()
        bench.origin.submit(request)
        await bench.origin.aclose()
        with pytest.raises(OriginError, match="the agent is closing"):
            await request.done

    run(scenario)


def test_names_are_for_people() -> None:
    async def main() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        assert ConnectionPool("localhost", 80, deadlines).name == "localhost:80"
        assert ConnectionPool("::1", 80, deadlines).name == "[::1]:80"
        request = Request()
        origin = ConnectionPool("name.invalid", 80, deadlines, patience_s=0.0)
        origin.submit(request)
        with pytest.raises(OriginError, match=r"cannot connect to the app at name\.invalid:80: \w"):
            await request.done
        await origin.aclose()

    asyncio.run(main())


class Begun(Request):
    """A responder that begins when the test says so."""

    def connected(self, connection: ClientConnection) -> None:
        self.connection = connection

    def begin(self, connection: ClientConnection, data: bytes, *, at_once: bool = False) -> None:
        connection.begin(self, data, head_only=False, complete=True, at_once=at_once)


class Line(Wire):
    """A transport that takes its protocol's wishes."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def wired(bench: Bench) -> tuple[ClientConnection, Line]:
    """Return a connection to an app that says what the test does."""
    connection, wire = ClientConnection(bench.origin), Line()
    connection.connection_made(wire)
    return connection, wire


def test_requests_of_one_tick_are_written_together_at_its_end() -> None:
    async def scenario(bench: Bench) -> None:
        ends = [wired(bench) for _ in range(3)]
        for number, (connection, _) in enumerate(ends):
            Begun().begin(connection, b"head %d" % number)
        assert [wire.take() for _, wire in ends] == [b"", b"", b""]
        await asyncio.sleep(0)
        assert [wire.take() for _, wire in ends] == [b"head 0", b"head 1", b"head 2"]

    run(scenario)


def test_a_lone_request_is_written_at_once() -> None:
    async def scenario(bench: Bench) -> None:
        connection, wire = wired(bench)
        Begun().begin(connection, b"head", at_once=True)
        assert wire.take() == b"head"

    run(scenario)


def test_a_body_follows_the_head_that_it_belongs_to() -> None:
    async def scenario(bench: Bench) -> None:
        connection, wire = wired(bench)
        Begun().begin(connection, b"head")
        connection.write(b"body")
        assert wire.take() == b""
        await asyncio.sleep(0)
        assert (wire.take(), wire.writes) == (b"headbody", 1)
        connection.write(b"more")
        assert wire.take() == b"more"

    run(scenario)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_an_answer_that_came_before_its_request_ends_the_connection() -> None:
    async def scenario(bench: Bench) -> None:
        connection, wire = wired(bench)
        request = Begun()
        request.begin(connection, b"head")
        connection.data_received(ANSWER)
        assert wire.aborted
        assert not bench.origin._idle
        await asyncio.sleep(0)
        assert wire.take() == b""

    run(scenario)


@pytest.mark.parametrize("how", ["abandoned", "malformed", "lost"])
def test_a_request_that_ends_before_it_was_written_never_is(how: str) -> None:
    async def scenario(bench: Bench) -> None:
        connection, wire = wired(bench)
        request = Begun()
        request.begin(connection, b"head")
        if how == "abandoned":
            connection.abandon()
        elif how == "malformed":
            connection.data_received(b"no HTTP")
        else:
            connection.connection_lost(None)
        await asyncio.sleep(0)
        assert wire.take() == b""
        if how != "abandoned":
            with pytest.raises(OriginError):
                await request.done

    run(scenario)
