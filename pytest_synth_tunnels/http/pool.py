"""The connections to one app: each belongs to one caller's connection, or to one request.

To the app it is as if its callers were connected to it. A caller's connection has a name here,
``caller``. The first request on it makes a connection to the app, which is *tied* to the caller
from then on and carries its later requests, one at a time. The tie ends with either end:

- :meth:`ConnectionPool.end_caller`: the caller's connection has ended, and so the app's is closed;
- the app closes or resets the connection, or says that it will, or a request on it breaks off:
  ``on_app_closed`` tells that, unless the caller has a newer connection by then.

A connection between two requests, of which the app has closed its side already, is not used: the
next request of that caller makes a new one, since nothing of it can have reached the app. A request
without a caller's name has a connection of its own, which is closed behind its response.

No task and no queue per request: a request waits for its connection, and hears everything else from
the parser's callbacks. An app on this machine accepts a connection at once; only dialling another
one is a task. Waiting requests take the connections
that come about in turn, since those are all new.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from ..aio.tick_writer import TickWriter
from ..compiled import mypyc_attr
from .client_connection import ClientConnection, ConnectionWaiter, OriginError
from .sockets import adopts_sockets, connect_at_once, make_transport

__all__ = ["NOBODY_LISTENS", "PATIENCE_S", "ConnectionPool"]

NOBODY_LISTENS: Final = "connection refused, nothing listens there"
"""What is told of an app that refuses connections."""

PATIENCE_S: Final = 4.0
"""How long an app that never accepted a connection is waited for, in seconds. Callers often give up
after 5 s (httpx does), and should hear of the app before."""

RETRY_EVERY_S: Final = 0.05
"""Between attempts while an app that never accepted refuses, in seconds."""

_LOCALHOST: Final = ("127.0.0.1", "::1")
"""What ``localhost`` is, whatever a resolver says. Servers listen at one of the two, or at both."""

_CONNECT_TIMEOUT_S: Final = 10.0
_MAX_TIED = 4096
"""How many connections may be tied to callers. Relays have bounds of their own, below this one."""


_Address = tuple[int, tuple[Any, ...]]
"""A socket's family, and an address as such a socket takes it."""


class _AppStart:
    """Whether an app has ever accepted a connection, as all pools to its host and port know it."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = False


class _Waiting(NamedTuple):
    """What is known of a request that waits for a connection."""

    patience_ends_at: float
    """When it gives up an app that refuses, in the loop's time."""
    caller: str
    """The name of the caller's connection; empty if it is not known."""


