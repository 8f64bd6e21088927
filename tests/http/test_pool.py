"""ConnectionPool, against a small server on a real socket."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from pytest_synth_tunnels.http import client_connection, sockets
from pytest_synth_tunnels.http import pool as pool_module
from pytest_synth_tunnels.http.client_connection import OriginError
from pytest_synth_tunnels.http.headers import Headers
from pytest_synth_tunnels.http.pool import ConnectionPool

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
        self.closed: list[str] = []
        """The callers whose connections the app has ended."""
        self.connections = 0
        self.open = 0
        self.requests = 0
        self.answer = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.writers: list[asyncio.StreamWriter] = []
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Bench":
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.pool = ConnectionPool(
            "127.0.0.1", port, patience_s=0.0, on_app_closed=self._note_closed
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.pool.aclose()
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
        self.writers.append(writer)
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

    def _note_closed(self, caller: str) -> None:
        self.closed.append(caller)
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def get(self, caller: str = "") -> bytes:
        request = Request()
        self.pool.acquire(request, caller=caller)
        async with asyncio.timeout(5):
            await request.done
        return request.body


def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Bench() as bench:
            await scenario(bench)

    asyncio.run(main())


def test_the_requests_of_one_caller_have_one_connection() -> None:
    async def scenario(bench: Bench) -> None:
        assert not bench.pool.accepted
        assert [await bench.get("a") for _ in range(5)] == [b"1"] * 5
        assert bench.pool.accepted
        assert [await bench.get("b") for _ in range(2)] == [b"2"] * 2
        assert await bench.get("a") == b"1"
        assert bench.pool.holds("a")

    run(scenario)


@pytest.mark.parametrize("with_task", [False, True])
def test_many_requests_at_once_all_get_a_connection(
    monkeypatch: pytest.MonkeyPatch, with_task: bool
) -> None:
    if with_task:  # as on uvloop
        monkeypatch.setattr(sockets, "getattr", lambda *_: None, raising=False)

    async def scenario(bench: Bench) -> None:
        bench.gate.clear()
        requests = [Request() for _ in range(50)]
        for number, request in enumerate(requests):
            bench.pool.acquire(request, caller=f"c{number}")
        await bench.until(lambda: bench.requests == 50)
        bench.gate.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*(request.done for request in requests))
        assert len({request.body for request in requests}) == 50

    run(scenario)


def test_requests_without_a_caller_have_a_connection_each() -> None:
    async def scenario(bench: Bench) -> None:
        assert [await bench.get() for _ in range(3)] == [b"1", b"2", b"3"]
        await bench.until(lambda: bench.open == 0)
        assert not bench.pool.holds("")
        assert bench.closed == []

    run(scenario)


def test_a_caller_that_ends_takes_its_connection_with_it() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.get("a")
        await bench.get("b")
        bench.pool.end_caller("a")
        bench.pool.end_caller("a")
        await bench.until(lambda: bench.open == 1)
        assert not bench.pool.holds("a")
        bench.pool.end_callers()
        await bench.until(lambda: bench.open == 0)
        assert bench.closed == []
        assert await bench.get("a") == b"3"

    run(scenario)


def test_a_caller_that_ends_during_its_request_leaves_nothing_behind() -> None:
    async def scenario(bench: Bench) -> None:
        bench.gate.clear()
        request = Request()
        bench.pool.acquire(request, caller="a")
        await bench.until(lambda: bench.requests == 1)
        bench.pool.end_caller("a")
        bench.gate.set()
        await request.done
        assert request.body == b"1"
        await bench.until(lambda: bench.open == 0)
        assert bench.closed == []

    run(scenario)


def test_an_app_that_closes_is_told_and_the_next_request_has_a_new_connection() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.get("a")
        bench.writers[0].close()
        await bench.until(lambda: bench.closed)
        assert bench.closed == ["a"]
        assert not bench.pool.holds("a")
        assert await bench.get("a") == b"2"

    run(scenario)


def shut_down_unseen(writer: asyncio.StreamWriter) -> None:
    """End an app's connection, without a tick in which the loop could tell of it."""
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)


