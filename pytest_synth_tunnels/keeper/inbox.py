"""The server behind inboxes: it answers for an app that is not there.

One server on loopback answers for all inboxes of a run. Each inbox is the target of an address, and
the ``Host`` that its target names tells which. It answers every request with 200, unless a rule
says otherwise.
"""

import asyncio
import re
from typing import Final, NamedTuple

from ..agent.target import TARGET, Target
from ..http.exchange import Exchange
from ..http.headers import Headers
from ..http.server import HttpServer
from .ports import HOST

__all__ = ["InboxRule", "Inboxes"]

_BACKLOG: Final = 1_024
_MAX_RULES: Final = 1_000


class InboxRule(NamedTuple):
    """How some requests to an inbox are answered.

    Attributes:
        method: of the requests; ``None`` for any.
        path: matches all of the path; ``None`` for any.
        status: of the answer.
        headers: of the answer.
        body: of the answer.
        delay_s: how long the answer waits after the end of the request, in seconds.
    """

    method: str | None
    path: re.Pattern[str] | None
    status: int
    headers: Headers
    body: bytes
    delay_s: float

    def matches(self, method: str, path: str) -> bool:
        """Say whether a request is one of those. A HEAD is answered as a GET, without the body."""
        methods = (None, method, "GET") if method == "HEAD" else (None, method)
        return self.method in methods and (
            self.path is None or self.path.fullmatch(path) is not None
        )


_DEFAULT: Final = InboxRule(None, None, 200, [], b"", 0.0)


class _CountedRule:
    """A rule, and how often it may still be used."""

    def __init__(self, rule: InboxRule, times: int | None) -> None:
        self.rule = rule
        self.left = times


class Inboxes:
    """All inboxes of a run. The server starts with the first one."""

    def __init__(self) -> None:
        self._rules: dict[str, list[_CountedRule]] = {}
        """By address; the last one that matches counts."""
        self._http: HttpServer | None = None
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()

    async def open(self, address: str) -> Target:
        """Make an inbox.

        Args:
            address: names it.

        Returns:
            Where its requests are to be brought.

        Raises:
            OSError: this machine lets nobody listen.
        """
        async with self._starting:
            if self._server is None:
                loop = asyncio.get_running_loop()
                self._http = HttpServer(self._route, loop=loop)
                self._server = await loop.create_server(self._http, HOST, 0, backlog=_BACKLOG)
        self._rules[address] = []
        port = self._server.sockets[0].getsockname()[1]
        return Target(HOST, port, named_host=address, host_header=TARGET, is_inbox=True)

    def close(self, address: str) -> None:
        """Forget an inbox. Harmless if there is none."""
        self._rules.pop(address, None)

    def respond(self, address: str, rule: InboxRule, times: int | None) -> None:
        """Add a rule.

        Args:
            address: the inbox.
            rule: comes before all earlier ones.
            times: how often it is used; ``None`` for always.

        Raises:
            ValueError: there is no such inbox, or it has too many rules.
        """
        rules = self._rules.get(address)
        if rules is None:
            raise ValueError(f"there is no inbox {address!r}, or no more")
        if len(rules) >= _MAX_RULES:
            raise ValueError(f"an inbox has at most {_MAX_RULES} rules")
        rules.append(_CountedRule(rule, times))

    def _route(self, exchange: Exchange) -> "_Answer":
        exchange.continue_()
        return _Answer(exchange, self._find(exchange))

    def _find(self, exchange: Exchange) -> InboxRule:
        """Return the rule for a request, and count it."""
        head = exchange.head
        rules = self._rules.get(head.host, [])
        for counted in reversed(rules):
            if counted.rule.matches(head.method, head.path):
                if counted.left is not None:
                    counted.left -= 1
                    if counted.left <= 0:
                        rules.remove(counted)
                return counted.rule
        return _DEFAULT

    async def aclose(self) -> None:
        """End the server."""
        server, self._server = self._server, None
        if server is not None and self._http is not None:
            server.close()
            self._http.close()
            await asyncio.sleep(0)  # The transports tell of their end in the next tick.


class _Answer:
    """Drops the body of one request to an inbox, and answers it at its end."""

    def __init__(self, exchange: Exchange, rule: InboxRule) -> None:
        self._exchange = exchange
        self._rule = rule
        self._timer: asyncio.TimerHandle | None = None

    def body_received(self, data: bytes) -> None: ...

    def body_ended(self) -> None:
        if self._rule.delay_s > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._rule.delay_s, self._respond)
        else:
            self._respond()

    def _respond(self) -> None:
        rule = self._rule
        self._exchange.respond(rule.status, rule.headers, rule.body)

    def aborted(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def half_closed(self) -> bool:
        return True
