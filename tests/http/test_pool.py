"""ConnectionPool, against a small server on a real socket."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pytest_synth_tunnels.aio.deadlines import Deadlines
from pytest_synth_tunnels.http import pool as pool_module
from pytest_synth_tunnels.http.client_connection import OriginError
from pytest_synth_tunnels.http.headers import Headers
from pytest_synth_tunnels.http.pool import MAX_IDLE_S, ConnectionPool

from ..support.responses import Response


class Request(Response):
    """One GET, and its end."""

    def __init__(self) -> None:
        super().__init__()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def response_ended(self, trailers: Headers) -> None:
        super().response_ended(trailers)
        self.done.set_result(None)

    def failed(self, error: OriginError) -> None:
        super().failed(error)
        self.done.set_exception(error)


class Bench:
    """A pool and its server, which answers each request with the number of its connection."""

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
        self.pool = ConnectionPool("127.0.0.1", port, self.deadlines, patience_s=0.0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.pool.aclose()
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
        self.pool.acquire(request)
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
        assert not bench.pool.accepted
        assert [await bench.get() for _ in range(5)] == [b"1"] * 5
        assert bench.pool.accepted

    run(scenario)


def test_requests_at_the_same_time_have_their_own_and_the_youngest_is_reused() -> None:
    async def scenario(bench: Bench) -> None:
        requests = [Request() for _ in range(4)]
        bench.gate.clear()
        for request in requests:
            bench.pool.acquire(request)
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
        bench.pool.expire()
        await bench.until(lambda: bench.open == 0)

    run(scenario)


def test_the_deadlines_close_what_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_IDLE_S", 0.01)

    async def scenario(bench: Bench) -> None:
        requests = [Request() for _ in range(2)]
        for request in requests:
            bench.pool.acquire(request)
        await asyncio.gather(*(request.done for request in requests))
        await bench.until(lambda: bench.open == 0)
        assert bench.connections == 2

    run(scenario)


def test_a_connection_that_speaks_unasked_is_not_used() -> None:
    async def scenario(bench: Bench) -> None:
        bench.answer = False
        request = Request()
        bench.pool.acquire(request)
        await bench.until(lambda: bench.connections == 1)
        assert request.connection is not None
        request.connection.abandon()
        bench.answer, bench.greeting = True, b"HTTP/1.1 408 Request Timeout\r\n\r\n"
        # A connection made for nobody: its greeting comes while it is idle.
        bench.pool.acquire(request)
        bench.pool.cancel(request)
        await bench.until(lambda: bench.connections == 2 and bench.open == 0)
        bench.greeting = b""
        assert await bench.get() == b"3"

    run(scenario)


def test_who_wants_a_fresh_connection_gets_no_used_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        bench.gate.clear()
        first, fresh, other = Request(), Request(), Request()
        bench.pool.acquire(first)
        await bench.until(lambda: bench.requests == 1)
        connect, may_dial = bench.loop.create_connection, asyncio.Event()

        async def dial(*args: object) -> object:
            await may_dial.wait()
            return await connect(*args)  # type: ignore[call-overload]

        monkeypatch.setattr(bench.loop, "create_connection", dial)
        bench.pool.acquire(fresh, fresh=True)
        bench.pool.acquire(other)
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
        bench.pool.acquire(gone)
        bench.pool.cancel(gone)
        bench.pool.acquire(request)
        await request.done
        assert bench.connections == 1
        assert gone.connection is None

    run(scenario)


def test_a_closed_pool_serves_who_waits_and_keeps_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        request = Request()
        bench.pool.acquire(request)
        bench.pool.close()
        assert not bench.pool.closed
        await request.done
        assert bench.pool.closed
        await bench.until(lambda: bench.open == 0)

    run(scenario)


def test_closing_fails_who_waits() -> None:
    async def scenario(bench: Bench) -> None:
        request = Request()
        bench.pool.acquire(request)
        await bench.pool.aclose()
        with pytest.raises(OriginError, match="the agent is closing"):
            await request.done

    run(scenario)


def test_names_are_for_people() -> None:
    async def main() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        assert ConnectionPool("localhost", 80, deadlines).name == "localhost:80"
        assert ConnectionPool("::1", 80, deadlines).name == "[::1]:80"
        request = Request()
        pool = ConnectionPool("name.invalid", 80, deadlines, patience_s=0.0)
        pool.acquire(request)
        with pytest.raises(OriginError, match=r"cannot connect to the app at name\.invalid:80: \w"):
            await request.done
        await pool.aclose()

    asyncio.run(main())
