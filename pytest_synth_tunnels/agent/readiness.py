"""Whether a lease's local apps answer, asked on behalf of whoever wants to know."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ..wire.frames import ReqHeaders
from .app_answer import answer
from .target import Target

if TYPE_CHECKING:
    from .agent import Agent

__all__ = ["Probes"]

_TIMEOUT_S: Final = 2.0


class Probes:
    """The answers to questions at :data:`.served_leases.READY_PATH` that are under way.

    Args:
        agent: it was asked, and answers.
    """

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self._tasks: set[asyncio.Task[None]] = set()
        self._looks: dict[tuple[Target, ...], asyncio.Task[bool]] = {}
        """What is being found out. Who asks meanwhile gets the same answer, so that many questions
        are one for the apps."""

    def ask(self, question: ReqHeaders, targets: Iterable[Target]) -> None:
        """Answer 200 as soon as one of the apps answers, or 503 within two seconds."""
        task = asyncio.create_task(self._answer(question, tuple(targets)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Answer nothing any more."""
        for task in (*self._tasks, *self._looks.values()):
            task.cancel()

    def _look(self, targets: tuple[Target, ...]) -> "asyncio.Task[bool]":
        if targets not in self._looks:
            look = self._looks[targets] = asyncio.create_task(_any_answers(targets))
            look.add_done_callback(lambda _: self._looks.pop(targets))
        return self._looks[targets]

    async def _answer(self, question: ReqHeaders, targets: tuple[Target, ...]) -> None:
        rid, lease_id = question.rid, question.lease_id
        head_only = question.method == "HEAD"
        if await asyncio.shield(self._look(targets)):
            body = b"" if head_only else b'{"status":"ready"}'
            headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
            self._agent.respond(rid, lease_id, 200, headers, body)
            return
        names = ", ".join(target.name for target in targets) or "any target"
        message = f"no app answers on {names} below status 500"
        answer(self._agent, rid, lease_id, 503, "target_unreachable", message, head_only)


async def _any_answers(targets: Iterable[Target]) -> bool:
    return any(await asyncio.gather(*map(_answers, targets)))


async def _answers(target: Target) -> bool:
    """Whether an app answers ``GET /`` below 500 (protocol, section 4)."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            ask = f"GET / HTTP/1.1\r\nHost: {target.host_header}\r\nConnection: close\r\n\r\n"
            writer.write(ask.encode("latin-1", "replace"))
            words = (await reader.readline()).split(None, 2)
    except (OSError, ValueError):  # a timeout is an OSError; a line may be too long
        return False
    finally:
        if writer is not None:
            writer.close()
    return (
        len(words) >= 2
        and words[0].startswith(b"HTTP/1.")
        and words[1].isdigit()
        and int(words[1]) < 500
    )
