"""Inboxes: which rule answers a request, over real connections."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.inbox import Inboxes, InboxRule


def rule(
    method: str | None = None, path: str | None = None, status: int = 200, body: bytes = b""
) -> InboxRule:
    return InboxRule(method, re.compile(path) if path else None, status, [("X-A", "1")], body, 0.0)


async def ask(
    target: Target, request_line: str, *lines: str, host: str = "", body: bytes = b""
) -> tuple[int, bytes]:
    """Send one request to an inbox; return the status and the body of the answer."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    head = [f"{request_line} HTTP/1.1", f"Host: {host or target.own_host}", "Connection: close"]
    writer.write("\r\n".join([*head, *lines, "", ""]).encode() + body)
    answer = await reader.read()
    writer.close()
    told, _, content = answer.partition(b"\r\n\r\n")
    return int(told.split()[1]), content


def run(scenario: Callable[[Inboxes], Awaitable[None]]) -> None:
    async def main() -> None:
        inboxes = Inboxes()
        try:
            async with asyncio.timeout(20):
                await scenario(inboxes)
        finally:
            await inboxes.aclose()

    asyncio.run(main())


def test_everything_is_answered_with_200() -> None:
    async def scenario(inboxes: Inboxes) -> None:
        target = await inboxes.open("a")
        assert target.is_inbox
        assert await ask(target, "GET /") == (200, b"")
        assert await ask(target, "POST /x", "Content-Length: 3", body=b"abc") == (200, b"")

    run(scenario)


def test_the_last_rule_that_matches_counts() -> None:
    async def scenario(inboxes: Inboxes) -> None:
        target = await inboxes.open("a")
        inboxes.respond("a", rule(status=201), None)
        inboxes.respond("a", rule("POST", "/hooks/[^/]*", 202, b"taken"), None)
        assert await ask(target, "POST /hooks/x") == (202, b"taken")
        assert await ask(target, "GET /hooks/x") == (201, b"")
        assert await ask(target, "POST /hooks/x/y") == (201, b"")

    run(scenario)


def test_a_rule_for_so_many_times() -> None:
    async def scenario(inboxes: Inboxes) -> None:
        target = await inboxes.open("a")
        inboxes.respond("a", rule(status=503), 2)
        answers = [(await ask(target, "GET /"))[0] for _ in range(3)]
        assert answers == [503, 503, 200]

    run(scenario)


def test_inboxes_know_nothing_of_each_other() -> None:
    async def scenario(inboxes: Inboxes) -> None:
        first, second = await inboxes.open("a"), await inboxes.open("b")
        assert first.port == second.port
        inboxes.respond("a", rule(status=418), None)
        assert (await ask(first, "GET /"))[0] == 418
        assert (await ask(second, "GET /"))[0] == 200
        inboxes.close("a")
        inboxes.close("a")
        assert (await ask(first, "GET /"))[0] == 200

    run(scenario)


def test_rules_are_bounded_and_need_an_inbox() -> None:
    async def scenario(inboxes: Inboxes) -> None:
        with pytest.raises(ValueError, match="no inbox 'a'"):
            inboxes.respond("a", rule(), None)
        await inboxes.open("a")
        for _ in range(1_000):
            inboxes.respond("a", rule(), None)
        with pytest.raises(ValueError, match="at most 1000 rules"):
            inboxes.respond("a", rule(), None)

    run(scenario)
