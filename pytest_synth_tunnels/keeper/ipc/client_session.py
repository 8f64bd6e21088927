"""The keeper's end of a connection: the mutual proof, then requests and their answers in turn."""

import asyncio
import hmac
import logging
import os
import secrets
import string
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from ...sdk.hinted_error import HintedError
from .holders import Holder, Holders
from .messages import Challenge, Event, Failure, Hello, Message, Welcome, decode, encode, proof

__all__ = ["Answer", "ClientSession"]

_log = logging.getLogger(__name__)

_HANDSHAKE_TIMEOUT_S: Final = 10.0
_WRITE_TIMEOUT_S: Final = 10.0
_MAX_UNREAD_BYTES: Final = 1 << 20
"""A process that leaves this much unread gets no more events."""

_MAX_PID: Final = (1 << 31) - 1
_ADDRESS_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "_.-")
_MAX_ADDRESS: Final = 64

Answer = Message | AsyncGenerator[bytes, None]
"""A message; or lines that are sent as they come, until they end or the process sends or closes
anything. An error that they raise is an answer too, and the last one."""

Answerer = Callable[[Holder, Message], Awaitable[Answer]]
"""Answers a request of a holder; raises a :class:`HintedError`, or a :class:`ValueError`."""


class ClientSession:
    """The keeper's end of one connection from a pytest process.

    Args:
        reader: reads what the process sends.
        writer: writes what the process gets.
        pid: of the keeper, for the Welcome.
        secret: of the run file.
        holders: counts the process once it has proved that it knows the secret.
        answer: answers its requests, see :data:`Answerer`.

    Attributes:
        holder: the process, once it has proved that it belongs to the run.
        idle: set while no request waits for its answer.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        pid: int,
        secret: str,
        holders: Holders,
        answer: Answerer,
    ) -> None:
        self.holder: Holder | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self._reader = reader
        self._writer = writer
        self._pid = pid
        self._secret = secret
        self._holders = holders
        self._answer = answer
        self._wants_events = False

    async def run(self) -> None:
        """Talk until the process closes the connection or breaks the protocol."""
        try:
            async with asyncio.timeout(_HANDSHAKE_TIMEOUT_S):
                await self._greet()
            await self._serve()
        except (OSError, ValueError) as error:  # TimeoutError and a line too long among them
            _log.info("a connection ended: %s", error or type(error).__name__)
        finally:
            if self.holder is not None:
                self._holders.leave(self.holder, self)
            self.abort()

    async def _greet(self) -> None:
        nonce = secrets.token_hex(16)
        await self._write(Challenge(nonce=nonce))
        hello = decode(await self._reader.readline())
        if not isinstance(hello, Hello):
            raise ValueError(f"expected Hello, got {type(hello).__name__}")
        expected = proof(self._secret, "process", nonce)
        if not hmac.compare_digest(hello.proof.encode(), expected.encode()):
            raise ValueError(
                "Hello: the proof is wrong, so the process does not know this run's secret"
            )
        if not _is_address(hello.address) or not 0 < hello.pid <= _MAX_PID:
            raise ValueError(
                f"Hello: address {hello.address[:_MAX_ADDRESS]!r} or pid {hello.pid} is not valid"
            )
        self._wants_events = hello.wants_events
        self.holder = self._holders.join(hello.pid, hello.address, self)
        await self._write(Welcome(proof=proof(self._secret, "keeper", hello.nonce), pid=self._pid))

    async def _serve(self) -> None:
        """Answer each request before the next one, but notice at once when the process closes."""
        line = asyncio.create_task(self._reader.readline())
        try:
            while request := await line:
                self.idle.clear()
                line = asyncio.create_task(self._reader.readline())
                answering = asyncio.create_task(self._respond(request))
                await asyncio.wait({answering, line}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done() and line.exception() is None and not line.result():
                    answering.cancel()
                    return  # the process has closed, so that nobody waits for the answer
                answer = await answering
                if isinstance(answer, Message):
                    await self._write(answer)
                else:
                    await self._write_lines(answer, line)
                self.idle.set()
        finally:
            self.idle.set()
            line.cancel()

    async def _write_lines(
        self, lines: AsyncGenerator[bytes, None], interruption: "asyncio.Task[bytes]"
    ) -> None:
        """Send lines as they come, until they end or the process sends or closes anything.

        There is no time limit for the process to read them: a test may stand in a debugger.
        """

        async def send() -> None:
            try:
                async with aclosing(lines):
                    async for line in lines:
                        self._writer.write(line)
                        await self._writer.drain()
            except OSError:
                raise  # of the connection
            except Exception as error:
                await self._write(_failure(error))

        sending = asyncio.create_task(send())
        await asyncio.wait({sending, interruption}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            sending.cancel()
            await asyncio.wait({sending})
        else:
            await sending

    async def _respond(self, line: bytes) -> Answer:
        assert self.holder is not None  # noqa: S101 - it said hello before
        try:
            return await self._answer(self.holder, decode(line))
        except Exception as error:
            return _failure(error)

    async def _write(self, message: Message) -> None:
        self._writer.write(encode(message))
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await self._writer.drain()

    def tell(self, event: Event) -> None:
        """Tell the process something that it did not ask, if it wants events here."""
        transport = self._writer.transport
        if not self._wants_events or transport.is_closing():
            return
        if transport.get_write_buffer_size() < _MAX_UNREAD_BYTES:
            self._writer.write(encode(event))

    def keep_open_until_exit(self) -> None:
        """Let the connection close when the keeper's process has ended, and not before: this is
        how the other end learns of it."""
        if os.name == "posix" and not self._writer.transport.is_closing():
            os.dup(self._writer.get_extra_info("socket").fileno())

    def abort(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()


def _failure(error: Exception) -> Failure:
    """Return what a process is told of an error."""
    if isinstance(error, HintedError):
        return Failure(code=error.code, message=error.message, hint=error.hint)
    if isinstance(error, ValueError):
        return Failure(code="BAD_REQUEST", message=str(error), hint="")
    _log.error("a request failed", exc_info=error)
    message = f"the keeper failed: {error!r}"
    return Failure(code="TUNNEL_INTERNAL", message=message, hint="Its log says more")


def _is_address(text: str) -> bool:
    """Whether it can be a part of a URL: ``gw1``, or nothing."""
    return len(text) <= _MAX_ADDRESS and _ADDRESS_CHARACTERS.issuperset(text)