def test_a_close_that_the_loop_has_not_seen_yet_costs_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_connection, "_IDLE_S", 0.0)

    async def scenario(bench: Bench) -> None:
        await bench.get("a")
        shut_down_unseen(bench.writers[0])
        assert await bench.get("a") == b"2"
        assert bench.closed == []

    run(scenario)


def test_a_busy_caller_costs_no_question_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "_IDLE_S", 60.0)

    async def scenario(bench: Bench) -> None:
        assert [await bench.get("a") for _ in range(3)] == [b"1"] * 3
        shut_down_unseen(bench.writers[0])
        with pytest.raises(OriginError, match="without an answer"):
            await bench.get("a")

    run(scenario)


def test_two_requests_at_a_time_never_share_a_connection() -> None:
    async def scenario(bench: Bench) -> None:
        bench.gate.clear()
        first, second = Request(), Request()
        bench.pool.acquire(first, caller="a")
        await bench.until(lambda: bench.requests == 1)
        bench.pool.acquire(second, caller="a")
        await bench.until(lambda: bench.requests == 2)
        bench.gate.set()
        await asyncio.gather(first.done, second.done)
        assert (first.body, second.body) == (b"1", b"2")
        assert await bench.get("a") == b"1"
        await bench.until(lambda: bench.open == 1)

    run(scenario)


def test_so_many_may_be_tied_and_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_MAX_TIED", 2)

    async def scenario(bench: Bench) -> None:
        for caller in "abc":
            await bench.get(caller)
        assert [bench.pool.holds(caller) for caller in "abc"] == [False, True, True]
        await bench.until(lambda: bench.open == 2)

    run(scenario)


def test_a_connection_that_speaks_unasked_is_not_used() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.get("a")
        bench.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await bench.until(lambda: bench.closed)
        assert await bench.get("a") == b"2"

    run(scenario)


def test_a_connection_made_for_nobody_is_closed() -> None:
    async def scenario(bench: Bench) -> None:
        request = Request()
        bench.pool.acquire(request, caller="a")
        bench.pool.cancel(request)
        await bench.until(lambda: bench.connections == 1 and bench.open == 0)
        assert not bench.pool.holds("a")
        assert request.connection is None

    run(scenario)


def test_a_request_that_comes_while_the_last_dial_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a connection takes a task, as with uvloop, the task ends after the connection is in
    use: who comes in between must not be left waiting for it."""
    monkeypatch.setattr(pool_module, "adopts_sockets", lambda _: False)

    async def test(bench: Bench) -> None:
        first, second = Request(), Request()
        bench.pool.acquire(first)
        await first.done
        bench.pool.acquire(second)
        await second.done

    run(test)


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
        assert ConnectionPool("localhost", 80).name == "localhost:80"
        assert ConnectionPool("::1", 80).name == "[::1]:80"
        request = Request()
        pool = ConnectionPool("name.invalid", 80, patience_s=0.0)
        pool.acquire(request)
        with pytest.raises(OriginError, match=r"cannot connect to the app at name\.invalid:80: \w"):
            await request.done
        await pool.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_no_resolver_is_asked_for_localhost(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async def main() -> None:
        try:
            server = await asyncio.start_server(greet, address, 0)
        except OSError:
            pytest.skip(f"there is no {address} here")
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", None)
        async with server:
            port = server.sockets[0].getsockname()[1]
            pool = ConnectionPool("localhost", port, patience_s=0.0)
            request = Request()
            pool.acquire(request)
            async with asyncio.timeout(10):
                await request.done
            assert request.status == 204
            await pool.aclose()

    asyncio.run(main())


def test_a_localhost_that_listens_nowhere_is_refused() -> None:
    async def main() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            pool = ConnectionPool("localhost", unused.getsockname()[1], patience_s=0.0)
            request = Request()
            pool.acquire(request)
            with pytest.raises(OriginError, match="connection refused, nothing listens there"):
                await request.done
            await pool.aclose()

    asyncio.run(main())
