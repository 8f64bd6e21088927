"""The keeper's end of one connection, with a process that says what the test wants."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.ipc.client_session import ClientSession
from pytest_synth_tunnels.keeper.ipc.holders import Holder, Holders
from pytest_synth_tunnels.keeper.ipc.messages import (
    Challenge,
    Done,
    Event,
    Failure,
    Hello,
    Message,
    Port,
    ReservePort,
    WaitReady,
    Welcome,
    decode,
    encode,
    proof,
)
from pytest_synth_tunnels.sdk.errors import TunnelError

SECRET = "5ec7e7"
EVENT = Event(kind="offline", lease_id="lease_1", shared=True, message="cut off")


class Process:
    """The other end of the connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, holders: Holders
    ) -> None:
        self.reader, self.writer, self.holders = reader, writer, holders

    async def read(self) -> Message | None:
        async with asyncio.timeout(10):
            line = await self.reader.readline()
        return decode(line) if line else None

    def send(self, *messages: Message) -> None:
        self.writer.write(b"".join(map(encode, messages)))

    async def greet(self, **fields: Any) -> Message | None:
        challenge = await self.read()
        assert isinstance(challenge, Challenge)
        right = {
            "proof": proof(SECRET, "process", challenge.nonce),
            "nonce": "n",
            "pid": 1,
            "address": "gw1",
            "wants_events": True,
        }
        self.send(Hello(**(right | fields)))
        return await self.read()

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


async def nothing(_: Holder, message: Message) -> Message:
    return Done() if isinstance(message, ReservePort) else Port(port=1)


@asynccontextmanager
async def talking(
    answer: Callable[[Holder, Message], Awaitable[Message]] = nothing,
) -> AsyncIterator[Process]:
    holders = Holders(lambda _: None)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ClientSession(
            reader, writer, pid=7, secret=SECRET, holders=holders, answer=answer
        ).run()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 20)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield Process(reader, writer, holders)
    finally:
        writer.close()
        server.close()
        holders.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


def test_both_prove_that_they_know_the_secret() -> None:
    async def work() -> None:
        async with talking() as process:
            assert await process.greet() == Welcome(proof=proof(SECRET, "keeper", "n"), pid=7)
            assert [(one.pid, one.address) for one in process.holders] == [(1, "gw1")]

    run(work)


@pytest.mark.parametrize(
    ("fields", "logged"),
    [
        ({"proof": "0" * 64}, "does not know this run's secret"),
        ({"pid": 0}, "pid 0 is not valid"),
        ({"pid": 1 << 40}, "is not valid"),
        ({"address": "a/b"}, "address 'a/b'"),
        ({"address": "a" * 65}, "is not valid"),
    ],
)
def test_who_proves_nothing_is_not_heard(
    fields: dict[str, Any], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with talking() as process:
            assert await process.greet(**fields) is None
            assert not len(process.holders)

    caplog.set_level("INFO")
    run(work)

    assert logged in caplog.text


def test_another_message_than_hello_is_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with talking() as process:
            process.send(ReservePort())
            assert isinstance(await process.read(), Challenge)
            assert await process.closed()

    caplog.set_level("INFO")
    run(work)

    assert "expected Hello, got ReservePort" in caplog.text


def test_requests_are_answered_in_turn() -> None:
    async def work() -> None:
        async with talking() as process:
            await process.greet()
            process.send(ReservePort(), WaitReady(lease_id="x", timeout_s=1.0), ReservePort())
            assert [await process.read() for _ in range(3)] == [Done(), Port(port=1), Done()]

    run(work)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            KeeperRequestError("NO", "there is none", "Make one"),
            ("NO", "there is none", "Make one"),
        ),
        (TunnelError("refused", code="TUNNEL_DENIED"), ("TUNNEL_DENIED", "refused", "")),
        (ValueError("ttl_s must be above 0"), ("BAD_REQUEST", "ttl_s must be above 0", "")),
        (
            RuntimeError("a fault"),
            ("TUNNEL_INTERNAL", "the keeper failed: RuntimeError('a fault')", "Its log says more"),
        ),
    ],
)
def test_what_a_request_raises_is_its_answer(
    error: Exception, failure: tuple[str, str, str]
) -> None:
    async def fail(_: Holder, __: Message) -> Message:
        raise error

    async def work() -> None:
        async with talking(fail) as process:
            await process.greet()
            for _ in range(2):
                process.send(ReservePort())
                code, message, hint = failure
                assert await process.read() == Failure(code=code, message=message, hint=hint)

    run(work)


def test_a_line_that_is_no_message_fails_alone() -> None:
    async def work() -> None:
        async with talking() as process:
            await process.greet()
            process.writer.write(json.dumps({"type": "Hello", "pid": "1"}).encode() + b"\n")
            refused = await process.read()
            assert isinstance(refused, Failure)
            assert refused.message.startswith("Hello: missing field ")
            process.send(ReservePort())
            assert await process.read() == Done()

    run(work)


def test_nobody_is_answered_who_has_closed() -> None:
    async def work() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def wait(_: Holder, __: Message) -> Message:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return Done()

        async with talking(wait) as process:
            await process.greet()
            process.send(ReservePort())
            async with asyncio.timeout(10):
                await begun.wait()
                process.writer.close()
                await cancelled.wait()

    run(work)


@pytest.mark.parametrize("wants_events", [True, False])
def test_events_go_where_they_are_wanted(wants_events: bool) -> None:
    async def work() -> None:
        async with talking() as process:
            await process.greet(wants_events=wants_events)
            for holder in process.holders:
                holder.tell(EVENT)
            process.send(ReservePort())
            assert await process.read() == (EVENT if wants_events else Done())

    run(work)