@mypyc_attr(allow_interpreted_subclasses=True)  # for tests
class ConnectionPool:
    """The connections to one host and port.

    Args:
        host: name or address.
        port: TCP port.
        patience_s: how long a refused connection is tried again for one request, in seconds, as
            long as the app has never accepted one: it may be starting.
        on_app_closed: called with the name of a caller whose connection to the app has ended by
            the app's doing.
        same_app: another pool to the same host and port; what it knows of the app is shared.

    Attributes:
        host: name or address.
        port: TCP port.
        name: both, for people.
        flush_soon: lets a connection write at the end of this tick of the loop.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        patience_s: float = PATIENCE_S,
        on_app_closed: Callable[[str], None] | None = None,
        same_app: "ConnectionPool | None" = None,
    ) -> None:
        self.host, self.port = host, port
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._start: _AppStart = _AppStart() if same_app is None else same_app._start
        self._patience_s = patience_s
        self._on_app_closed = on_app_closed
        self._loop = asyncio.get_running_loop()
        self._tied: dict[str, ClientConnection] = {}
        """The connections that are tied to a caller, in use or not, by its name."""
        self._waiting: dict[ConnectionWaiter, _Waiting] = {}
        """The requests that wait for a connection, in order of arrival."""
        self.flush_soon = TickWriter(self._loop).flush_soon
        self._hosts = _LOCALHOST if host == "localhost" else (host,)
        """What is dialled, in turn."""
        literals = [_literal(each, port) for each in self._hosts]
        self._addresses = [address for address in literals if address is not None]
        """The addresses, with their families, to which a connection may come about at once; of a
        name that is resolved, the one that has accepted a connection last."""
        self._resolves = not self._addresses
        """The host is a name that only a resolver knows."""
        self._adopts_sockets = adopts_sockets(self._loop)
        self._in_making: set[ClientConnection] = set()
        """The connections that are made, and get their transport in the next tick."""
        self._dials: set[asyncio.Task[Any]] = set()
        """The connections that are being dialled."""
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def accepted(self) -> bool:
        """Whether the app has accepted a connection before, of this pool or of one that shares
        what is known of it."""
        return self._start.accepted

    # --- for the requests

    def acquire(self, waiter: ConnectionWaiter, *, caller: str = "") -> None:
        """Give a request a connection: at once if one is tied to its caller, else a new one.

        Args:
            waiter: its ``connected`` or ``failed`` is called, perhaps before this returns.
            caller: the name of the caller's connection, to tie the connection to; empty for a
                connection of the request's own.
        """
        tied = self._tied.get(caller)
        if tied is not None:
            if tied.use():
                waiter.connected(tied)
                return
            if tied.busy:  # nobody sends two requests at a time on one connection
                caller = ""
            else:
                del self._tied[caller]
                tied.close()
        self._waiting[waiter] = _Waiting(self._loop.time() + self._patience_s, caller)
        if self._retry is None:
            self._dial()

    def cancel(self, waiter: ConnectionWaiter) -> None:
        """Forget a request that still waits for a connection."""
        self._waiting.pop(waiter, None)

    # --- for the callers' connections

    def holds(self, caller: str) -> bool:
        """Return whether a connection is tied to this caller."""
        return caller in self._tied

    def end_caller(self, caller: str) -> None:
        """Close what is tied to a caller whose connection has ended. Harmless if nothing is."""
        tied = self._tied.pop(caller, None)
        if tied is not None:
            tied.caller = ""
            if not tied.busy:
                tied.close()

    def end_callers(self) -> None:
        """Close what is tied to any caller: nothing more is known of them."""
        for caller in list(self._tied):
            self.end_caller(caller)

    # --- for the connections (see ConnectionOwner)

    def connected(self, connection: ClientConnection) -> None:
        """Give a new connection to the request that waits longest."""
        self._start.accepted = True
        self._in_making.discard(connection)
        if not self._waiting:  # it was cancelled meanwhile
            connection.close()
            return
        waiter = next(iter(self._waiting))
        caller = self._waiting.pop(waiter).caller
        if caller and caller not in self._tied:
            self._make_room()
            connection.caller = caller
            self._tied[caller] = connection
        waiter.connected(connection)
        if not self._adopts_sockets:
            # uvloop begins to read after it has told of a connection, paused or not.
            self._loop.call_soon(connection.pause_again)
        if self._retry is None:
            self._dial()

    def release(self, connection: ClientConnection) -> None:
        """Take back a connection whose response is complete."""
        if not connection.caller or self._closed:
            self._tied.pop(connection.caller, None)
            connection.close()

    def forget(self, connection: ClientConnection) -> None:
        """Take note that a connection has ended, or is about to."""
        caller = connection.caller
        if caller and self._tied.get(caller) is connection:
            del self._tied[caller]
            if self._on_app_closed is not None:
                self._on_app_closed(caller)

    # --- for the owner

    @property
    def closed(self) -> bool:
        """Whether nothing is left of it: closed, and no request waits."""
        return self._closed and not (self._waiting or self._dials or self._in_making)

    def close(self) -> None:
        """Close the connections between two requests, and the others once they are done. Requests
        go on."""
        self._closed = True
        self.end_callers()

    async def aclose(self) -> None:
        """Close, fail the requests that wait, and wait for the dialling to end."""
        self.close()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while self._waiting:
            self._give_up("the agent is closing")
        for task in list(self._dials):
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        if self._in_making:
            await asyncio.sleep(0)

    # --- inside

    def _dial(self) -> None:
        """Have as many connections in the making as requests wait, or one while the app refuses."""
        self._retry = None
        while not self._waits_to_retry():
            wanted = len(self._waiting) if self._start.accepted else min(len(self._waiting), 1)
            if len(self._dials) + len(self._in_making) >= wanted:
                break
            if not self._connect_at_once():
                self._dials.add(self._loop.create_task(self._connect()))

    def _waits_to_retry(self) -> bool:
        """Return whether the app has refused, and is tried again soon."""
        return self._retry is not None

    def _connect_at_once(self) -> bool:
        """Connect to an app of this machine, without waiting; return whether it has answered, one
        way or the other."""
        if not self._adopts_sockets:
            return False
        refusals: list[OSError] = []
        for family, address in self._addresses:
            try:
                sock = connect_at_once(family, address)
            except OSError as refusal:
                refusals.append(refusal)
            else:
                if sock is None:
                    return False
                connection = ClientConnection(self)
                self._in_making.add(connection)
                make_transport(self._loop, sock, connection)
                return True
        if self._resolves:  # the name may mean another address by now
            self._addresses = []
            return False
        self._refused(refusals[0])
        return True

    async def _connect(self) -> None:
        """Dial one connection."""
        error: OSError | None = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._open()
        except OSError as refusal:  # a TimeoutError is one
            error = refusal
        finally:
            self._dials.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if error is not None:
            self._refused(error)
        if self._retry is None:
            self._dial()

    async def _open(self) -> None:
        """Dial the host's addresses in turn, until one accepts."""
        refusals: list[OSError] = []
        for host in self._hosts:
            try:
                transport, _ = await self._loop.create_connection(
                    lambda: ClientConnection(self), host, self.port
                )
            except OSError as refusal:
                refusals.append(refusal)
                continue
            sock = transport.get_extra_info("socket")
            if sock is not None and self._resolves:
                self._addresses = [(sock.family, transport.get_extra_info("peername"))]
            return
        raise refusals[0]

    def _make_room(self) -> None:
        """Close the oldest connection that is not in use, if too many are tied."""
        if len(self._tied) >= _MAX_TIED:
            for caller, tied in self._tied.items():
                if not tied.busy:
                    self.end_caller(caller)
                    break

    def _refused(self, error: OSError) -> None:
        """Try again for as long as the first request has patience, or give it up."""
        now = self._loop.time()
        why = _explain(error)
        if self._start.accepted:
            self._give_up(why)
            return
        while self._waiting and next(iter(self._waiting.values())).patience_ends_at <= now:
            self._give_up(f"{why} (tried for {self._patience_s:g} s)")
        if self._waiting:
            self._retry = self._loop.call_later(RETRY_EVERY_S, self._dial)

    def _give_up(self, why: str) -> None:
        """Fail the request that waited longest, if any is left."""
        for waiter in self._waiting:
            del self._waiting[waiter]
            waiter.failed(OriginError(f"cannot connect to the app at {self.name}: {why}"))
            break


def _literal(host: str, port: int) -> _Address | None:
    """Return the address that a host names by itself; ``None`` for a name."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    if "%" in host:  # the interface behind it has to be looked up
        return None
    return (socket.AF_INET, (host, port)) if version == 4 else (socket.AF_INET6, (host, port, 0, 0))


def _explain(error: OSError) -> str:
    """Return what a person needs to know of a failed connection."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_TIMEOUT_S:g} s"
    if error.errno == errno.ECONNREFUSED:
        return NOBODY_LISTENS
    return error.strerror or str(error)
